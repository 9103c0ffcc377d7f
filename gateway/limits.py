"""What tenants may use: their limits, rate limits shared by all gateways, quotas of what they store.

A rate limit lives in Redis (lua/limit.lua). A process takes a few requests ahead, as many as pass in 50 ms at the
limit's own rate, so that a generous limit costs some twenty calls a second and not one a request; what it does not use
within a quarter of a second is gone, so that no more than the limit is ever let in.
"""

from __future__ import annotations

import asyncio
import logging
import time

from gateway.errors import BatchTooLarge, BodyTooLarge, QuotaExceeded, RateLimited, Refusal
from gateway.store.inspector import Inspector
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.store.tenants import Limits, Tenants
from gateway.tasks import Queue

log = logging.getLogger("gateway.limits")
Header = tuple[bytes, bytes]
_REFRESH_SECONDS = 2.0
_AHEAD_SECONDS = 0.05
_KEEP_SECONDS = 0.25
_MOST_STOCKS = 10_000
_REPORTS_FACTOR = 10
_USAGE_SECONDS = 1.0
_QUEUES_PER_SECOND = 200


class _Stock:
    """Requests that this process may still let in by itself."""

    __slots__ = ("ends_at", "full_at", "left", "permits", "policy")

    def __init__(self, permits: int, left: int, now: float, full_ms: int, policy: Header) -> None:
        self.permits = permits
        self.left = left
        self.ends_at = now + _KEEP_SECONDS
        self.full_at = now + full_ms / 1000
        self.policy = policy


class _Usage:
    """What a tenant held when it was counted, and what this process stored since."""

    __slots__ = ("counted_at", "counting", "pending", "period", "stored_bytes")

    def __init__(self) -> None:
        self.counted_at = float("-inf")
        self.period = _USAGE_SECONDS
        self.pending = self.stored_bytes = 0
        self.counting: asyncio.Task[None] | None = None


