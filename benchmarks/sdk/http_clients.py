"""What an HTTP client costs the SDK: requests per second and CPU per request against a stub that answers at once.

    python -m benchmarks.sdk.http_clients [--seconds 2] [--rounds 3]

Shapes: `small` is one report and its reply; `batch` is 32 reports and 32 new tasks; one request at a time, and
`small` 32 at a time. `streams` is the least one can do with asyncio's streams (no TLS, no redirects, Content-Length
only): a lower bound. Clients that are not installed are left out. The stub runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any

import uvloop

_REPORT = b'{"id":"%s","lease_token":"%s","outcome":"complete","result":null}' % (b"i" * 36, b"t" * 32)
_TASK = b'{"id":"%s","lease_token":"%s","payload":{"text":"%s"},"status":"processing"}' % (
    b"i" * 36,
    b"t" * 32,
    b"x" * 350,
)
SHAPES = {"small": 1, "batch": 32}

Post = Callable[[str, bytes], Awaitable[bytes]]


class _Stub(asyncio.Protocol):
    """Answers every request with as many tasks as the path says, as soon as it is whole."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            body = _TASK * int(head.split(b" ", 2)[1].rsplit(b"/", 1)[1])
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-directive: run\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )


def _serve(pipe: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Stub, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


@asynccontextmanager
async def _aiohttp(port: int) -> AsyncIterator[Post]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def post(path: str, body: bytes) -> bytes:
            headers = {"content-type": "application/json"}
            async with session.post(f"http://127.0.0.1:{port}{path}", data=body, headers=headers) as reply:
                return await reply.read()

        yield post


@asynccontextmanager
async def _httpx(port: int) -> AsyncIterator[Post]:
    import httpx

    limits = httpx.Limits(max_keepalive_connections=None)  # by default it drops all but 20
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits) as client:

        async def post(path: str, body: bytes) -> bytes:
            return (await client.post(path, content=body, headers={"content-type": "application/json"})).content

        yield post


@asynccontextmanager
async def _niquests(port: int) -> AsyncIterator[Post]:
    import niquests

    async with niquests.AsyncSession(disable_http2=True, disable_http3=True) as session:

        async def post(path: str, body: bytes) -> bytes:
            url = f"http://127.0.0.1:{port}{path}"
            return (await session.post(url, data=body, headers={"content-type": "application/json"})).content or b""

        yield post


@asynccontextmanager
async def _streams(port: int) -> AsyncIterator[Post]:
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(path: str, body: bytes) -> bytes:
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        found = await reader.readexactly(int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]))
        idle.append((reader, writer))
        return found

    yield post
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()


_CLIENTS = {"aiohttp": _aiohttp, "httpx": _httpx, "niquests": _niquests, "streams": _streams}


async def _measure(name: str, port: int, items: int, at_once: int, seconds: float) -> tuple[float, float]:
    """Requests per second, and CPU microseconds of this process per request."""
    body = b"[" + b",".join([_REPORT] * items) + b"]"
    done = 0

    async def work(post: Post, until: float) -> None:
        nonlocal done
        while time.monotonic() < until:
            assert len(await post(f"/{items}", body)) == items * len(_TASK)
            done += 1

    async with _CLIENTS[name](port) as post:
        await asyncio.gather(*(work(post, time.monotonic() + 0.2) for _ in range(at_once)))
        done, cpu, begun = 0, time.process_time(), time.monotonic()
        await asyncio.gather(*(work(post, begun + seconds) for _ in range(at_once)))
        return done / (time.monotonic() - begun), (time.process_time() - cpu) / done * 1e6


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    stub = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    stub.start()
    port = ours.recv()
    installed = []
    for name in _CLIENTS:
        try:
            installed.append((name, "" if name == "streams" else importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    print("| client | loop | small, 1 at a time | small, 32 at a time | batch, 1 at a time |\n|---|---|---|---|---|")
    for loop, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
        for name, version in installed:
            cells = []
            for shape, at_once in (("small", 1), ("small", 32), ("batch", 1)):
                found = [
                    run(_measure(name, port, SHAPES[shape], at_once, options.seconds)) for _ in range(options.rounds)
                ]
                rate, cpu = (statistics.median(column) for column in zip(*found, strict=True))
                cells.append(f"{rate:,.0f}/s, {cpu:,.0f} us CPU")
            print(f"| {name} {version} | {loop} | {' | '.join(cells)} |", flush=True)
    stub.terminate()
    stub.join()


if __name__ == "__main__":
    main()
