"""Connections to Redis, made in one place, whichever way it is set up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from gateway.errors import StoreFull, StoreUnavailable
from gateway.store.batching import REPLICA_MS, Lane, Link
from gateway.store.cluster import ClusterClient, Slots
from gateway.store.cluster_lane import ClusterLane
from gateway.store.keys import Keys
from gateway.store.location import parse
from gateway.store.scripts import Script
from gateway.store.sentinel import Sentinels
from gateway.store.shard_wakeups import ShardWakeups
from gateway.store.wakeups import Bells, Wakeups

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


async def replicated(redis: Redis, replicas: int, *command: Any, mark: str | None = None) -> tuple[Any, bool]:
    """Send one command that writes, and wait until so many replicas have what it wrote (0: do not wait).

    Both on one connection: a primary that does not know yet that it was replaced would otherwise do the work, and its
    heir vouch for it. mark: a key of the same slot to write besides, where the command may find its work done and write
    nothing: WAIT is about what this connection wrote. Returns the reply, and whether the replicas confirmed it.
    Raises StoreFull, StoreUnavailable.
    """
    async with answering(), redis.pipeline(transaction=False) as pipe:
        pipe.execute_command(*command)
        if replicas:
            if mark is not None:
                pipe.set(mark, b"", px=60_000)
            pipe.wait(replicas, REPLICA_MS)
        reply, *confirmed = await pipe.execute()
    return reply, not replicas or confirmed[-1] >= replicas


class Connections:
    """Where Redis is, and how to talk to it. url: see `location`.

    replicas: how many must have what a call promises before it is answered (`Lane`). redis: the plain client; one call
    or pipeline of it concerns one hash tag. Raises ValueError when the URL cannot be read.
    redis-py repeats nothing by itself: a script whose reply was lost may have run.
    """

    def __init__(
        self, url: str, password: str | None = None, *, sentinel_password: str | None = None, replicas: int = 0
    ) -> None:
        options: dict[str, Any] = {
            "socket_connect_timeout": _CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "health_check_interval": 0,
        }
        if password is not None:
            options["password"] = password
        self._replicas = replicas
        self._sentinels: Sentinels | None = None
        self._slots: Slots | None = None
        location = parse(url)
        self.kind = location.kind
        # Deadlines are ours (`Link`, `answering`): redis-py keeps its socket_timeout by asyncio.wait_for, which may
        # swallow a cancellation on Python 3.11.
        if location.kind == "cluster":
            self._slots = Slots(location.addresses, tls=location.tls, **options)
            self.redis: Redis = ClusterClient(self._slots)
            return
        if location.kind == "sentinel":
            self._sentinels = Sentinels(
                location.addresses, location.master, sentinel_password, tls=location.tls, db=location.db, **options
            )
            self._make = self._sentinels.connection
            self.redis = Redis(connection_pool=self._sentinels.pool())
            return
        self._make = ConnectionPool.from_url(url, **options).make_connection
        self.redis = Redis(connection_pool=ConnectionPool.from_url(url, **options))

    @property
    def replicas(self) -> int:
        """How many must have what a call promises."""
        return self._replicas

    @property
    def cluster(self) -> bool:
        """Whether it is a cluster; `Keys` must know."""
        return self._slots is not None

    def link(self) -> Link:
        """Make a link to a server or the primary: one connection of its own, opened at its first call."""
        return Link(self._make, _CALL_SECONDS)

    def lane(self, scripts: dict[str, Script], observe: Callable[[str, float, int], None]) -> Lane | ClusterLane:
        """Make a lane with connections of its own."""
        if self._slots is not None:
            return ClusterLane(self._slots, _CALL_SECONDS, scripts, observe, replicas=self._replicas)
        return Lane(self.link(), scripts, observe, replicas=self._replicas)

    def wakeups(self, keys: Keys, gateway: str, bells: Bells) -> Wakeups | ShardWakeups:
        """Make what hears this gateway's rings."""
        if self._slots is not None:
            return ShardWakeups(self._slots, keys, gateway, bells)
        return Wakeups(self.redis, keys, gateway, bells)

    async def follow(self) -> None:
        """Keep up with where Redis is, for ever. Cancel it to stop."""
        if self._sentinels is not None:
            await self._sentinels.follow()
        elif self._slots is not None:
            await self._slots.follow()
        else:
            await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Drop the connections."""
        await self.redis.aclose()
        await self.redis.connection_pool.disconnect()
        if self._sentinels is not None:
            await self._sentinels.close()
        if self._slots is not None:
            await self._slots.close()
