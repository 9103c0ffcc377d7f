"""Requests about many tasks at once: cancel, retry, delete what a filter meets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from gateway.api import task_messages
from gateway.api.audit import audit
from gateway.api.codec import read_message
from gateway.api.endpoint import Call, Reply
from gateway.api.ids import queues_of
from gateway.api.replies import encode
from gateway.api.requests import filter_of
from gateway.api.task_messages import BulkReply
from gateway.errors import QuotaExceeded, Refusal, StoreFull, StoreUnavailable
from gateway.limits import TenantLimits
from gateway.store.inspector import Inspector
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.tasks import FINAL, Queue, Status, Task

MAX_TASKS = 10_000
PAGE_TASKS = 200
_bulk = msgspec.json.Decoder(task_messages.Bulk)
_CANCELLABLE = frozenset(Status) - FINAL
_RETRYABLE = frozenset({Status.FAILED, Status.CANCELLED})
_DELETABLE = frozenset(Status) - {Status.PROCESSING}


class Bulk:
    """Handlers for bulk requests. One request changes at most 10,000 tasks, each by its own script."""

    def __init__(
        self, store: TaskStore, inspector: Inspector, registry: Registry, limits: TenantLimits, max_body_bytes: int
    ) -> None:
        self._limits = limits
        self._store = store
        self._inspector = inspector
        self._registry = registry
        self._max_body_bytes = max_body_bytes

    async def cancel(self, call: Call) -> Reply:
        """POST /tasks/cancel. 200 with counts, 400."""
        return await self._each(call, "cancelled tasks", _CANCELLABLE, self._store.cancel)

    async def retry(self, call: Call) -> Reply:
        """POST /tasks/retry. 200 with counts, 400, 429."""
        return await self._each(call, "retried tasks", _RETRYABLE, self._store.retry, back=True)

    async def delete(self, call: Call) -> Reply:
        """POST /tasks/delete. 200 with counts, 400."""
        return await self._each(call, "deleted tasks", _DELETABLE, self._store.delete)

    async def _each(
        self,
        call: Call,
        action: str,
        eligible: frozenset[Status],
        change: Callable[[Queue, str], Awaitable[object]],
        *,
        back: bool = False,
    ) -> Reply:
        """Change what a filter meets, page by page. back: it sends tasks back, for which the tenant needs room."""
        request = await read_message(call, _bulk, self._max_body_bytes)
        which = filter_of(request.filter, eligible)
        queues = await queues_of(call, self._store, self._registry, request.filter.job_type)
        matched = changed = 0
        cursor: str | None = None
        more = bool(which.statuses)
        while more and matched < MAX_TASKS:
            tasks, cursor = await self._inspector.page(queues, which, min(PAGE_TASKS, MAX_TASKS - matched), cursor)
            fitting = len(tasks)
            if not request.dry_run:
                if back:
                    fitting = await room_for(self._limits, call.identity.tenant, len(tasks), changed)
                changed += sum(await asyncio.gather(*(self._one(call, task, change) for task in tasks[:fitting])))
            matched += fitting
            more = cursor is not None or fitting < len(tasks)
            if fitting < len(tasks):
                break
        if not request.dry_run:
            audit(call, action, job_type=request.filter.job_type or "*", changed=changed)
        return Reply(200, encode(BulkReply(matched=matched, changed=changed, more=more)))

    async def _one(self, call: Call, task: Task, change: Callable[[Queue, str], Awaitable[object]]) -> bool:
        try:
            await change(self._store.queue_of(call.identity.tenant, task.id), task.id)
        except (StoreUnavailable, StoreFull):
            raise
        except Refusal:
            # It moved on since the filter met it.
            return False
        return True


async def room_for(limits: TenantLimits, tenant: str, tasks: int, changed: int) -> int:
    """Say how many of a page's tasks may go back. changed: how many did before it.

    Raises QuotaExceeded when there is no room, and nothing changed that the reply would have to tell.
    """
    if not tasks:
        return 0
    try:
        return await limits.take_room(tenant, tasks)
    except QuotaExceeded:
        if not changed:
            raise
        return 0
