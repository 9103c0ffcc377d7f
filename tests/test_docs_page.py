"""/docs: the page that reads /openapi.json. It needs nothing from elsewhere, and it shows every operation."""

from __future__ import annotations

import asyncio
import re
from importlib import resources
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from gateway.api.operations import OPERATIONS
from tests.browser import CHROMIUM, OPTIONS, page
from tests.credentials import SECRET, token
from tests.harness import LiveGateway, live_gateway

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def _parts() -> dict[str, str]:
    folder = resources.files("gateway.api").joinpath("page")
    return {part.name: part.read_text(encoding="utf-8") for part in folder.iterdir()}


def _named_in(html: str) -> set[str]:
    return set(re.findall(r'(?:href|src)="([^"#]+)"', html))


async def test_the_page_may_load_from_here_only(gateway: LiveGateway) -> None:
    for path in ("/docs", "/docs/app.js", "/docs/style.css"):
        reply = await gateway.get(path)
        assert reply.status_code == 200
        policy = dict(one.strip().split(" ", 1) for one in reply.headers["content-security-policy"].split(";"))
        assert policy == _POLICY
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["x-frame-options"] == "DENY"


async def test_every_part_the_page_names_is_served(gateway: LiveGateway) -> None:
    page = await gateway.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    waiting, seen = {urljoin("/docs", name) for name in _named_in(page.text)}, set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        reply = await gateway.get(path)
        assert reply.status_code == 200, path
        if path.endswith(".js"):
            assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
            imported = {urljoin(path, name) for name in re.findall(r'from "(\./[^"]+)"', reply.text)}
            waiting |= imported - seen
    assert seen == {"/openapi.json", *(f"/docs/{name}" for name in _parts() if name != "index.html")}


async def test_the_page_works_below_a_prefix() -> None:
    # A proxy may put the gateway below a path of its own: what the page names is relative.
    assert not [name for name in _named_in(_parts()["index.html"]) if name.startswith("/") or urlsplit(name).scheme]


@pytest.mark.parametrize("name", ["..%2Fdocs.py", "%2e%2e", "index.html", "page", "app.js%00", "APP.JS"])
async def test_nothing_but_its_parts_is_served(gateway: LiveGateway, name: str) -> None:
    assert (await gateway.get(f"/docs/{name}")).status_code == 404


def test_nothing_is_loaded_from_elsewhere() -> None:
    for name, text in _parts().items():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        assert "@import" not in text


def test_data_never_becomes_html() -> None:
    for name, text in _parts().items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", text), name
        assert not re.search(r"<[^>]+\s(on\w+|style)=", text), name


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to render the page with")
async def test_the_rendered_page_shows_every_operation(gateway: LiveGateway, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    browser = await asyncio.create_subprocess_exec(
        CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--virtual-time-budget=5000",
        "--dump-dom", f"{gateway.url}/docs",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        dom, log = (text.decode() for text in await asyncio.wait_for(browser.communicate(), 60))
    finally:
        if browser.returncode is None:
            browser.kill()
            await browser.wait()
    complaints = [line for line in log.splitlines() if "CONSOLE" in line or "Content Security Policy" in line]
    assert complaints == []
    contents, main = dom.split("<main", 1)
    for operation in OPERATIONS:
        assert f'href="#{operation.id}"' in contents, operation.id
        assert f'<section class="operation" id="{operation.id}"' in main, operation.id
        assert operation.path in main
    assert main.count("curl ") >= len(OPERATIONS)
    assert f"curl '{gateway.url}/tasks'" in main
    assert "[object " not in main
    assert "undefined" not in main


def test_the_token_is_read_from_its_field_alone() -> None:
    kept = re.compile(r"localStorage|sessionStorage|indexedDB|document\.cookie|history\.|location\.\w+ *=[^=]")
    assert [name for name, text in _parts().items() if kept.search(text)] == []
    assert '<input type="password" id="token" autocomplete="off"' in _parts()["index.html"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to send requests from")
async def test_a_token_is_sent_but_shown_and_kept_nowhere(redis_url: str, tmp_path: Path) -> None:
    secret = token(scope="tasks:read")
    section = "document.getElementById('listTasks')"
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway, page(tmp_path) as one:
        await one.open(f"{gateway.url}/docs", f"{section} !== null")

        async def send() -> str:
            await one.value(f"{section}.querySelector('form').requestSubmit()")
            await one.until(f"/^[1-5]/.test({section}.querySelector('.result strong')?.textContent || '')")
            found: str = await one.value(f"{section}.querySelector('.result').textContent")
            await one.value(f"{section}.querySelector('.result').replaceChildren()")
            return found

        assert "GATEWAY_TOKEN" not in await one.value(f"{section}.querySelector('.curl').textContent")
        assert (await send()).startswith("401")
        await one.type("#token", secret)
        line = await one.value(f"{section}.querySelector('.curl').textContent")
        assert '-H "Authorization: Bearer $GATEWAY_TOKEN"' in line
        assert "GATEWAY_TOKEN" not in await one.value("document.querySelector('#getHealth .curl').textContent")
        assert (await send()).startswith("200")
        everywhere = (
            "document.documentElement.outerHTML + location.href + document.cookie + document.title"
            " + JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + JSON.stringify(history.state)"
        )
        assert secret not in await one.value(everywhere)
        refused = [text for text in one.complaints if "401" not in text]
        assert refused == []
        await one.ask("Page.reload")
        await one.until(f"{section} !== null && document.getElementById('token').value === ''")
