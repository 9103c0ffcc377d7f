"""Pages of other sites: refused, unless their origin was named; and what a browser is told."""

from __future__ import annotations

import asyncio

import pytest

from tests.credentials import SECRET, admin
from tests.harness import LiveGateway, live_gateway

PAGE = "https://app.example"
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
CROSS = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": PAGE + ".evil.example"},
    {"Origin": "https://evil.example/" + PAGE},
    {"Origin": PAGE.upper()},
    {"Origin": ""},
    {"Sec-Fetch-Site": "Same-Origin"},
    {"Sec-Fetch-Site": ""},
)


def allowed(headers: object) -> list[str]:
    return [name for name in dict(headers) if name.lower().startswith("access-control-")]  # type: ignore[call-overload]


@pytest.mark.parametrize("headers", CROSS, ids=str)
@pytest.mark.parametrize("origins", [None, PAGE])
async def test_pages_of_other_sites_are_refused_and_change_nothing(
    redis_url: str, headers: dict[str, str], origins: str | None
) -> None:
    """Also where nobody is asked who they are: a browser can reach what its user can."""
    async with live_gateway(redis_url, cors_origins=origins) as gateway:
        for content_type in ("application/json", "text/plain"):
            body = b'{"job_type":"demo"}'
            reply = await gateway.client.post("/tasks", content=body, headers={**headers, "Content-Type": content_type})
            assert (reply.status_code, reply.json()["code"]) == (403, "forbidden_origin")
            assert allowed(reply.headers) == []
        for path in ("/tasks", "/health", "/metrics", "/poll?worker_id=w&task_type=demo&wait=0", "/openapi.json"):
            assert (await gateway.get(path, headers=headers)).status_code == 403, path
        assert (await gateway.get("/tasks")).json()["tasks"] == []


async def test_a_preflight_is_refused_unless_its_origin_was_named(redis_url: str) -> None:
    async with live_gateway(redis_url) as gateway:
        reply = await gateway.client.options("/tasks", headers={"Origin": PAGE, **ASK})
        assert reply.status_code in (403, 405)
        assert allowed(reply.headers) == []
        assert (await gateway.client.options("/tasks")).status_code == 405
    async with live_gateway(redis_url, cors_origins=f"http://localhost:3000, {PAGE}", jwt_secret=SECRET) as gateway:
        for path, methods in (("/tasks", {"GET", "HEAD", "POST"}), ("/tasks/x~1", {"DELETE", "PATCH"})):
            reply = await gateway.client.options(path, headers={"Origin": PAGE, **ASK})
            assert reply.status_code == 204
            assert reply.content == b""
            assert reply.headers["Access-Control-Allow-Origin"] == PAGE
            assert set(reply.headers["Access-Control-Allow-Methods"].split(", ")) >= methods
            names = reply.headers["Access-Control-Allow-Headers"].split(", ")
            assert {"authorization", "content-type", "idempotency-key", "prefer"} <= set(names)
            assert int(reply.headers["Access-Control-Max-Age"]) > 0
            assert reply.headers["Vary"] == "origin"
            # Cookies are never asked for, and no page may send them along.
            assert "Access-Control-Allow-Credentials" not in reply.headers
        for other in ("https://evil.example", "null", PAGE + ":444", PAGE + "/", "https://app.example.evil"):
            reply = await gateway.client.options("/tasks", headers={"Origin": other, **ASK})
            assert reply.status_code == 403
            assert allowed(reply.headers) == []


async def test_a_page_whose_origin_was_named_reads_replies_and_refusals(redis_url: str) -> None:
    async with live_gateway(redis_url, cors_origins=PAGE, jwt_secret=SECRET) as gateway:
        page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
        for headers, status in (({**page, **admin()}, 200), (page, 401)):
            reply = await gateway.get("/tasks", headers=headers)
            assert reply.status_code == status
            assert reply.headers["Access-Control-Allow-Origin"] == PAGE
            assert reply.headers["Access-Control-Expose-Headers"] == "*"
            assert reply.headers["Vary"] == "origin"
        # A cache must not hand the page's reply to another.
        assert (await gateway.get("/tasks", headers=admin())).headers["Vary"] == "origin"


async def test_ones_own_pages_and_programs_are_let_in(gateway: LiveGateway) -> None:
    host = gateway.url.partition("://")[2]
    for headers in (
        {}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": gateway.url},
        {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"}, {"Origin": f"https://{host}"},
    ):  # fmt: skip
        reply = await gateway.post("/tasks", {"job_type": "demo"}, headers=headers)
        assert reply.status_code == 201, headers
        assert allowed(reply.headers) == []


async def test_helpful_headers_are_on_every_reply(gateway: LiveGateway) -> None:
    for method, path in (
        ("GET", "/tasks"),
        ("GET", "/nothing"),
        ("PUT", "/tasks"),
        ("GET", "/health"),
        ("GET", "/docs"),
    ):
        reply = await gateway.client.request(method, path)
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "Cache-Control" in reply.headers
        assert "Server" not in reply.headers
        if "text/html" in reply.headers["Content-Type"]:
            policy = reply.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy


async def test_an_origin_that_is_nobodys_is_not_the_host_that_was_left_out(gateway: LiveGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /tasks HTTP/1.0\r\nOrigin: null\r\n\r\n")
    assert (await reader.read(-1)).startswith(b"HTTP/1.1 403 ")
    writer.close()


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded"])
async def test_what_a_proxy_passes_on_is_refused_while_nobody_is_asked(redis_url: str, name: str) -> None:
    async with live_gateway(redis_url) as gateway:
        refused = await gateway.get("/tasks", headers={name: "203.0.113.9"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden_forward")
        assert (await gateway.get("/health", headers={name: "203.0.113.9"})).status_code == 200
    async with live_gateway(redis_url, auth="none") as gateway:
        assert (await gateway.get("/tasks", headers={name: "203.0.113.9"})).status_code == 200
