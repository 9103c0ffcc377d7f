"""Who attacks a gateway: `python -m tests.fuzz.attackers KIND PORT NUMBER`, a process of its own until its input ends.

Prints `ready` when all connections are open and under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from collections.abc import Awaitable, Callable

HEAD = b"POST /tasks HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
MIB = 1024 * 1024
_OPENINGS = 200
Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answered once, then silent, as a keep-alive connection that nobody uses."""
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: gateway\r\n\r\n")
    await reader.read(-1)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never a byte."""
    await reader.read(-1)


async def slow_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A header byte a second (slowloris)."""
    writer.write(b"GET /tasks HTTP/1.1\r\nHost: gateway\r\nX-A: ")
    while not reader.at_eof() and not writer.is_closing():
        writer.write(b"a")
        await asyncio.sleep(1)


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body byte a second."""
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n{")
    while not reader.at_eof() and not writer.is_closing():
        writer.write(b" ")
        await asyncio.sleep(1)


async def endless_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A chunked body without end, as fast as it is taken."""
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    while not reader.at_eof():
        writer.write(chunk)
        await writer.drain()


async def ten_megabytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body of 10 MB, declared and sent."""
    writer.write(HEAD + b"Content-Length: 10000000\r\n\r\n")
    for _ in range(100):
        writer.write(b" " * 100_000)
        await writer.drain()
    await reader.read(-1)


async def large_bodies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tasks of almost 1 MiB, each as soon as the one before is answered."""
    payload = b'{"job_type":"large","retention_seconds":0,"payload":"' + b"a" * (MIB - 100) + b'"}'
    while True:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(payload) + payload)
        await writer.drain()
        if not await _answer(reader):
            return


async def deep_bodies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """1 MiB of open brackets, again and again."""
    while True:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % MIB + b"[" * MIB)
        await writer.drain()
        if not await _answer(reader):
            return


async def many_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Thousands of headers."""
    writer.write(b"GET /tasks HTTP/1.1\r\nHost: gateway\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(5000)))
    await reader.read(-1)


async def _answer(reader: asyncio.StreamReader) -> bool:
    """Read a reply. False: it was the last."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return b"\r\nconnection: close" not in head.lower()


KINDS: dict[str, Attack] = {
    kind.__name__: kind
    for kind in (
        idle, silent, slow_headers, slow_body, endless_chunks, ten_megabytes, large_bodies, deep_bodies, many_headers,
    )
}  # fmt: skip


async def attack(kind: str, port: int, number: int) -> None:
    """Keep so many connections under way, each opened again when it was closed, until standard input ends."""
    opened, opening = 0, asyncio.Semaphore(_OPENINGS)

    async def keep() -> None:
        nonlocal opened
        first = True
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with opening:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                opened += first
                first = False
                try:
                    await KINDS[kind](reader, writer)
                finally:
                    writer.close()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(keep()) for _ in range(number)]
    while opened < number:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(attack(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
