"""What operators do to queues: settings, pause, purge, redrive. Protocol, "Operators"."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UnsetType

from gateway.api.admin_messages import (
    DefaultsReply,
    NewQueueSettings,
    Pause,
    Purged,
    QueueDefaults,
    QueueSettingsReply,
    Redrive,
)
from gateway.api.audit import audit
from gateway.api.bulk import MAX_TASKS, PAGE_TASKS, room_for
from gateway.api.codec import read_message
from gateway.api.endpoint import Call, Reply
from gateway.api.ids import queue_named
from gateway.api.replies import encode, retry_rule
from gateway.api.requests import filter_of, retry_policy
from gateway.api.task_messages import BulkReply, TaskFilter
from gateway.api.times import format_time, parse_ahead
from gateway.errors import (
    InvalidMember,
    Refusal,
    SettingsChanged,
    StoreFull,
    StoreUnavailable,
)
from gateway.limits import TenantLimits
from gateway.queue_settings import FOR_EVER_MS, NO_DEFAULTS, Defaults, QueueSettings
from gateway.retries import MAX_DELAY_SECONDS
from gateway.store.calls import StaleSettings
from gateway.store.inspector import Inspector
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.tasks import Queue, Status

_PATCH_TRIES = 5
_FAILED = frozenset({Status.FAILED})
_settings = msgspec.json.Decoder(NewQueueSettings)
_pause = msgspec.json.Decoder(Pause)
_redrive = msgspec.json.Decoder(Redrive)


class QueueAdmin:
    """Handlers for what operators do to queues. Each is written to the audit log."""

    def __init__(
        self, store: TaskStore, inspector: Inspector, registry: Registry, limits: TenantLimits, max_body_bytes: int
    ) -> None:
        self._limits = limits
        self._store = store
        self._inspector = inspector
        self._registry = registry
        self._max_body_bytes = max_body_bytes

    async def settings(self, call: Call) -> Reply:
        """GET /queues/{job_type}/settings. 200, 400."""
        call.query()
        queue = queue_named(call)
        return self._reply(queue, await self._store.settings(queue))

    async def put(self, call: Call) -> Reply:
        """PUT /queues/{job_type}. 200 the settings, 400, 413, 415."""
        queue = queue_named(call)
        given = await read_message(call, _settings, self._max_body_bytes)
        settings = _changed(QueueSettings(), given)
        await self._limits.check_queues(queue.tenant, {queue})
        _check_parts(settings, given, self._store.queue_limit)
        await self._register(queue, settings)
        changed = await self._store.configure(queue, settings, pause=_pause_of(given))
        return self._done(call, queue, "set a queue", changed)

    async def patch(self, call: Call) -> Reply:
        """PATCH /queues/{job_type}. 200 the settings, 400, 409, 413, 415."""
        queue = queue_named(call)
        given = await read_message(call, _settings, self._max_body_bytes)
        await self._limits.check_queues(queue.tenant, {queue})
        for _ in range(_PATCH_TRIES):
            known = await self._store.settings(queue)
            settings = _changed(known, given)
            _check_parts(settings, given, self._store.queue_limit)
            await self._register(queue, settings)
            try:
                changed = await self._store.configure(queue, settings, version=known.version, pause=_pause_of(given))
            except StaleSettings:
                continue
            return self._done(call, queue, "changed a queue", changed)
        raise SettingsChanged(queue.job_type)

    async def pause(self, call: Call) -> Reply:
        """POST /queues/{job_type}/pause. 200 the settings, 400, 415."""
        queue = queue_named(call)
        call.query()
        given = await read_message(call, _pause, self._max_body_bytes) if _has_body(call) else Pause()
        until_ms = FOR_EVER_MS
        if given.seconds is not None:
            if given.until is not None:
                raise InvalidMember("until", "stands beside seconds; give one of them")
            until_ms = self._store.now_ms() + max(1, round(given.seconds * 1000))
        elif given.until is not None:
            until_ms = parse_ahead(given.until, "until")
            if until_ms <= self._store.now_ms():
                raise InvalidMember("until", "is past; `resume` ends a pause")
        await self._limits.check_queues(queue.tenant, {queue})
        await self._registry.register({queue})
        changed = await self._store.configure(queue, None, pause=until_ms)
        return self._done(call, queue, "paused a queue", changed)

    async def resume(self, call: Call) -> Reply:
        """POST /queues/{job_type}/resume. 200 the settings, 400."""
        call.query()
        queue = queue_named(call)
        known = await self._store.settings(queue)
        if not known.version and not known.paused_until_ms:
            # Nothing was ever set: there is no pause to end, and nothing to keep.
            return self._reply(queue, known)
        changed = await self._store.configure(queue, None, pause=0)
        return self._done(call, queue, "resumed a queue", changed)

    async def purge(self, call: Call) -> Reply:
        """POST /queues/{job_type}/purge. 200 with a count, 400."""
        call.query()
        queue = queue_named(call)
        purged = await self._store.purge(queue)
        audit(call, "purged a queue", job_type=queue.job_type, purged=purged)
        return Reply(200, encode(Purged(purged=purged)))

    async def redrive(self, call: Call) -> Reply:
        """POST /queues/{job_type}/redrive. 200 with counts, 400, 413, 415, 429."""
        queue = queue_named(call)
        call.query()
        given = await read_message(call, _redrive, self._max_body_bytes) if _has_body(call) else Redrive()
        chosen = given.filter or TaskFilter()
        if chosen.job_type not in (None, queue.job_type):
            raise InvalidMember("filter.job_type", "differs from the queue in the path")
        which = filter_of(chosen, _FAILED)
        step_ms = 1000 / given.rate_per_second if given.rate_per_second else 0.0
        parts = await self._store.parts(queue)
        matched = changed = 0
        cursor: str | None = None
        more = bool(which.statuses)
        while more and matched < MAX_TASKS:
            limit = min(PAGE_TASKS, MAX_TASKS - matched)
            tasks, cursor = await self._inspector.page(parts, which, limit, cursor)
            fitting = len(tasks)
            if not given.dry_run:
                fitting = await room_for(self._limits, queue.tenant, len(tasks), changed)
                delays = [
                    min(round((matched + number) * step_ms), MAX_DELAY_SECONDS * 1000) for number in range(fitting)
                ]
                done = await asyncio.gather(
                    *(self._retry(queue, task.id, delay) for task, delay in zip(tasks[:fitting], delays, strict=True))
                )
                changed += sum(done)
            matched += fitting
            more = cursor is not None or fitting < len(tasks)
            if fitting < len(tasks):
                break
        if not given.dry_run:
            audit(call, "redrove a queue", job_type=queue.job_type, changed=changed, rate=given.rate_per_second)
        return Reply(200, encode(BulkReply(matched=matched, changed=changed, more=more)))

    async def _retry(self, queue: Queue, task_id: str, delay_ms: int) -> bool:
        try:
            await self._store.retry(self._store.queue_of(queue.tenant, task_id), task_id, delay_ms=delay_ms)
        except (StoreUnavailable, StoreFull):
            raise
        except Refusal:
            # It moved on since the filter met it, or the queue is full.
            return False
        return True

    async def _register(self, queue: Queue, settings: QueueSettings) -> None:
        """Note the queue, and each partition it is to have, before anything can stand there."""
        await self._registry.register({queue, *(queue.part(number) for number in range(1, settings.partitions))})

    def _done(self, call: Call, queue: Queue, action: str, settings: QueueSettings) -> Reply:
        audit(call, action, job_type=queue.job_type, version=settings.version)
        return self._reply(queue, settings)

    def _reply(self, queue: Queue, settings: QueueSettings) -> Reply:
        return Reply(200, encode(settings_reply(queue, settings, self._store.queue_limit, self._store.now_ms())))


def settings_reply(queue: Queue, settings: QueueSettings, queue_limit: int, now_ms: int) -> QueueSettingsReply:
    """A queue's settings as a message."""
    given = settings.defaults
    paused = settings.paused_until_ms > now_ms
    ends = paused and settings.paused_until_ms < FOR_EVER_MS
    return QueueSettingsReply(
        job_type=queue.job_type,
        max_pending=settings.max_pending or queue_limit,
        max_processing=settings.max_processing,
        rate_per_second=settings.rate_per_second,
        max_processing_per_key=settings.max_processing_per_key or 1,
        partitions=settings.partitions,
        defaults=DefaultsReply(
            max_attempts=given.max_attempts,
            retry=None if given.retry is None else retry_rule(given.retry),
            lease_seconds=_seconds(given.lease_ms),
            timeout_seconds=_seconds(given.timeout_ms),
            retention_seconds=_seconds(given.retention_ms),
        ),
        paused=paused,
        paused_until=format_time(settings.paused_until_ms) if ends else None,
        version=settings.version,
    )


