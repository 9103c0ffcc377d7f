"""A few words with a Redis on a unix socket, for who runs one: is it there, does it answer, what does it say.

The store has the real client; this needs nothing of it.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from gateway.redis_binary import EmbeddedRedisError, ServerGoneError

_COMMAND_SECONDS = 30.0
_PING_SECONDS = 5.0

Reply: TypeAlias = "bytes | int | list[Reply] | None"


def connects(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            return True  # Too busy to take more connections, so it is there.
        except OSError:
            return False
        return True


async def ping(path: Path) -> str | None:
    """Ask for a sign of life: 'PONG', the text of the server's refusal (LOADING, MISCONF, BUSY), None for no answer."""
    try:
        async with asyncio.timeout(_PING_SECONDS):
            reply = await _exchange(path, "PING")
    except _RefusedError as refusal:
        return str(refusal)
    except (OSError, EOFError):
        return None
    return reply.decode() if isinstance(reply, bytes) else None


async def command(path: Path, *words: str) -> Reply:
    """Ask for something. Raises EmbeddedRedisError (refused), ServerGoneError (no answer within 30 s)."""
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            return await _exchange(path, *words)
    except _RefusedError as refusal:
        raise EmbeddedRedisError(
            f"The embedded Redis on {path} answered {words[0]} with: {refusal}. See redis.log in its data directory."
        ) from refusal
    except (OSError, EOFError) as error:
        raise ServerGoneError(
            f"The embedded Redis on {path} gave no answer to {words[0]} ({error!r}). See redis.log in its data dir."
        ) from error


class _RefusedError(Exception):
    """An error reply."""


async def _exchange(path: Path, *words: str) -> Reply:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(b"*%d\r\n" % len(words))
        writer.writelines(b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words))
        return await _read_reply(reader)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _read_reply(reader: asyncio.StreamReader) -> Reply:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    if kind == b"-":
        raise _RefusedError(rest.decode(errors="replace"))
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
    if kind == b"*":
        return [await _read_reply(reader) for _ in range(int(rest))]
    return rest
