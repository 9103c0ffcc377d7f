"""Reads: one task, lists with cursors, counts. Changes nothing."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence

import msgspec

from gateway.errors import BadCursor, TaskNotFound
from gateway.store.records import read_task
from gateway.store.task_store import TaskStore
from gateway.store.walk import A_CALL, TOP, Name, Walk
from gateway.tasks import Queue, Status, Task

# As scripts write them: 10 of time, then the rest of a ULID, or arq's id, which may be any bytes.
_ENTRY = re.compile(rb"[0-9a-z]{10}(=.+|[0-9A-Za-z_-]{1,160})", re.DOTALL)
_SCAN_LIMIT = 5000
_CROCKFORD = b"0123456789abcdefghjkmnpqrstvwxyz"


class QueueStats(msgspec.Struct, frozen=True):
    """Counts of one queue at one moment. oldest_ms: for how long its oldest ready task has waited (0: none);
    paused_ms: for how long yet it is paused; partitions: how many hold these tasks."""

    ready: int
    due: int
    leased: int
    completed: int
    failed: int
    cancelled: int
    oldest_ms: int
    totals: dict[str, int]
    stored_bytes: int = 0
    paused_ms: int = 0
    max_pending: int = 0
    partitions: int = 1


def together(parts: Sequence[QueueStats]) -> QueueStats:
    """Add up the counts of a queue's partitions, the first of them first."""
    first = parts[0]
    if len(parts) == 1:
        return first
    totals: dict[str, int] = {}
    for part in parts:
        for name, number in part.totals.items():
            totals[name] = totals.get(name, 0) + number
    return QueueStats(
        ready=sum(part.ready for part in parts),
        due=sum(part.due for part in parts),
        leased=sum(part.leased for part in parts),
        completed=sum(part.completed for part in parts),
        failed=sum(part.failed for part in parts),
        cancelled=sum(part.cancelled for part in parts),
        oldest_ms=max(part.oldest_ms for part in parts),
        totals=totals,
        stored_bytes=sum(part.stored_bytes for part in parts),
        paused_ms=first.paused_ms,
        max_pending=first.max_pending,
        partitions=len(parts),
    )


class Filter(msgspec.Struct, frozen=True):
    """Which tasks a list shows; None: all. Times are unix ms, after: inclusive, before: exclusive."""

    statuses: frozenset[Status] | None = None
    tags: tuple[tuple[str, str], ...] = ()
    worker_id: str | None = None
    created_after_ms: int | None = None
    created_before_ms: int | None = None

    def shows(self, task: Task) -> bool:
        """Whether the list shows this task."""
        return (
            (self.statuses is None or task.status in self.statuses)
            and all(task.spec.tags.get(name) == value for name, value in self.tags)
            and (
                self.worker_id is None
                or task.worker_id == self.worker_id
                or any(one.worker_id == self.worker_id for one in task.attempts)
            )
            and (self.created_after_ms is None or task.created_at_ms >= self.created_after_ms)
            and (self.created_before_ms is None or task.created_at_ms < self.created_before_ms)
        )


