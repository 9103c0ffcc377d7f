"""Everything that Redis holds, at one moment, and its times to live by the clock that is moved by hand.

Redis ends keys by its own clock. `Contents` notes when each key with a time to live would end by ours, holds it alive
for Redis meanwhile, and removes it when ours has come that far. So scripts see what they would see.
"""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

# Every time to live that the machine asks for is a multiple of this, so what it was is known although some real time
# has passed since.
TTL_STEP_MS = 10_000
_SPARE_MS = 3_600_000
_DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, value = redis.call('TYPE', key).ok, nil
  if kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  else value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  found[#found + 1] = { key, kind, value, redis.call('PTTL', key), redis.call('PEXPIRETIME', key) }
end
return found
"""


class Key(msgspec.Struct, frozen=True):
    """One key. until_ms: when it ends by itself (0: never), by the clock of the test."""

    kind: str
    value: Any
    until_ms: int


class Contents:
    """Reads Redis whole."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._until: dict[str, tuple[int, int]] = {}

    async def read(self, now_ms: int) -> dict[str, Key]:
        """Read every key."""
        found = {}
        fresh = []
        for raw, kind, value, ttl_ms, ends_at_ms in await self._redis.eval(_DUMP, 0):
            key = raw.decode()
            until_ms = 0
            if ttl_ms >= 0:
                known_at_ms, until_ms = self._until.get(key, (0, 0))
                if known_at_ms != ends_at_ms:
                    until_ms = now_ms + -(-ttl_ms // TTL_STEP_MS) * TTL_STEP_MS
                    # A script compares what is left of a watch with what it is asked for: that must be less.
                    spare_ms = -60_000 if key.endswith(":watch") else _SPARE_MS
                    self._until[key] = (ends_at_ms + spare_ms, until_ms)
                    fresh.append(key)
            found[key] = Key(kind.decode(), _plain(kind.decode(), value), until_ms)
        if fresh:
            pipeline = self._redis.pipeline(transaction=False)
            for key in fresh:
                pipeline.pexpireat(key, self._until[key][0])
            await pipeline.execute()
        return found

    async def pass_time(self, now_ms: int) -> None:
        """Remove what has ended by now."""
        over = [key for key, (_, until_ms) in self._until.items() if until_ms <= now_ms]
        if over:
            # One that lost its time to live, or its life, is none of ours any more.
            kept = [key for key in over if await self._redis.pttl(key) >= 0]
            if kept:
                await self._redis.delete(*kept)
        for key in over:
            del self._until[key]

    def forget(self) -> None:
        """Begin anew, with an empty Redis."""
        self._until.clear()


def _plain(kind: str, value: Any) -> Any:
    if kind == "hash":
        return dict(zip(value[::2], value[1::2], strict=True))
    if kind == "zset":
        return dict(zip(value[::2], map(float, value[1::2]), strict=True))
    return set(value) if kind == "set" else value
