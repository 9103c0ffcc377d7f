"""Connections to Redis, made in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from gateway.errors import StoreFull, StoreUnavailable
from gateway.store.batching import Link

_CONNECT_SECONDS = 2.0
# Two calls in a row, as some requests need them, must fit into the five seconds that a request may outlive its wait.
_CALL_SECONDS = 2.4


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Bound a few commands of the plain client in time, and translate what goes wrong.

    Raises StoreFull, StoreUnavailable.
    """
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            yield
    except OutOfMemoryError as error:
        raise StoreFull() from error
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable() from error


class Connections:
    """Where Redis is, and how to talk to it. url: redis://, rediss:// or unix://.

    redis-py repeats nothing by itself: a script whose reply was lost may have run.
    """

    def __init__(self, url: str, password: str | None = None) -> None:
        options: dict[str, object] = {
            "socket_connect_timeout": _CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "health_check_interval": 0,
        }
        if password is not None:
            options["password"] = password
        # Deadlines are ours (`Link`, `answering`): redis-py keeps its socket_timeout by asyncio.wait_for, which may
        # swallow a cancellation on Python 3.11.
        self._lanes = ConnectionPool.from_url(url, **options)
        self.redis = Redis(connection_pool=ConnectionPool.from_url(url, **options))

    def link(self) -> Link:
        """Make a link: one connection of its own, opened at its first call."""
        return Link(self._lanes.make_connection, _CALL_SECONDS)

    async def close(self) -> None:
        """Drop the pool's connections."""
        await self.redis.aclose()
        await self.redis.connection_pool.disconnect()