class TenantLimits:
    """Knows every tenant's limits, counts against them, and refuses.

    common: what holds for a tenant that has no limits of its own.
    """

    def __init__(
        self, common: Limits, tenants: Tenants, store: TaskStore, inspector: Inspector, registry: Registry
    ) -> None:
        self._common = common
        self._tenants = tenants
        self._store = store
        self._inspector = inspector
        self._registry = registry
        self._own: dict[str, Limits] = {}
        self._stocks: dict[tuple[str, str], _Stock] = {}
        self._usages: dict[str, _Usage] = {}
        self._rated = common.rate_limit_per_minute is not None
        self._quotas = common.max_pending is not None or common.max_stored_bytes is not None

    @property
    def idle(self) -> bool:
        """Whether no tenant has a rate limit."""
        return not self._rated

    @property
    def quotas_idle(self) -> bool:
        """Whether no tenant has a quota of what it stores."""
        return not self._quotas

    def of(self, tenant: str) -> Limits:
        """A tenant's limits."""
        return self._own.get(tenant, self._common)

    def own_of(self, tenant: str) -> tuple[str, ...]:
        """Names of the limits that are a tenant's own."""
        mine = self._own.get(tenant)
        if mine is None:
            return ()
        return tuple(name for name in Limits.__struct_fields__ if getattr(mine, name) != getattr(self._common, name))

    def open_polls(self, tenant: str) -> int:
        """How many long polls one process holds for a tenant."""
        return self.of(tenant).max_open_polls or 1

    async def run(self) -> None:
        """Read the tenants' own limits again and again. Cancel it to stop."""
        while True:
            try:
                await self.refresh()
            except Refusal:
                pass
            await asyncio.sleep(_REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read the tenants' own limits."""
        found = await self._tenants.all()
        self._own = {tenant: mine.over(self._common) for tenant, mine in found.items()}
        every = [self._common, *self._own.values()]
        self._rated = any(one.rate_limit_per_minute is not None for one in every)
        self._quotas = any(one.max_pending is not None or one.max_stored_bytes is not None for one in every)

    def spend_stored(self, tenant: str, bucket: str) -> tuple[Header, ...] | None:
        """Let a request in from store. None: there is none left, ask `take`."""
        stock = self._stocks.get((f"tenant:{tenant}", bucket))
        if stock is None or stock.permits <= 0 or stock.ends_at < time.monotonic():
            return None
        stock.permits -= 1
        return (stock.policy, _left(bucket, stock.left + stock.permits, stock.full_at - time.monotonic()))

    async def take(self, whose: str, bucket: str) -> tuple[Header, ...]:
        """Let a request in. whose: `tenant:<name>` or `address:<client>`. Returns headers; raises RateLimited."""
        kind, _, name = whose.partition(":")
        limits = self.of(name) if kind == "tenant" else self._common
        if limits.rate_limit_per_minute is None:
            return ()
        per_minute = limits.rate_limit_per_minute * (_REPORTS_FACTOR if bucket == "reports" else 1)
        ahead = int(per_minute / 60 * _AHEAD_SECONDS)
        granted = await self._store.spend(whose, bucket, per_minute, ahead)
        policy = (b"ratelimit-policy", b'"%s";q=%d;w=60' % (bucket.encode(), per_minute))
        if not granted.ok:
            refusal = RateLimited(bucket, per_minute, granted.wait_ms)
            refusal.headers = (policy, _left(bucket, 0, granted.wait_ms / 1000))
            raise refusal
        now = time.monotonic()
        if granted.stored:
            if len(self._stocks) >= _MOST_STOCKS:
                self._stocks.clear()
            self._stocks[whose, bucket] = _Stock(granted.stored, granted.left, now, granted.full_ms, policy)
        return (policy, _left(bucket, granted.left + granted.stored, granted.full_ms / 1000))

    def check_batch(self, tenant: str, tasks: int) -> None:
        """See whether a tenant may send so many tasks in one batch. Raises BatchTooLarge."""
        limits = self.of(tenant)
        if limits.max_batch is not None and tasks > limits.max_batch:
            raise BatchTooLarge(limits.max_batch)

    async def check_room(self, tenant: str, tasks: int, size_bytes: int) -> None:
        """See whether a tenant may store so much more. Raises BatchTooLarge, BodyTooLarge, QuotaExceeded.

        The counts are at most a second old (longer with hundreds of queues), and this process adds its own in between:
        several gateways together may pass a quota by what they store in that time.
        """
        limits = self.of(tenant)
        if not self._quotas or (limits.max_pending is None and limits.max_stored_bytes is None):
            return
        usage = await self._usage(tenant)
        if limits.max_pending is not None and usage.pending + tasks > limits.max_pending:
            if tasks > max(limits.max_pending, 1):
                raise BatchTooLarge(limits.max_pending)
            raise QuotaExceeded("max_pending", usage.pending, tasks, limits.max_pending)
        if limits.max_stored_bytes is not None and usage.stored_bytes + size_bytes > limits.max_stored_bytes:
            if size_bytes > limits.max_stored_bytes:
                raise BodyTooLarge(limits.max_stored_bytes)
            raise QuotaExceeded("max_stored_bytes", usage.stored_bytes, size_bytes, limits.max_stored_bytes)
        usage.pending += tasks
        usage.stored_bytes += size_bytes

    async def take_room(self, tenant: str, tasks: int) -> int:
        """Say how many of these tasks a tenant may send back to their queues. Raises QuotaExceeded for none of them."""
        most = self.of(tenant).max_pending
        fitting = tasks if most is None else min(tasks, max(1, most - (await self._usage(tenant)).pending))
        await self.check_room(tenant, fitting, 0)
        return fitting

    async def check_queues(self, tenant: str, queues: set[Queue]) -> None:
        """See whether a tenant may use these queues, too. Raises QuotaExceeded.

        What this process knows already costs nothing; what is new is held against all the tenant ever used.
        """
        most = self.of(tenant).max_queues
        new = {queue for queue in queues if not self._registry.knows(queue)}
        if most is None or not new:
            return
        used = {queue.whole for queue in await self._registry.queues(tenant)}
        if new - used and len(used | new) > most:
            raise QuotaExceeded("max_queues", len(used), len(new - used), most)

    async def held_by(self, tenant: str) -> tuple[int, int, int]:
        """Count what a tenant holds now: queues, waiting tasks, bytes."""
        queues = await self._registry.queues(tenant)
        stats = await self._inspector.stats(queues)
        names = {queue.job_type for queue in queues}
        return len(names), sum(one.ready + one.due for one in stats), sum(one.stored_bytes for one in stats)

    async def _usage(self, tenant: str) -> _Usage:
        usage = self._usages.get(tenant)
        if usage is None:
            if len(self._usages) >= _MOST_STOCKS:
                self._usages.clear()
            usage = self._usages[tenant] = _Usage()
        if time.monotonic() - usage.counted_at >= usage.period:
            if usage.counting is None:
                usage.counting = asyncio.get_running_loop().create_task(self._count(tenant, usage))
            await asyncio.shield(usage.counting)
        return usage

    async def _count(self, tenant: str, usage: _Usage) -> None:
        try:
            queues, usage.pending, usage.stored_bytes = await self.held_by(tenant)
            usage.period = max(_USAGE_SECONDS, queues / _QUEUES_PER_SECOND)
            usage.counted_at = time.monotonic()
        finally:
            usage.counting = None


def _left(bucket: str, left: int, seconds: float) -> Header:
    return (b"ratelimit", b'"%s";r=%d;t=%d' % (bucket.encode(), left, max(0, -int(-seconds // 1))))
