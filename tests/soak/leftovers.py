"""What is left in Redis when every task has ended and is past its retention: named keys, and nothing else."""

from __future__ import annotations

import re

import msgspec
from redis.asyncio import Redis

# One key each, however many tasks there were.
_NAMED = re.compile(
    r"tg:\{(queues|schema|alarms|workers:[^{}]*)\}(:\w+)?"  # queues, the version, who polled in the last week
    r"|tg:\{[^{}]*:[^{}]*\}:(totals|seq|settings|pace|waiting|wants)"  # of a queue; the last three expire or are few
)


class Leftovers(msgspec.Struct):
    """Keys by name. named: one each, for ever. mortal: others that expire. strange: others that do not."""

    named: list[str]
    mortal: list[str]
    strange: list[str]


async def look(redis: Redis) -> Leftovers:
    """Walk every key."""
    found = Leftovers([], [], [])
    others = []
    async for raw in redis.scan_iter(count=1000):
        if _NAMED.fullmatch(_text(raw)):
            found.named.append(_text(raw))
        else:
            others.append(raw)
    async with redis.pipeline(transaction=False) as pipe:
        for raw in others:
            pipe.ttl(raw)
        for raw, ttl in zip(others, await pipe.execute(), strict=True):
            # -2: it went while we looked.
            if ttl != -2:
                (found.strange if ttl == -1 else found.mortal).append(_text(raw))
    return found


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
