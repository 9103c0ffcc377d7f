"""The guarded protocol, the stop and the processes, over raw sockets against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.connection import Limits
from gateway.processes import CannotListen, listen
from gateway.server import make_server

HOST = "Host: gateway\r\n"
QUICK = Limits(header_seconds=0.3, body_seconds=0.3, keep_alive_seconds=0.3)
PATIENCE_SECONDS = 10.0

# The two loops differ where connections end. The hook that replaces this fixture can only be set for all test files.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning")


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


class App:
    """/echo answers with the body, /path with what was asked, /deaf without reading, /poll when `bell` rings."""

    def __init__(self) -> None:
        self.bell = asyncio.Event()
        self.open_polls = 0
        self.hang_ups = 0
        self.requests: list[str] = []
        self.disconnects = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        self.requests.append(scope["path"])
        self.connection = scope["extensions"]["gateway.connection"]
        status, body = 200, b""
        if scope["path"].startswith("/echo"):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.disconnects += 1
                    return
                body, more = body + message["body"], message["more_body"]
        elif scope["path"] == "/poll":
            status = await self.hold(self.connection)
        elif scope["path"] == "/deaf":
            await self.bell.wait()
        elif scope["path"] == "/listen":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.disconnects += 1
            return
        elif scope["path"] == "/large":
            body = b"x" * 8_000_000
        else:
            path = [scope["method"], scope["path"], scope["raw_path"].decode(), scope["query_string"].decode()]
            body = json.dumps([*path, [name.decode() for name, _ in scope["headers"]]]).encode()
        headers = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def hold(self, connection: Any) -> int:
        gone = asyncio.Event()

        def hang_up() -> None:
            self.hang_ups += 1
            gone.set()

        connection.on_hang_up(hang_up)
        self.open_polls += 1
        waits = [asyncio.ensure_future(self.bell.wait()), asyncio.ensure_future(gone.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.open_polls -= 1
            for wait in waits:
                wait.cancel()
        return 204


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)

    async def reply(self, method: str = "GET") -> Reply:
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in lines}
            length = 0 if method == "HEAD" else int(headers.get("content-length", "0"))
            return Reply(int(first.split()[1]), headers, await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b"reset"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of a refusal, after a look at the rest of it."""
        problem = json.loads(self.body)
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["connection"] == "close"
        assert self.headers["x-content-type-options"] == "nosniff"
        assert self.headers["cache-control"] == "no-store"
        assert self.headers["x-request-id"] == problem["request_id"]
        assert "server" not in self.headers
        assert problem["status"] == self.status
        assert problem["type"] == "about:blank"
        assert problem["title"]
        assert problem["detail"]
        assert problem["retryable"] is (self.status in (408, 503))
        return str(problem["code"])


@dataclass
class Site:
    app: App
    server: Any
    port: int
    done: asyncio.Task[None]
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(self, request: str | bytes) -> Reply:
        client = await self.connect()
        client.send(request)
        reply = await client.reply()
        client.writer.close()
        return reply


@contextlib.asynccontextmanager
async def site(limits: Limits | None = None, **options: Any) -> AsyncIterator[Site]:
    app = App()
    server = make_server(app, limits=limits, signals=False, log_level="error", **options)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    running = Site(app, server, port, asyncio.create_task(server.serve([listener])))
    try:
        await wait_until(lambda: server.started)
        yield running
    finally:
        for client in running.clients:
            client.writer.close()
        app.bell.set()
        server.stop()
        await running.done
        for client in running.clients:
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()


async def wait_until(fact: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: gateway", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# Limits on size


async def test_headers_up_to_the_limit_are_served() -> None:
    async with site() as running:
        headers = "".join(f"X-{n}: {'v' * 300}\r\n" for n in range(99))
        assert (await running.ask(f"GET / HTTP/1.1\r\n{HOST}{headers}\r\n")).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        f"X: {'v' * 33_000}\r\n",
        "".join(f"X-{n}: v\r\n" for n in range(100)),
        "".join(f"X-{n}: {'v' * 1_000}\r\n" for n in range(40)),
    ],
    ids=["one large", "101", "40 of 1 kB"],
)
async def test_headers_beyond_the_limit_are_refused(headers: str) -> None:
    async with site() as running:
        reply = await running.ask(f"GET / HTTP/1.1\r\n{HOST}{headers}\r\n")
        assert (reply.status, reply.code) == (431, "headers_too_large")
        assert running.app.requests == []


