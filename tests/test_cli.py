"""The `gateway` command as scripts and people call it: words, JSON, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from gateway import __version__
from tests.harness import LiveGateway, live_gateway

PROJECT = Path(__file__).parents[1]


class Ended:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


async def command(url: str | None, *arguments: str, stdin: str = "", **env: str) -> Ended:
    """Run `gateway` with these arguments, against this gateway."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS_", "GATEWAY_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *arguments,
        env={**clean, "PYTHONPATH": str(PROJECT), "COLUMNS": "200", **({"GATEWAY_URL": url} if url else {}), **env},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def closed_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_health_says_ok(gateway: LiveGateway) -> None:
    ended = await command(gateway.url, "health")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == "ok"
    assert "queue_depth" in ended.out


async def test_health_in_json_is_what_the_gateway_said(gateway: LiveGateway) -> None:
    ended = await command(gateway.url, "health", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["status"] == "ok"


async def test_an_unhealthy_gateway_is_1(gateway: LiveGateway) -> None:
    gateway.app.manager.close()
    ended = await command(gateway.url, "health")
    assert ended.code == 1
    assert "draining" in ended.out


async def test_no_gateway_at_all_is_3_and_says_what_to_do() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    for arguments in (("health",), ("enqueue", "demo"), ("get", "demo~1")):
        ended = await command(url, *arguments)
        assert ended.code == 3
        assert url in ended.err
        assert "Traceback" not in ended.err


async def test_the_address_is_taken_from_the_option_or_the_settings(gateway: LiveGateway) -> None:
    assert (await command("http://127.0.0.1:1", "health", "--url", gateway.url)).code == 0
    assert (await command(None, "health", HOST="127.0.0.1", PORT=str(gateway.port))).code == 0
    assert (await command("ftp://127.0.0.1", "health")).code == 2


async def test_enqueue_prints_the_id_and_get_shows_the_task(gateway: LiveGateway) -> None:
    ended = await command(gateway.url, "enqueue", "demo", '{"hello": "world"}', "--title", "T", "--priority", "high")
    assert (ended.code, ended.err) == (0, "")
    (id,) = ended.out.split()
    found = await command(gateway.url, "get", id)
    assert found.code == 0
    for word in (id, "demo", "pending", "high", "hello"):
        assert word in found.out
    (task,) = await gateway.poll()
    assert (task["id"], task["payload"], task["title"], task["priority"]) == (id, {"hello": "world"}, "T", "high")


async def test_json_is_one_document_that_can_be_read(gateway: LiveGateway) -> None:
    task = json.loads((await command(gateway.url, "enqueue", "demo", "--json", "--delay", "60")).out)
    assert (task["status"], task["payload"]) == ("scheduled", None)
    found = json.loads((await command(gateway.url, "get", task["id"], "--json")).out)
    assert found["id"] == task["id"]


async def test_a_payload_goes_as_it_was_typed(gateway: LiveGateway) -> None:
    for payload in ("1.0", "12345678901234567890", '"\u00e9"'):
        ended = await command(gateway.url, "enqueue", "demo", "-", stdin=payload)
        assert ended.code == 0, ended.err
        reply = await gateway.get("/poll?worker_id=w1&task_type=demo&wait=0")
        assert f'"payload":{payload},' in reply.text


async def test_get_waits_for_the_end(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    getting = asyncio.create_task(command(gateway.url, "get", task["id"], "--wait", "20", "--json"))
    (leased,) = await gateway.poll()
    await gateway.report(leased, "complete", result=42)
    ended = await getting
    assert ended.code == 0
    assert json.loads(ended.out)["result"] == 42


async def test_a_refusal_is_1_with_its_code_and_words(gateway: LiveGateway) -> None:
    ended = await command(gateway.url, "get", "demo~nobody")
    assert (ended.code, ended.out) == (1, "")
    assert "task_not_found" in ended.err
    ended = await command(gateway.url, "get", "demo~nobody", "--json")
    assert (ended.code, json.loads(ended.out)["code"]) == (1, "task_not_found")


async def test_a_full_queue_is_1(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=1) as gateway:
        assert (await command(gateway.url, "enqueue", "demo")).code == 0
        ended = await command(gateway.url, "enqueue", "demo")
        assert ended.code == 1
        assert "task pool is full" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("enqueue", "demo", "{not json"),
        ("enqueue",),
        ("nonsense",),
        ("health", "--nonsense"),
        ("serve", "--processes", "0"),
    ],
)
async def test_wrong_usage_is_2(gateway: LiveGateway, arguments: tuple[str, ...]) -> None:
    ended = await command(gateway.url, *arguments)
    assert ended.code == 2
    assert ended.err
    assert "Traceback" not in ended.err


async def test_a_wrong_setting_is_2_and_named(tmp_path: Path) -> None:
    ended = await command(None, "serve", PORT="many")
    assert ended.code == 2
    assert "PORT" in ended.err
    ended = await command(None, "serve", PORT="8080", APP_PORT="8081")
    assert ended.code == 2
    assert "APP_PORT and PORT" in ended.err


async def test_a_port_in_use_is_3_and_named(gateway: LiveGateway, redis_url: str) -> None:
    ended = await command(None, "serve", REDIS_URL=redis_url, HOST="127.0.0.1", PORT=str(gateway.port))
    assert ended.code == 3
    assert str(gateway.port) in ended.err


async def test_the_version_and_help_are_told() -> None:
    assert (await command(None, "--version")).out.strip() == __version__
    told = await command(None, "--help")
    assert told.code == 0
    for name in ("serve", "run", "health", "enqueue", "get"):
        assert name in told.out


async def test_a_process_that_loaded_everything_ends_well() -> None:
    """A decoder freed at the end once took the process down with it; a debugging allocator notices every time."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import gateway.app, gateway.cli",
        env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONMALLOC": "debug"},
    )  # fmt: skip
    assert await process.wait() == 0
