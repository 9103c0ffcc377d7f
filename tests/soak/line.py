"""One line to the gateways: requests that are counted by their answers, and polls that hang up."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import aiohttp
import msgspec

from tests.soak.ledger import Ledger

_REQUEST_SECONDS = 20.0
_REPEAT_SECONDS = 0.3
# What a client that does nothing wrong, at gateways that nobody harms, may be answered. 503 and no answer are counted
# and shown: a disk that stands still for seconds makes them, too.
_EXPECTED = {
    "enqueue": (200, 201, 202, 409),
    "poll": (200, 204),
    "report": (200, 409),
    "task": (200, 202, 304, 404, 409),
    "read": (200,),
}


class Reply(msgspec.Struct):
    """An answer. status 0: none came, or the client hung up. repeated: it is that of a second try, or a later one."""

    status: int
    body: Any = None
    headers: Any = None
    repeated: bool = False


class Line:
    """HTTP to any of several gateways. urls: theirs."""

    def __init__(self, urls: list[str], ledger: Ledger, rng: random.Random) -> None:
        self.ledger = ledger
        self.rng = rng
        self._urls = urls
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def close(self) -> None:
        """Drop every connection."""
        await self._session.close()

    async def call(
        self, kind: str, method: str, path: str, body: Any = None, *, raw: bytes | None = None,
        headers: dict[str, str] | None = None, seconds: float = _REQUEST_SECONDS, hang_up: float | None = None,
        url: str | None = None,
    ) -> Reply:  # fmt: skip
        """Ask once. kind: what may be answered. hang_up: leave after so many seconds, whatever comes."""
        sent = dict(headers or {})
        content = raw
        if body is not None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(seconds if hang_up is None else hang_up),
                self._session.request(
                    method, (url or self.rng.choice(self._urls)) + path, data=content, headers=sent
                ) as answer,
            ):
                text = await answer.read()
        except TimeoutError:
            self.ledger.counts["hung up" if hang_up is not None else f"{kind}: no answer in time"] += 1
            return Reply(0)
        except (aiohttp.ClientError, OSError) as error:
            self.ledger.counts[f"{kind}: {type(error).__name__}"] += 1
            return Reply(0)
        self.ledger.counts[f"{kind}: {answer.status}"] += 1
        is_json = "json" in answer.headers.get("Content-Type", "")
        reply = Reply(answer.status, msgspec.json.decode(text) if text and is_json else text, answer.headers)
        if answer.status not in _EXPECTED[kind] and answer.status != 503:
            self.ledger.violation(f"{method} {path.split('?')[0]}: {answer.status} {text[:200]!r}")
        return reply

    async def insist(self, kind: str, method: str, path: str, body: Any = None) -> Reply:
        """Ask until there is an answer that is none of 503, for at most a minute. For what is safe to repeat."""
        until = time.monotonic() + 60
        repeated = False
        while True:
            reply = await self.call(kind, method, path, body)
            reply.repeated = repeated
            if reply.status not in (0, 503) or time.monotonic() > until:
                return reply
            self.ledger.counts["repeated"] += 1
            repeated = True
            await asyncio.sleep(_REPEAT_SECONDS)
