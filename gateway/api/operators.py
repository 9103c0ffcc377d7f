"""What probes and operators call: health, metrics, queues. Protocol, "Operators"."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from gateway import __version__, metrics
from gateway.api.admin_messages import HealthReply, LiveReply, QueueList, QueueRecord, ReadyReply
from gateway.api.endpoint import Call, Reply
from gateway.api.guard import Guard
from gateway.api.ids import queue_named
from gateway.api.replies import encode
from gateway.errors import QueueNotFound, Refusal, StoreUnavailable
from gateway.metrics import Metrics
from gateway.redis_watch import RedisWatch
from gateway.store.inspector import Inspector, QueueStats, together
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.task_manager import TaskManager
from gateway.tasks import DEFAULT_TENANT, Queue

_FRESH_SECONDS = 0.5
_PROBE_SECONDS = 2.0
_WORKER_RECENT_MS = 60_000
_MOST_CACHED_COUNTS = 1000
_TEXT = (b"content-type", metrics.CONTENT_TYPE.encode())
Counts = list[tuple[Queue, QueueStats]]


class Operators:
    """Handlers for probes and operators. Counts are at most half a second old, so that probes cannot load Redis."""

    def __init__(
        self,
        store: TaskStore,
        inspector: Inspector,
        registry: Registry,
        manager: TaskManager,
        watch: RedisWatch,
        meter: Metrics,
        guard: Guard,
        warnings: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._inspector = inspector
        self._registry = registry
        self._manager = manager
        self._watch = watch
        self._meter = meter
        self._guard = guard
        self._warnings = warnings
        self._counts: dict[str, tuple[float, Counts]] = {}
        self._counting: dict[str, asyncio.Task[Counts]] = {}

    async def health(self, call: Call) -> Reply:
        """GET /health. 200, 503 (Redis away, or draining). Counts: of the caller's tenant, or the default one."""
        call.query()
        counts: Counts = []
        tenant = DEFAULT_TENANT
        workers, answers = 0, True
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                tenant = (await self._guard.visitor(call.headers)).tenant
                counts = await self._count(tenant)
                since_ms = self._store.now_ms() - _WORKER_RECENT_MS
                workers = len(await self._registry.workers(tenant, since_ms))
        except (Refusal, TimeoutError):
            answers = False
        stats = [stats for _, stats in counts]
        draining = self._manager.closed
        reply = HealthReply(
            status="draining" if draining else "ok" if answers else "unavailable",
            version=__version__,
            redis="ok" if answers else "away",
            durability=self._watch.durability,
            workers=workers,
            queue_depth=sum(one.ready + one.due for one in stats),
            processing=sum(one.leased for one in stats),
            scheduled=sum(one.due for one in stats),
            failed=sum(one.failed for one in stats),
            oldest_pending_seconds=max((one.oldest_ms for one in stats), default=0) / 1000,
            open_polls=self._manager.open_polls_of(tenant),
            warnings=[*filter(None, [self._watch.refusal]), *self._watch.warnings, *self._warnings],
        )
        return Reply(200 if reply.status == "ok" else 503, encode(reply), _retry_after(reply.status == "ok"))

    async def live(self, call: Call) -> Reply:
        """GET /health/live. 200."""
        call.query()
        return Reply(200, encode(LiveReply()))

    async def ready(self, call: Call) -> Reply:
        """GET /health/ready. 200, 503 (Redis away or unfit, or draining)."""
        call.query()
        if self._manager.closed:
            return Reply(
                503, encode(ReadyReply(status="draining", reason="the gateway is shutting down")), _retry_after(False)
            )
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._registry.ping()
        except (StoreUnavailable, TimeoutError):
            return Reply(
                503, encode(ReadyReply(status="unavailable", reason="Redis does not answer")), _retry_after(False)
            )
        if not self._watch.ready:
            reason = self._watch.refusal or "; ".join(self._watch.warnings) or "Redis was not checked yet"
            return Reply(503, encode(ReadyReply(status="unavailable", reason=reason)), _retry_after(False))
        return Reply(200, encode(ReadyReply(status="ok")))

    async def metrics(self, call: Call) -> Reply:
        """GET /metrics. 200. What the process counted is for who looks after all tenants; others see their queues.
        Without Redis: what this process counted itself."""
        call.query()
        self._meter.open_polls(self._manager.open_polls)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                counts = await self._count(call.identity.tenant)
        except (Refusal, TimeoutError):
            counts = []
        named = [(queue.job_type, stats) for queue, stats in counts if call.identity.may_use(queue.job_type)]
        return Reply(200, self._meter.render(named, process=call.identity.operates), media=_TEXT)

    async def queues(self, call: Call) -> Reply:
        """GET /queues. 200."""
        call.query()
        counts = await self._count(call.identity.tenant)
        records = [self._record(queue, stats) for queue, stats in counts if call.identity.may_use(queue.job_type)]
        return Reply(200, encode(QueueList(queues=records)))

    async def queue(self, call: Call) -> Reply:
        """GET /queues/{job_type}. 200, 400, 404."""
        call.query()
        queue = queue_named(call)
        stats = together(await self._inspector.stats(await self._store.parts(queue)))
        known = any((stats.ready, stats.due, stats.leased, stats.totals))
        if not known and not (await self._store.settings(queue)).version:
            raise QueueNotFound(call.id)
        return Reply(200, encode(self._record(queue, stats)))

    def _record(self, queue: Queue, stats: QueueStats) -> QueueRecord:
        return QueueRecord(
            job_type=queue.job_type,
            pending=stats.ready,
            scheduled=stats.due,
            processing=stats.leased,
            completed=stats.completed,
            failed=stats.failed,
            cancelled=stats.cancelled,
            max_pending=stats.max_pending or self._store.queue_limit,
            oldest_pending_seconds=stats.oldest_ms / 1000,
            stored_bytes=stats.stored_bytes,
            paused=stats.paused_ms > 0,
            partitions=stats.partitions,
            totals=stats.totals,
        )

    async def _count(self, tenant: str) -> Counts:
        """Count a tenant's queues; everybody who asks at once shares one count."""
        counted_at, counts = self._counts.get(tenant, (float("-inf"), []))
        if time.monotonic() - counted_at < _FRESH_SECONDS:
            return counts
        counting = self._counting.get(tenant)
        if counting is None:
            counting = self._counting[tenant] = asyncio.get_running_loop().create_task(self._count_now(tenant))
            counting.add_done_callback(lambda task: self._counted(tenant, task))
        return await asyncio.shield(counting)

    async def _count_now(self, tenant: str) -> Counts:
        queues = await self._registry.queues(tenant)
        parts: dict[Queue, list[QueueStats]] = {}
        for queue, stats in zip(queues, await self._inspector.stats(queues), strict=True):
            parts.setdefault(queue.whole, []).append(stats)
        counts = [(queue, together(mine)) for queue, mine in parts.items()]
        if len(self._counts) >= _MOST_CACHED_COUNTS:
            self._counts.clear()
        self._counts[tenant] = (time.monotonic(), counts)
        return counts

    def _counted(self, tenant: str, task: asyncio.Task[Counts]) -> None:
        del self._counting[tenant]
        if not task.cancelled():
            task.exception()  # every asker hears it; nobody may be left to


def _retry_after(ok: bool) -> tuple[tuple[bytes, bytes], ...]:
    return () if ok else ((b"retry-after", b"1"),)