def _has_body(call: Call) -> bool:
    return call.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in call.headers


def _changed(known: QueueSettings, given: NewQueueSettings) -> QueueSettings:
    changes: dict[str, object] = {}
    for name in ("max_pending", "max_processing", "rate_per_second", "max_processing_per_key"):
        value = getattr(given, name)
        if not isinstance(value, UnsetType):
            changes[name] = value
    if not isinstance(given.partitions, UnsetType):
        changes["partitions"] = given.partitions or 1
    if not isinstance(given.defaults, UnsetType):
        changes["defaults"] = NO_DEFAULTS if given.defaults is None else _defaults(given.defaults)
    return msgspec.structs.replace(known, **changes)


def _check_parts(settings: QueueSettings, given: NewQueueSettings, queue_limit: int) -> None:
    """Refuse limits of which a partition's part would be nothing, in the name of the member that was sent."""
    least = {
        "max_processing": settings.partitions,
        "max_pending": settings.partitions,
        # Each partition gives out at least one task at once: together no more than a tenth of the rate.
        "rate_per_second": 10 * settings.partitions if settings.partitions > 1 else 0,
    }
    for name, needed in least.items():
        limit = getattr(settings, name)
        if name == "max_pending":
            limit = limit or queue_limit
        if limit is None or limit >= needed:
            continue
        count = settings.partitions
        if isinstance(getattr(given, name), UnsetType):
            raise InvalidMember("partitions", f"{count} of them need {name} {needed}; it is {limit:g}")
        raise InvalidMember(name, f"{limit:g} is too little for {count} partitions: {needed} at least")


def _defaults(given: QueueDefaults) -> Defaults:
    return Defaults(
        max_attempts=given.max_attempts,
        retry=None if given.retry is None else retry_policy(given.retry),
        lease_ms=_ms(given.lease_seconds),
        retention_ms=_ms(given.retention_seconds),
        timeout_ms=_ms(given.timeout_seconds),
    )


def _pause_of(given: NewQueueSettings) -> bytes | int:
    if isinstance(given.paused, UnsetType) or given.paused is None:
        return b""
    return FOR_EVER_MS if given.paused else 0


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
