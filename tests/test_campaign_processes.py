"""The campaign's own processes: one that dies is told, and an answer that cannot be read is no end of a client."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest
import uvloop

from tests.campaign import checks_processes, history, wire
from tests.campaign.checker import check
from tests.campaign.contents import Contents
from tests.campaign.history import Log
from tests.campaign.servers import GatewayNode, LoadNode
from tests.topologies import until

_ROOT = Path(__file__).parents[1]


def _workers(folder: Path) -> LoadNode:
    """Workers that find nobody at their door."""
    node = LoadNode("workers", 0, folder, 1, 2, ["127.0.0.1:1"])
    node.start()
    node.wait_sending()
    return node


def _gateway(folder: Path, script: str) -> GatewayNode:
    """A script in the place of a gateway, which has said that it is ready."""
    node = GatewayNode(0, _ROOT, folder, "redis://127.0.0.1:1/0", 10)
    node.spawn([sys.executable, "-uc", f"import signal, sys\n{script}"])
    assert node.process is not None
    until(lambda: "ready" in node.log.read_text(), 60, "the script does not run")
    return node


def _told(gateways: list[GatewayNode], clients: list[LoadNode]) -> list[str]:
    return [violation.kind for violation in checks_processes.check(gateways, clients)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_clients_that_are_ended_have_not_died(number: int, tmp_path: Path) -> None:
    node = _workers(tmp_path)
    node.end(number)
    node.start()
    node.wait_sending()
    node.end()
    assert _told([], [node]) == []


@pytest.mark.parametrize("again", [True, False])
def test_clients_that_died_are_told_even_when_others_took_their_place(again: bool, tmp_path: Path) -> None:
    node = _workers(tmp_path)
    assert node.process is not None
    node.process.kill()
    node.process.wait()
    if again:
        node.start()
    node.end(signal.SIGTERM)
    assert _told([], [node]) == ["client died"]


def test_a_gateway_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    node = _gateway(tmp_path, "print('ready')")
    assert node.process is not None
    node.process.wait()
    node.end(signal.SIGTERM)
    assert _told([node], []) == ["gateway died"]


@pytest.mark.parametrize(
    ("how", "seconds", "told"),
    [
        ("lambda *_: sys.exit(0)", 60, []),
        ("lambda *_: sys.exit(3)", 60, ["gateway died"]),
        ("signal.SIG_DFL", 60, ["gateway died"]),
        ("signal.SIG_IGN", 0.1, ["gateway died"]),
    ],
)
def test_a_gateway_that_does_not_stop_as_it_should_is_told(
    how: str, seconds: float, told: list[str], tmp_path: Path
) -> None:
    node = _gateway(tmp_path, f"signal.signal(signal.SIGTERM, {how})\nprint('ready')\nwhile True: signal.pause()")
    node.end(signal.SIGTERM, seconds)
    assert _told([node], []) == told


@pytest.mark.parametrize("line", ['{"level":"error","message":"sweep failed"}', "Traceback (most recent call last):"])
def test_a_defect_in_a_gateways_log_is_told(line: str, tmp_path: Path) -> None:
    node = _gateway(tmp_path, f"print('ready')\nprint({line!r})\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert node.process is not None
    node.process.wait()
    assert "defect in a gateway's log" in _told([node], [])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{half",
        b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"other":1}',
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
    ],
)
async def test_an_answer_that_cannot_be_read_is_told(answer: bytes, tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    log = Log(tmp_path / "w1.jsonl", "w1")
    client = wire.Client("w1", [server.sockets[0].getsockname()[:2]], log, random.Random(1))
    reply = await client.call("read", {"id": "order~1"}, "GET", "/", digest=lambda body: {"status": body["status"]})
    client.close()
    await gone.wait()
    server.close()
    assert reply.status == history.NO_ANSWER
    operations, faults = history.read(tmp_path)
    verdict = check(operations, faults, Contents({}, [], {}, {}, {}), gateways=1, queue_size=100)
    assert [violation.kind for violation in verdict.violations] == ["unreadable answer"]


def test_two_requests_with_one_id_are_no_history(tmp_path: Path) -> None:
    for name in ("first", "second"):
        Log(tmp_path / f"{name}.jsonl", "w1").sent("w1", "read", 0, {"id": "order~1"})
    with pytest.raises(ValueError, match="two requests have the id w1-1"):
        history.read(tmp_path)


def test_a_client_may_close_its_side_of_a_connection_that_is_gone() -> None:
    async def try_it() -> None:
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            gone.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.transport.abort()
        wire.half_close(writer)
        await gone.wait()
        server.close()

    uvloop.run(try_it())