async def test_a_header_without_end_is_refused_before_it_piles_up() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET / HTTP/1.1\r\n{HOST}X: ")
        sent_bytes = 0
        while not client.reader._buffer:  # type: ignore[attr-defined]  # a peek, so that sending stops at the refusal
            client.send(b"v" * 1024)
            sent_bytes += 1024
            assert sent_bytes < 1024 * 1024
            await client.writer.drain()
            await asyncio.sleep(0)
        reply = await client.reply()
        assert (reply.status, reply.code) == (431, "headers_too_large")


async def test_a_large_header_sent_in_full_before_reading_still_gets_its_refusal() -> None:
    async with site() as running:
        reply = await running.ask(f"GET / HTTP/1.1\r\n{HOST}X: {'v' * 4_000_000}\r\n\r\n")
        assert (reply.status, reply.code) == (431, "headers_too_large")


async def test_trailers_are_bounded_and_never_reach_the_application() -> None:
    chunked = f"POST /path HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n"
    async with site() as running:
        reply = await running.ask(f"{chunked}Authorization: x\r\n\r\n")
        assert "authorization" not in json.loads(reply.body)[-1]
        client = await running.connect()
        client.send(f"POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\nX: {'v' * 33_000}\r\n\r\n")
        assert (await client.reply()).code == "bad_request"


async def test_a_url_beyond_the_limit_is_refused() -> None:
    async with site() as running:
        assert (await running.ask(f"GET /{'a' * 8_000} HTTP/1.1\r\n{HOST}\r\n")).status == 200
        for length in (8_192, 100_000, 1_000_000):
            reply = await running.ask(f"GET /{'a' * length} HTTP/1.1\r\n{HOST}\r\n")
            assert (reply.status, reply.code) == (414, "url_too_long")


