"""Who is there: queues that ever held a task, workers that polled lately, and what workers are told to do."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from redis.asyncio import Redis

from gateway.errors import NotReplicated, StoreFull, StoreUnavailable
from gateway.store.cluster import ClusterClient
from gateway.store.connect import answering, replicated
from gateway.store.keys import SCHEMA, Keys
from gateway.tasks import Queue

DirectiveName = Literal["run", "drain", "stop"]
_FORGET_WORKER_MS = 7 * 86_400_000


class WorkerFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a worker polled for, and when (unix ms, the store's clock)."""

    task_types: tuple[str, ...]
    seen_at_ms: int


class ServerFacts(msgspec.Struct, frozen=True):
    """What matters about the Redis behind us. Of several primaries: of each the worst.

    min_replicas: replicas that a primary must have to take writes; -1: it does not tell. replicas: that follow it.
    """

    version: tuple[int, ...]
    maxmemory_policy: str
    maxmemory: int
    aof: bool
    min_replicas: int = -1
    replicas: int = 0


class Registry:
    """Queues, workers and directives in Redis. Every method raises StoreUnavailable when Redis does not answer.

    replicas: how many must have a queue's name before its first task is stored.
    """

    def __init__(self, redis: Redis, keys: Keys, replicas: int = 0) -> None:
        self._redis = redis
        self._replicas = replicas
        self._keys = keys
        self._registered: set[Queue] = set()
        self._wanted: set[Queue] = set()
        self._registering = asyncio.Lock()

    async def register(self, queues: set[Queue]) -> None:
        """Note queues before their first task is written, so that none is ever unknown to the sweeps."""
        if queues <= self._registered:
            return
        # One call at a time, for all who came while the last was under way: a crowd of first producers would otherwise
        # open a connection each, or wait for the disk one after the other.
        self._wanted |= queues
        async with self._registering:
            if queues <= self._registered:
                return
            new, self._wanted = (self._wanted | queues) - self._registered, set()
            tags = [self._keys.of(queue).tag for queue in new]
            name = self._keys.queues
            mark = self._keys.replicated(name)
            _, kept = await replicated(self._redis, self._replicas, "SADD", name, *tags, mark=mark)
            if not kept:
                raise NotReplicated()
            self._registered |= new

    def knows(self, queue: Queue) -> bool:
        """Whether this process noted the queue."""
        return queue in self._registered

    def doubt(self) -> set[Queue]:
        """Redis was away, and may be another one now: note every queue again before its next task. Returns them."""
        doubted, self._registered = self._registered, set()
        return doubted

    async def queues(self, tenant: str | None = None) -> list[Queue]:
        """List the known queues, of one tenant or of all, sorted by name; of a spread one each partition."""
        async with answering():
            tags = await self._redis.smembers(self._keys.queues)  # type: ignore[misc]  # redis-py: sync or async
        found = [self._keys.queue_of(tag.decode()) for tag in tags]
        return sorted(
            (queue for queue in found if queue is not None and tenant in (None, queue.tenant)),
            key=lambda queue: (queue.tenant, queue.job_type, queue.partition),
        )

    async def note_workers(self, tenant: str, workers: dict[str, WorkerFacts]) -> None:
        """Write down who polled. Workers not seen for a week are forgotten."""
        newest = max(facts.seen_at_ms for facts in workers.values())
        seen, facts_key = self._keys.workers_seen(tenant), self._keys.worker_facts(tenant)
        async with answering(), self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(seen, {worker: facts.seen_at_ms for worker, facts in workers.items()})
            pipe.hset(facts_key, mapping={worker: msgspec.msgpack.encode(facts) for worker, facts in workers.items()})
            pipe.zrangebyscore(seen, "-inf", newest - _FORGET_WORKER_MS, start=0, num=100)
            *_, old = await pipe.execute()
            if old:
                pipe.zrem(seen, *old)
                pipe.hdel(facts_key, *old)
                pipe.hdel(self._keys.worker_directives(tenant), *old)
                await pipe.execute()

    async def workers(self, tenant: str, since_ms: int) -> dict[str, WorkerFacts]:
        """List the workers that polled since then (unix ms)."""
        async with answering():
            names = await self._redis.zrangebyscore(self._keys.workers_seen(tenant), since_ms, "+inf")
            if not names:
                return {}
            raws = await self._redis.hmget(self._keys.worker_facts(tenant), names)  # type: ignore[misc]  # as above
        decode = msgspec.msgpack.Decoder(WorkerFacts).decode
        return {name.decode(): decode(raw) for name, raw in zip(names, raws, strict=True) if raw}

    async def forget_worker(self, tenant: str, worker_id: str) -> bool:
        """Strike a worker off. False: it was not known."""
        async with answering(), self._redis.pipeline(transaction=False) as pipe:
            pipe.zrem(self._keys.workers_seen(tenant), worker_id)
            pipe.hdel(self._keys.worker_facts(tenant), worker_id)
            pipe.hdel(self._keys.worker_directives(tenant), worker_id)
            pipe.publish(self._keys.directive_channel, tenant)
            known, *_ = await pipe.execute()
        return bool(known)

    async def direct(self, tenant: str, worker_id: str, directive: DirectiveName) -> None:
        """Tell a worker what to do from now on; every gateway hears of it."""
        key = self._keys.worker_directives(tenant)
        async with answering(), self._redis.pipeline(transaction=False) as pipe:
            if directive == "run":
                pipe.hdel(key, worker_id)
            else:
                pipe.hset(key, worker_id, directive)
            pipe.publish(self._keys.directive_channel, tenant)
            await pipe.execute()

    async def directives(self, tenant: str) -> dict[str, DirectiveName]:
        """Read all directives other than `run`."""
        async with answering():
            found = await self._redis.hgetall(self._keys.worker_directives(tenant))  # type: ignore[misc]  # as above
        return {worker.decode(): directive.decode() for worker, directive in found.items()}

    async def meet_schema(self) -> int:
        """Note the version of what is stored where there is none yet. Returns the version that is.

        Data without one is of version 1: gateways did not write it then.
        """
        async with answering():
            found = await self._redis.get(self._keys.schema)
        if found is None:
            try:
                async with answering():
                    await self._redis.set(self._keys.schema, SCHEMA, nx=True)
                    found = await self._redis.get(self._keys.schema)
            except StoreFull:
                # There is none, and no room for it: the next look notes it.
                return SCHEMA
        return int(found) if found is not None and found.isdigit() else 0

    async def server_facts(self) -> ServerFacts:
        """Read the version and settings of the Redis behind us. What a managed Redis hides counts as good."""
        async with answering():
            infos = await self._redis.each("INFO") if isinstance(self._redis, ClusterClient) else None
            if infos is None:
                infos = [await self._redis.info()]
        if any(int(info.get("loading", 0)) for info in infos):
            # It tells nothing but falsehoods until its data is there: that it has no AOF, for one.
            raise StoreUnavailable()
        min_replicas = -1
        try:
            async with answering():
                found = await self._redis.config_get("min-replicas-to-write")
                min_replicas = int(found.get("min-replicas-to-write", -1))
        except StoreUnavailable:
            pass  # Managed ones hide their configuration.
        policies = {str(info.get("maxmemory_policy", "noeviction")): int(info.get("maxmemory", 0)) for info in infos}
        policy, maxmemory = min(policies.items(), key=lambda one: (one[0] == "noeviction", -one[1]))
        return ServerFacts(
            min(
                tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:3] if part.isdigit())
                for info in infos
            ),
            policy,
            maxmemory,
            all(int(info.get("aof_enabled", 1)) for info in infos),
            min_replicas,
            min(int(info.get("connected_slaves", 0)) for info in infos),
        )

    async def ping(self) -> None:
        """See whether Redis answers. Raises StoreUnavailable."""
        async with answering():
            await self._redis.ping()