class Inspector:
    """Looks at tasks. Every method raises StoreUnavailable when Redis does not answer.

    a_call: how many live tasks one call to Redis looks at for a list.
    """

    def __init__(self, store: TaskStore, *, a_call: int = A_CALL) -> None:
        self._store = store
        self._a_call = a_call

    async def get(self, queue: Queue, task_id: str, *, with_gone: bool = False) -> Task:
        """Read one task with its log. with_gone: also one whose retention has just ended. Raises TaskNotFound."""
        reply = await self._store.submit_read("read", queue, (self._store.arq_id(queue, task_id), True))
        task = read_task(reply, queue, self._store.keys.of(queue).tag, self._store.now_ms())
        if task is None or (task.gone_at_ms and task.gone_at_ms <= self._store.now_ms() and not with_gone):
            raise TaskNotFound(task_id)
        return task

    async def page(
        self, queues: Sequence[Queue], which: Filter, limit: int, cursor: str | None
    ) -> tuple[list[Task], str | None]:
        """List tasks of some queues, newest first: at most `limit`, and the cursor of the next page.

        A task that exists throughout a walk is seen exactly once: places are times of creation, which never change.
        A page may be short of `limit` when few of many tasks pass the filter. Raises BadCursor.
        """
        before = _read_cursor(cursor) if cursor else _upper_bound(which.created_before_ms)
        after = _lower_bound(which.created_after_ms)
        statuses = frozenset(Status) if which.statuses is None else which.statuses
        walk = Walk(self._store, queues, statuses, before, after, a_call=self._a_call)
        found: list[Task] = []
        read = 0
        step = limit
        while True:
            names, place = await walk.next(step)
            for task, (entry, _) in zip(await self._read(names) if names else [], names, strict=True):
                if task is not None and which.shows(task):
                    found.append(task)
                    if len(found) == limit:
                        last = entry == names[-1][0] and place is None
                        return found, None if last else _write_cursor(entry)
            if place is None:
                return found, None
            read += len(names)
            if not names or read >= _SCAN_LIMIT:
                return found, _write_cursor(place)
            step = min(step * 2, 500)

    async def stats(self, queues: Sequence[Queue]) -> list[QueueStats]:
        """Count the tasks of some queues."""
        replies = await asyncio.gather(*(self._store.submit_read("stats", queue, None) for queue in queues))
        now_ms = self._store.now_ms()
        return [
            QueueStats(
                ready=reply[1],
                due=reply[2],
                leased=reply[3],
                completed=reply[4],
                failed=reply[5],
                cancelled=reply[6],
                oldest_ms=max(0, now_ms - reply[7]) if reply[7] else 0,
                totals={name: number for name, number in totals.items() if name != "bytes"},
                stored_bytes=max(0, totals.get("bytes", 0)),
                paused_ms=max(0, reply[9] - now_ms) if reply[9] else 0,
                max_pending=reply[10],
            )
            for reply in replies
            for totals in [_numbers(reply[8])]
        ]

    async def _read(self, names: list[Name]) -> list[Task | None]:
        replies = await asyncio.gather(
            *(self._store.submit_read("read", queue, (self._id_of(entry, queue), False)) for entry, queue in names)
        )
        now_ms = self._store.now_ms()
        tasks = []
        for reply, (_, queue) in zip(replies, names, strict=True):
            task = read_task(reply, queue, self._store.keys.of(queue).tag, now_ms)
            tasks.append(None if task is None or (task.gone_at_ms and task.gone_at_ms <= now_ms) else task)
        return tasks

    def _id_of(self, entry: bytes, queue: Queue) -> bytes:
        """arq's id of a list entry, as `id_of` in lua/prelude.lua."""
        return entry[11:] if entry[10:11] == b"=" else self._store.keys.of(queue).tag.encode() + entry


def _time_prefix(at_ms: int) -> bytes:
    at_ms = min(max(at_ms, 0), (1 << 48) - 1)
    return bytes(_CROCKFORD[(at_ms >> shift) & 31] for shift in range(45, -1, -5))


# Names start with the gateway's idea of the time; a second of slack covers its error, the filter does the rest.
def _upper_bound(created_before_ms: int | None) -> bytes:
    return TOP if created_before_ms is None else _time_prefix(created_before_ms + 1000)


def _lower_bound(created_after_ms: int | None) -> bytes:
    return b"" if created_after_ms is None else _time_prefix(created_after_ms - 1000)


def _write_cursor(entry: bytes) -> str:
    return base64.urlsafe_b64encode(entry).decode().rstrip("=")


def _read_cursor(cursor: str) -> bytes:
    try:
        entry = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadCursor() from None
    if not _ENTRY.fullmatch(entry) or _write_cursor(entry) != cursor:
        raise BadCursor()
    return entry


def _numbers(flat: list[bytes]) -> dict[str, int]:
    return {name.decode(): int(number) for name, number in zip(flat[::2], flat[1::2], strict=True)}