async def test_a_body_declared_too_large_is_refused_without_100_continue() -> None:
    async with site() as running:
        reply = await running.ask(
            f"POST /echo HTTP/1.1\r\n{HOST}Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (reply.status, reply.code) == (413, "body_too_large")
        assert running.app.requests == []


async def test_a_client_that_sends_a_large_body_before_it_reads_still_gets_its_refusal() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(post("/echo", b"x" * 6_000_000))
        await client.writer.drain()
        reply = await client.reply()
        assert (reply.status, reply.code) == (413, "body_too_large")
        assert await client.rest() == b""


async def test_a_chunked_body_beyond_the_limit_is_refused_as_it_comes() -> None:
    async with site(Limits(body_bytes=100_000)) as running:
        client = await running.connect()
        client.send(f"POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(12):
            client.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        reply = await client.reply()
        assert (reply.status, reply.code, json.loads(reply.body)["limit"]) == (413, "body_too_large", 100_000)
        await wait_until(lambda: running.app.disconnects == 1)


async def test_a_body_at_the_limit_comes_back_whole() -> None:
    async with site() as running:
        body = os.urandom(1024 * 1024)
        assert (await running.ask(post("/echo", body))).body == body


async def test_a_body_in_many_pieces_comes_back_whole() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n")
        await client.writer.drain()
        client.send("1\r\ng\r\n0\r\n\r\n")
        assert (await client.reply()).body == b"abcdefg"
        # Nothing of one request's body stays for the next.
        client.send(post("/echo", b"") + post("/echo", b"h"))
        assert [(await client.reply()).body for _ in range(2)] == [b"", b"h"]


async def test_a_body_that_was_read_is_not_read_again() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(post("/listen", b"abc"))
        await wait_until(lambda: running.app.requests)
        client.writer.close()
        await wait_until(lambda: running.app.disconnects == 1)


async def test_100_continue_is_sent_when_the_body_is_wanted() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"POST /echo HTTP/1.1\r\n{HOST}Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.reply()).status == 100
        client.send("abc")
        assert (await client.reply()).body == b"abc"


async def test_chunk_extensions_without_end_are_refused() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n1;" + "e" * 1_000_000)
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "bad_request")


# Limits on time


async def test_a_silent_connection_is_closed_without_a_word() -> None:
    async with site(QUICK) as running:
        assert await (await running.connect()).rest() == b""
        client = await running.connect()
        client.send("\r\n\r\n")
        assert await client.rest() == b""


async def test_dripping_headers_end_in_a_timeout() -> None:
    async with site(QUICK) as running:
        client = await running.connect()
        started = time.monotonic()
        drip = asyncio.create_task(drip_forever(client, f"GET / HTTP/1.1\r\n{HOST}X: "))
        reply = await client.reply()
        drip.cancel()
        assert (reply.status, reply.code) == (408, "request_timeout")
        assert time.monotonic() - started < 1.5


async def test_a_later_request_has_its_own_header_deadline() -> None:
    async with site(replace(QUICK, keep_alive_seconds=60.0)) as running:
        client = await running.connect()
        client.send(f"GET / HTTP/1.1\r\n{HOST}\r\n")
        assert (await client.reply()).status == 200
        client.send("GET / HT")
        assert (await client.reply()).code == "request_timeout"


async def test_a_dripping_body_ends_in_a_timeout_and_the_application_is_told() -> None:
    async with site(replace(QUICK, header_seconds=60.0)) as running:
        client = await running.connect()
        client.send(f"POST /echo HTTP/1.1\r\n{HOST}Content-Length: 100000\r\n\r\n")
        drip = asyncio.create_task(drip_forever(client, ""))
        reply = await client.reply()
        drip.cancel()
        assert (reply.status, reply.code) == (408, "body_timeout")
        await wait_until(lambda: running.app.disconnects == 1)


async def test_a_body_that_nobody_reads_has_no_deadline_until_the_reply() -> None:
    async with site(QUICK) as running:
        client = await running.connect()
        client.send(f"POST /deaf HTTP/1.1\r\n{HOST}Content-Length: 10\r\n\r\n")
        await wait_until(lambda: running.app.requests == ["/deaf"])
        other = await running.connect()
        assert await other.rest() == b""  # a whole deadline has passed
        running.app.bell.set()
        assert (await client.reply()).status == 200
        assert await client.rest() == b""  # closed, since the body never came


async def test_an_idle_connection_is_closed_after_keep_alive_seconds() -> None:
    async with site(QUICK) as running:
        client = await running.connect()
        client.send(f"GET / HTTP/1.1\r\n{HOST}\r\n")
        assert (await client.reply()).status == 200
        assert await client.rest() == b""


async def test_a_held_request_has_no_deadline() -> None:
    async with site(QUICK) as running:
        client = await running.connect()
        client.send(f"GET /poll HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.open_polls == 1)
        for _ in range(2):
            assert await (await running.connect()).rest() == b""
        running.app.bell.set()
        assert (await client.reply()).status == 204


async def test_a_client_that_does_not_read_its_reply_is_cut_off() -> None:
    async with site(QUICK) as running:
        client = await running.connect()
        client.send(f"GET /large HTTP/1.1\r\n{HOST}\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own is a duplex transport
        await wait_until(lambda: running.app.requests == ["/large"])
        await wait_until(lambda: not running.server.server_state.connections)


async def drip_forever(client: Client, start: str) -> None:
    client.send(start)
    with contextlib.suppress(OSError):
        while True:
            client.send("x")
            await client.writer.drain()
            await asyncio.sleep(0.02)


# What is no request


@pytest.mark.parametrize(
    ("request_text", "status", "code"),
    [
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (f"GET / HTTP/2.0\r\n{HOST}\r\n", 400, "bad_request"),
        ("GET /\r\n\r\n", 400, "bad_request"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        ("\x16\x03\x01\x02\x00\x01\x00", 400, "bad_request"),
        (f"BREW / HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
        (f"CONNECT a:443 HTTP/1.1\r\n{HOST}\r\n", 501, "method_not_supported"),
        (f"GET @evil HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
        (f"GET http://evil HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
        (f"GET /\u00e9 HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
        (f"GET /?\u00e9 HTTP/1.1\r\n{HOST}\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        *(
            (f"POST /echo HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n", 400, "bad_request")
            for length in ("-1", "+5", "0x5", "5 5", "", "1" + "0" * 30)
        ),
        (f"POST /echo HTTP/1.1\r\n{HOST}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, "bad_request"),
        (
            f"POST /echo HTTP/1.1\r\n{HOST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
            400,
            "bad_request",
        ),
        *(
            (
                f"POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: {encoding}\r\n\r\n",
                501,
                "unsupported_transfer_encoding",
            )
            for encoding in ("gzip, chunked", "gzip", "identity", "xchunked")
        ),
        (
            f"POST /echo HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            501,
            "unsupported_transfer_encoding",
        ),
        *(
            (f"POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{chunk}", 400, "bad_request")
            for chunk in ("1" + "0" * 20 + "\r\n", "-1\r\n", "zz\r\n", "3\nabc\n", "3\r\nabcdef\r\n")
        ),
    ],
)
async def test_what_is_no_request_is_refused(request_text: str, status: int, code: str) -> None:
    async with site() as running:
        reply = await running.ask(request_text)
        assert (reply.status, reply.code) == (status, code)
        assert (await running.ask(f"GET / HTTP/1.1\r\n{HOST}\r\n")).status == 200


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "PURGE", "OPTIONS", "SOURCE"])
async def test_rare_methods_reach_the_application(method: str) -> None:
    async with site() as running:
        reply = await running.ask(f"{method} / HTTP/1.1\r\n{HOST}\r\n")
        assert (reply.status, json.loads(reply.body)[0]) == (200, method)


@pytest.mark.parametrize("path", ["/%zz", "/%ff", "/%00", "/%", "/%c0%80", "//evil/x", "/\\evil", "/..;/%2e%2e/"])
async def test_garbage_in_the_path_reaches_the_application(path: str) -> None:
    async with site() as running:
        reply = await running.ask(f"GET {path}?%ff HTTP/1.1\r\n{HOST}\r\n")
        assert (reply.status, json.loads(reply.body)[2:4]) == (200, [path, "%ff"])


async def test_an_absolute_target_is_its_path() -> None:
    async with site() as running:
        reply = await running.ask(f"GET http://evil/x?y HTTP/1.1\r\n{HOST}\r\n")
        assert json.loads(reply.body)[1:4] == ["/x", "/x", "y"]


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_an_upgrade_is_ignored_and_its_body_is_read(protocol: str) -> None:
    async with site() as running:
        client = await running.connect()
        upgrade = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AA")
        for body in (b"one", b"", b"GET /path HTTP/1.1\r\nHost: smuggled\r\n\r\n", b"x" * 100_000):
            client.send(post("/echo", body, *upgrade))
            assert (await client.reply()).body == body
        client.send(post("/echo", b"first", *upgrade) + post("/echo", b"second", *upgrade) + post("/echo", b"third"))
        assert [(await client.reply()).body for _ in range(3)] == [b"first", b"second", b"third"]
        assert running.app.requests == ["/echo"] * 7


async def test_a_request_in_single_bytes_is_served() -> None:
    async with site() as running:
        client = await running.connect()
        for byte in post("/echo", b"abc", "Connection: Upgrade", "Upgrade: h2c"):
            client.send(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.reply()).body == b"abc"


async def test_head_is_answered_without_a_body_and_the_connection_goes_on() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"HEAD / HTTP/1.1\r\n{HOST}\r\n")
        head = await client.reply("HEAD")
        assert (head.status, int(head.headers["content-length"]) > 0) == (200, True)
        assert "date" in head.headers
        assert "server" not in head.headers
        client.send(post("/echo", b"abc"))
        assert (await client.reply()).body == b"abc"


async def test_http_1_0_needs_no_host_and_closes() -> None:
    async with site() as running:
        client = await running.connect()
        client.send("GET / HTTP/1.0\r\n\r\n")
        assert (await client.reply()).headers["connection"] == "close"
        assert await client.rest() == b""


# Pipelines


async def test_a_hundred_pipelined_requests_are_answered_in_order() -> None:
    async with site() as running:
        client = await running.connect()
        bodies = [os.urandom(n * 37) for n in range(100)]
        client.send(b"".join(post("/echo", body) for body in bodies))
        for body in bodies:
            assert (await client.reply()).body == body


async def test_pipelined_requests_are_queued_within_bounds() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /deaf HTTP/1.1\r\n{HOST}\r\n" + f"GET /echo HTTP/1.1\r\n{HOST}\r\n" * 5_000)
        await wait_until(lambda: running.app.requests == ["/deaf"])
        (connection,) = running.server.server_state.connections
        await wait_until(lambda: connection.flow.read_paused)
        assert len(connection.pipeline) < 1_000
        running.app.bell.set()
        for _ in range(5_001):
            assert (await client.reply()).status == 200


async def test_a_bad_request_behind_good_ones_is_refused_in_its_turn() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /poll HTTP/1.1\r\n{HOST}\r\n".encode() + post("/echo", b"abc") + b"BREW / HTTP/1.1\r\n\r\n")
        await wait_until(lambda: running.app.open_polls == 1)
        running.app.bell.set()
        assert (await client.reply()).status == 204
        assert (await client.reply()).body == b"abc"
        assert (await client.reply()).code == "bad_request"
        assert await client.rest() == b""


async def test_a_broken_body_behind_good_requests_is_refused_in_its_turn() -> None:
    async with site() as running:
        client = await running.connect()
        broken = f"POST /echo HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nzz\r\n"
        client.send(f"GET /poll HTTP/1.1\r\n{HOST}\r\n{broken}")
        await wait_until(lambda: running.app.open_polls == 1)
        running.app.bell.set()
        assert (await client.reply()).status == 204
        assert (await client.reply()).code == "bad_request"
        assert running.app.requests == ["/poll"]


# Clients that leave


async def test_a_hang_up_is_told_once_and_at_once() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /poll HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.open_polls == 1)
        client.writer.close()
        await wait_until(lambda: running.app.open_polls == 0)
        assert running.app.hang_ups == 1


async def test_a_reset_is_a_hang_up() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /poll HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.open_polls == 1)
        client.writer.transport.abort()
        await wait_until(lambda: running.app.hang_ups == 1)


async def test_a_hang_up_after_the_reply_is_not_told() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /poll HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.open_polls == 1)
        running.app.bell.set()
        assert (await client.reply()).status == 204
        client.writer.close()
        await wait_until(lambda: not running.server.server_state.connections)
        assert running.app.hang_ups == 0


async def test_a_half_closed_connection_still_gets_its_reply() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /deaf HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.requests == ["/deaf"])
        client.writer.write_eof()
        await wait_until(lambda: running.app.connection.closed)
        running.app.bell.set()
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.rest() == b""


async def test_a_half_closed_pipeline_still_gets_all_its_replies() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /deaf HTTP/1.1\r\n{HOST}\r\n".encode() + post("/echo", b"abc"))
        client.writer.write_eof()
        await wait_until(lambda: running.app.requests == ["/deaf"])
        running.app.bell.set()
        assert (await client.reply()).status == 200
        assert (await client.reply()).body == b"abc"
        assert await client.rest() == b""


async def test_a_half_close_is_a_hang_up_to_a_poll() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /poll HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.open_polls == 1)
        client.writer.write_eof()
        await wait_until(lambda: running.app.hang_ups == 1)
        assert await client.rest() == b""


async def test_a_half_close_is_a_disconnect_to_an_application_that_listens_for_one() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(f"GET /listen HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.requests == ["/listen"])
        client.writer.write_eof()
        await wait_until(lambda: running.app.disconnects == 1)


async def test_half_a_body_and_an_end_is_a_disconnect() -> None:
    async with site() as running:
        client = await running.connect()
        client.send(post("/echo", b"x" * 100)[:-50])
        client.writer.write_eof()
        assert await client.rest() == b""
        await wait_until(lambda: running.app.disconnects == 1)


# The stop


async def test_a_thousand_open_polls_go_home_within_a_second() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    ready = True

    def turn_readiness_off() -> None:
        nonlocal ready
        ready = False

    async def send_polls_home() -> None:
        running.app.bell.set()

    async with site(on_signal=turn_readiness_off, before_shutdown=send_polls_home) as running:
        for _ in range(1_000):
            client = await running.connect()
            client.send(f"GET /poll HTTP/1.1\r\n{HOST}\r\n")
        idle = await running.connect()
        await wait_until(lambda: running.app.open_polls == 1_000)
        started = time.monotonic()
        running.server.stop()
        assert not ready
        await running.done
        assert time.monotonic() - started < 1.0
        for client in running.clients[:-1]:
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (204, "close")
        assert await idle.rest() == b""


async def test_connections_are_accepted_until_polls_are_home() -> None:
    gate = asyncio.Event()

    async def send_polls_home() -> None:
        await gate.wait()

    async with site(before_shutdown=send_polls_home) as running:
        running.server.stop()
        reply = await running.ask(f"GET / HTTP/1.1\r\n{HOST}\r\n")
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        gate.set()
        await running.done
        with pytest.raises(ConnectionRefusedError):
            await running.connect()


async def test_a_request_under_way_is_finished_before_the_stop() -> None:
    async with site() as running:
        client = await running.connect()
        body = b"x" * 1_000
        client.send(post("/echo", body)[:-500])
        await wait_until(lambda: running.app.requests == ["/echo"])
        running.server.stop()
        await wait_until(lambda: not running.server.servers[0].is_serving())
        assert not running.done.done()
        client.send(body[:500])
        reply = await client.reply()
        assert (reply.body, reply.headers["connection"]) == (body, "close")
        await running.done


async def test_requests_beyond_the_grace_are_answered_503_and_cancelled() -> None:
    async with site(shutdown_seconds=0.1) as running:
        client = await running.connect()
        client.send(f"GET /deaf HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.requests == ["/deaf"])
        running.server.stop()
        reply = await client.reply()
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "shutting_down", "1")
        await running.done


async def test_a_failing_before_shutdown_does_not_stop_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("no polls today")

    async with site(before_shutdown=fail) as running:
        running.server.stop()
        await running.done
    assert "before_shutdown failed" in caplog.text


async def test_a_forced_stop_waits_for_nobody() -> None:
    async with site(shutdown_seconds=60.0) as running:
        client = await running.connect()
        client.send(f"GET /deaf HTTP/1.1\r\n{HOST}\r\n")
        await wait_until(lambda: running.app.requests == ["/deaf"])
        running.server.stop()
        running.server.force()
        await running.done
        assert await client.rest() in (b"", b"reset")


# Processes and signals

PROGRAM = """
    import asyncio, os, sys
    from gateway.processes import inherited_socket, listen, parent_watched, run_processes
    from gateway.server import loop_factory, make_server

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            if os.environ.get("BREAK"):
                await send({"type": "lifespan.startup.failed", "message": "broken"})
                return
            if os.environ.get("SLOW"):
                os.write(1, b"slow\\n")
                await asyncio.sleep(60)
            await send({"type": "lifespan.startup.complete"})
            os.write(1, b"up\\n")
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            os.write(1, b"down\\n")
            return
        if scope["path"] == "/hold":
            os.write(1, b"held\\n")
            await asyncio.sleep(60)
        body = str(os.getpid()).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def serve(port):
        server = make_server(app, shutdown_seconds=60)
        with parent_watched(server.stop):
            await server.serve([inherited_socket() or listen("127.0.0.1", port)])

    port = int(sys.argv[1])
    if len(sys.argv) > 2:
        argv = [sys.executable, __file__, str(port)]
        env = {"CHILD": "yes"}
        sys.exit(run_processes(int(sys.argv[2]), argv, host="127.0.0.1", port=port, env=env, shutdown_seconds=5))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(port))
"""


@dataclass
class Program:
    process: asyncio.subprocess.Process
    port: int

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self.process.stdout.readline()).decode().strip()

    async def status(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    async def ask(self, path: str = "/") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n".encode())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return (await reader.read()).rpartition(b"\r\n")[2]
        finally:
            writer.close()


Run = Callable[..., Awaitable[Program]]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    programs: list[Program] = []

    async def start(*arguments: str, **env: str) -> Program:
        with listen("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            str(port),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **env},
        )
        programs.append(Program(process, port))
        return programs[-1]

    yield start
    for program in programs:
        if program.process.returncode is None:
            program.process.kill()
        await program.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_one_signal_is_a_graceful_stop_that_exits_0(run: Run, number: signal.Signals) -> None:
    program = await run()
    assert await program.line() == "up"
    await wait_for_port(program.port)
    program.process.send_signal(number)
    assert await program.line() == "down"
    assert await program.status() == 0


async def test_a_second_signal_stops_at_once(run: Run) -> None:
    program = await run()
    assert await program.line() == "up"
    await wait_for_port(program.port)
    held = asyncio.create_task(program.ask("/hold"))
    assert await program.line() == "held"
    program.process.send_signal(signal.SIGTERM)
    await wait_until(lambda: not listening(program.port))
    program.process.send_signal(signal.SIGTERM)
    assert await program.status() == 128 + signal.SIGTERM
    with contextlib.suppress(OSError):
        await held


async def test_a_signal_during_the_start_ends_it(run: Run) -> None:
    program = await run(SLOW="yes")
    assert await program.line() == "slow"
    program.process.send_signal(signal.SIGTERM)
    assert await program.status() == 128 + signal.SIGTERM


async def test_several_processes_share_one_port_and_stop_together(run: Run) -> None:
    program = await run("2")
    assert [await program.line(), await program.line()] == ["up", "up"]
    pids: set[bytes] = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(pids) < 2:
        assert time.monotonic() < deadline
        pids.update(await asyncio.gather(*(program.ask() for _ in range(20))))
    program.process.send_signal(signal.SIGTERM)
    assert [await program.line(), await program.line()] == ["down", "down"]
    assert await program.status() == 0
    assert not any(alive(int(pid)) for pid in pids)


async def test_a_child_that_dies_is_started_again(run: Run) -> None:
    program = await run("1")
    assert await program.line() == "up"
    first = int(await program.ask())
    os.kill(first, signal.SIGKILL)
    assert await program.line() == "up"
    assert int(await program.ask()) != first
    program.process.send_signal(signal.SIGINT)
    assert await program.line() == "down"
    assert await program.status() == 0


async def test_a_child_that_cannot_start_ends_everything_with_its_status(run: Run) -> None:
    program = await run("2", BREAK="yes")
    assert await program.status() == 3


async def test_a_second_signal_to_the_parent_kills_the_children(run: Run) -> None:
    program = await run("1")
    assert await program.line() == "up"
    pid = int(await program.ask())
    held = asyncio.create_task(program.ask("/hold"))
    assert await program.line() == "held"
    program.process.send_signal(signal.SIGTERM)
    program.process.send_signal(signal.SIGINT)
    assert await program.status() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert not alive(pid)
    with contextlib.suppress(OSError):
        await held


async def test_children_stop_when_the_parent_is_gone(run: Run) -> None:
    program = await run("1")
    assert await program.line() == "up"
    pid = int(await program.ask())
    program.process.kill()
    assert await program.line() == "down"
    await wait_until(lambda: not alive(pid))


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"127\.0\.0\.1 port {port}: another program listens there: stop it or"):
            listen("127.0.0.1", port)


async def wait_for_port(port: int) -> None:
    await wait_until(lambda: listening(port))


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
