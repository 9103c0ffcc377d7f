"""A small HTTP client that can misbehave: hang up while it waits, send half a body, close its side."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from typing import Any

import msgspec

from tests.campaign.history import NO_ANSWER, Log

_RESET = struct.pack("ii", 1, 0)


class Reply(msgspec.Struct):
    """What came back. status 0: nothing that counts; `cause` says why, `unreadable` what was wrong with an answer."""

    status: int
    headers: dict[str, str]
    body: Any
    cause: str = ""
    unreadable: str = ""


class _NoAnswer(Exception):
    """No whole answer came."""


class _Unreadable(Exception):
    """An answer came that no client can make anything of."""


class Misbehaviour(msgspec.Struct, frozen=True):
    """How a client breaks off: after so many seconds, by `close`, `reset` or `half_close`; perhaps with half a body."""

    seconds: float = 0.0
    how: str = "close"
    cut_body: bool = False


class Client:
    """One producer's or worker's line to the gateways. It keeps a connection to a door as long as that answers.

    doors: (host, port) of each gateway, directly or through a fault proxy.
    """

    def __init__(self, name: str, doors: list[tuple[str, int]], log: Log, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self._doors = doors
        self._log = log
        self._door = rng.randrange(len(doors))
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self, op: str, facts: dict[str, Any], method: str, path: str, body: Any = None, *, headers: str = "",
        seconds: float = 12.0, misbehaviour: Misbehaviour | None = None, digest: Any = None,
    ) -> Reply:  # fmt: skip
        """Send one request and log it with its answer. digest: makes the logged facts of a 2xx reply's body."""
        if self.rng.random() < 0.05:
            self._move()
        number = self._log.sent(self.name, op, self._door, facts)
        try:
            async with asyncio.timeout(seconds):
                reply = await self._exchange(method, path, body, headers, misbehaviour)
                logged = _facts(reply, digest)
        except _Unreadable as error:
            self._move()
            reply = Reply(NO_ANSWER, {}, None, "unreadable", str(error)[:200])
        except (OSError, _NoAnswer, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self._move()
            reply = Reply(NO_ANSWER, {}, None, f"{type(error).__name__} {error}"[:80])
        if reply.status == NO_ANSWER:
            logged = {"cause": reply.cause} | ({"unreadable": reply.unreadable} if reply.unreadable else {})
        self._log.answered(number, reply.status, logged)
        return reply

    def twin(self) -> Client:
        """Make another line of the same client."""
        return Client(self.name, self._doors, self._log, random.Random(self.rng.random()))

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def _move(self) -> None:
        self.close()
        self._door = self.rng.randrange(len(self._doors))

    async def _exchange(
        self, method: str, path: str, body: Any, headers: str, misbehaviour: Misbehaviour | None
    ) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._doors[self._door], limit=1 << 24)
        reader, writer = self._streams
        content = msgspec.json.encode(body) if body is not None else b""
        kind = "Content-Type: application/json\r\n" if body is not None else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: campaign\r\n{kind}Content-Length: {len(content)}\r\n{headers}\r\n"
        if misbehaviour is None:
            writer.write(head.encode() + content)
            return self._keep(await _read(reader))
        writer.write(head.encode() + (content[: len(content) // 2] if misbehaviour.cut_body else content))
        await writer.drain()
        try:
            async with asyncio.timeout(misbehaviour.seconds):
                return self._keep(await _read(reader))
        except TimeoutError:
            raise await self._break_off(reader, writer, misbehaviour.how) from None

    def _keep(self, reply: Reply) -> Reply:
        if reply.headers.get("connection") == "close":
            self.close()
        return reply

    async def _break_off(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, how: str) -> _NoAnswer:
        if how == "half_close":
            half_close(writer)
            try:
                async with asyncio.timeout(0.2):
                    await reader.read(1 << 20)
            except TimeoutError:
                pass
        elif how == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return _NoAnswer(f"hung up: {how}")


def half_close(writer: asyncio.StreamWriter) -> None:
    """Say that nothing more comes this way, unless the connection is gone already."""
    try:
        writer.write_eof()
    except RuntimeError:
        pass  # uvloop's word for a connection that was closed a moment ago


async def _read(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    try:
        status, length = int(first.split(" ", 2)[1]), int(headers.get("content-length", "0"))
    except (ValueError, IndexError) as error:
        raise _Unreadable(f"{first!r} {error}") from error
    content = await reader.readexactly(length) if length else b""
    try:
        return Reply(status, headers, msgspec.json.decode(content) if content else None)
    except msgspec.DecodeError as error:
        raise _Unreadable(f"{status} {error}: {content[:100]!r}") from error


def _facts(reply: Reply, digest: Any) -> dict[str, Any]:
    """What is logged of a whole answer. Raises _Unreadable when it lacks what the protocol says it has."""
    try:
        return _digested(reply, digest)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _Unreadable(f"{reply.status} {type(error).__name__} {error}: {str(reply.body)[:100]}") from error


def _digested(reply: Reply, digest: Any) -> dict[str, Any]:
    if reply.status >= 400:
        facts = {"code": reply.body["code"]}
        if "retry-after" in reply.headers:
            facts["retry_after"] = reply.headers["retry-after"]
        if "id" in reply.body:
            facts["id"] = reply.body["id"]
        return facts
    facts = digest(reply.body) if digest is not None and reply.status != 204 else {}
    if reply.headers.get("idempotent-replayed"):
        facts["replayed"] = True
    return facts
