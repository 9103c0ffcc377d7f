"""A walk down the lists of some queues: where the tasks in some states are found, newest first."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from gateway.store.task_store import TaskStore
from gateway.tasks import Queue, Status

Name: TypeAlias = "tuple[bytes, Queue]"
# Above every entry: those start with a time, in letters and digits.
TOP = b"\xff"
# Live tasks that are looked at in one call to Redis: some milliseconds.
A_CALL = 1500
_CALLS = 4
_FEWEST = 100


class Walk:
    """Finds list entries of tasks in `statuses`, older than `before` and not older than `after`.

    a_call: how many live tasks to look at in one call to Redis, about; a walk looks at four times as many at most. What
    is rare among more than that is found by the next walk, from where this one stopped.
    """

    def __init__(
        self,
        store: TaskStore,
        queues: Iterable[Queue],
        statuses: Iterable[Status],
        before: bytes = TOP,
        after: bytes = b"",
        *,
        a_call: int = A_CALL,
    ) -> None:
        self._store = store
        self._statuses = [status.value for status in sorted(statuses)]
        self._after = after
        self._a_call = a_call
        self._left = _CALLS * a_call
        # Newest first, what was found and not given out yet.
        self._known: list[Name] = []
        # Queues that were not looked through to their ends, and down to where they were.
        self._open = dict.fromkeys(queues, before) if self._statuses else {}

    async def next(self, limit: int) -> tuple[list[Name], bytes | None]:
        """Find the next `limit` entries, fewer when the walk ends or has looked at as many tasks as it may.

        Returns them, and the place from which to go on, or None: there are no more.
        """
        while self._left > 0:
            # One more than asked for, to know whether there is more.
            enough = self._known[limit][0] if len(self._known) > limit else b""
            behind = [queue for queue, place in self._open.items() if place > enough]
            if not behind:
                break
            await self._look(behind, limit + 1)
        place = max(self._open.values(), default=None)
        sure = len(self._known)
        if place is not None:
            sure = bisect_left(self._known, True, key=lambda name: name[0] < place)
        names, self._known = self._known[: min(limit, sure)], self._known[min(limit, sure) :]
        return names, names[-1][0] if sure > limit else place

    async def _look(self, queues: Sequence[Queue], limit: int) -> None:
        each = max(self._a_call // len(queues), min(self._a_call, _FEWEST))
        pages = await asyncio.gather(
            *(
                self._store.submit_read("page", queue, (self._open[queue], self._after, limit, each, self._statuses))
                for queue in queues
            )
        )
        for queue, (looked, lists) in zip(queues, pages, strict=True):
            self._left -= looked
            before, place = self._open.pop(queue), max((rest for rest, *_ in lists), default=b"")
            low = max(self._after, place)
            self._known += [(entry, queue) for _, *entries in lists for entry in entries if low <= entry < before]
            if place:
                self._open[queue] = place
        self._known.sort(key=_by_entry, reverse=True)


_by_entry: Callable[[Name], bytes] = lambda name: name[0]  # noqa: E731 - a key, not a function of its own
