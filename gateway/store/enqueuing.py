"""How new tasks are stored: into which partition, by which settings, and what became of each."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from gateway.errors import (
    BatchRefused,
    BatchTooLarge,
    QueueFull,
    Refusal,
    SettingsChanged,
    StoreFull,
    TaskNotFound,
    UniqueConflict,
)
from gateway.queue_settings import NO_DEFAULTS, QueueSettings
from gateway.store import arq_format
from gateway.store.batching import Argument
from gateway.store.caller import Caller
from gateway.store.calls import Held, StaleSettings
from gateway.store.partitions import Name, Partitions, read_name
from gateway.store.settings_store import SettingsStore
from gateway.tasks import Queue, Status, Task, TaskSpec, Ulids, public_id

_STALE_TRIES = 5


class Enqueuing:
    """Stores new tasks."""

    def __init__(self, caller: Caller, settings: SettingsStore, partitions: Partitions) -> None:
        self._caller = caller
        self._settings = settings
        self._partitions = partitions
        self._ulids = Ulids()

    def make_names(self, queue: Queue, specs: Sequence[TaskSpec], *, atomic: bool = False) -> list[str]:
        """Make names for tasks of one queue to come; each tells its partition, too."""
        now_ms = self._caller.now_ms()
        dealt = self._partitions.deal(queue, specs, self._settings.known(queue), together=atomic)
        return [str(Name(partition, self._ulids.make(now_ms))) for partition in dealt]

    def enqueue(
        self, queue: Queue, specs: Sequence[TaskSpec], atomic: bool, names: Sequence[str]
    ) -> Coroutine[Any, Any, list[Task | Held | Refusal]]:
        """Store new tasks of one queue, as `TaskStore.enqueue`."""
        if not names and self._settings.known(queue).partitions == 1:
            return self._enqueue_whole(queue, specs, atomic)
        return self._enqueue_spread(queue, specs, atomic, names)

    async def _enqueue_whole(
        self, queue: Queue, specs: Sequence[TaskSpec], atomic: bool
    ) -> list[Task | Held | Refusal]:
        """Store tasks of a queue that has one partition, as far as is known."""
        now_ms = self._caller.now_ms()
        ulids = [self._ulids.make(now_ms) for _ in specs]
        outcomes = await self._enqueue_anew(queue, specs, atomic, ulids)
        if self._settings.known(queue).partitions > 1:
            # It has more since.
            await self._overflow(queue, specs, atomic, [Name(0, ulid) for ulid in ulids], outcomes)
        return outcomes

    async def _enqueue_spread(
        self, queue: Queue, specs: Sequence[TaskSpec], atomic: bool, names: Sequence[str]
    ) -> list[Task | Held | Refusal]:
        """Store tasks of a queue that has partitions, or whose names were made before."""
        places = [read_name(name) for name in names or self.make_names(queue, specs, atomic=atomic)]
        first = places[0].partition
        if all(place.partition == first for place in places):
            part = queue.part(first)
            outcomes = await self._enqueue_anew(part, specs, atomic, [place.ulid for place in places])
        else:
            outcomes, numbers = [TaskNotFound("")] * len(specs), sorted({place.partition for place in places})
            for number in numbers:
                mine = [i for i, place in enumerate(places) if place.partition == number]
                part, done = queue.part(number), list[Task | Held | Refusal]()
                try:
                    done += await self._enqueue_anew(
                        part, [specs[i] for i in mine], atomic, [places[i].ulid for i in mine]
                    )
                except (StoreFull, SettingsChanged) as refusal:
                    if number == numbers[0]:
                        raise
                    # What the partitions before took stands.
                    done += [refusal] * len(mine)
                for i, outcome in zip(mine, done, strict=True):
                    outcomes[i] = outcome
        if not names:
            await self._overflow(queue, specs, atomic, places, outcomes)
        return outcomes

    async def _overflow(
        self,
        queue: Queue,
        specs: Sequence[TaskSpec],
        atomic: bool,
        places: Sequence[Name],
        outcomes: list[Task | Held | Refusal],
    ) -> None:
        """Offer what one partition had no room for to the others. What has a key stays where its key is known."""
        left = _without_room(specs, outcomes)
        if not left:
            return
        tried, partitions = places[left[0]].partition, self._settings.known(queue).partitions
        # What was tried may be one of a time when there were more.
        others = ((tried + step) % partitions for step in range(1, partitions + 1))
        for number in (other for other in others if other != tried):
            if not left or (atomic and len(left) < len(specs)):
                return
            offered, ulids = [specs[i] for i in left], [places[i].ulid for i in left]
            try:
                done = await self._enqueue_anew(queue.part(number), offered, atomic, ulids)
            except (StoreFull, SettingsChanged):
                continue
            for i, outcome in zip(left, done, strict=True):
                outcomes[i] = outcome
            left = _without_room(specs, outcomes)

    async def _enqueue_anew(
        self, part: Queue, specs: Sequence[TaskSpec], atomic: bool, ulids: Sequence[str]
    ) -> list[Task | Held | Refusal]:
        """Store tasks in one partition by the queue's settings as they are now."""
        queue = part.whole
        for _ in range(_STALE_TRIES):
            known = self._settings.known(queue)
            filled = [known.defaults.fill(spec) for spec in specs] if known.defaults is not NO_DEFAULTS else specs
            try:
                return await self._enqueue(part, filled, atomic, ulids, known)
            except StaleSettings:
                fresh = await self._settings.read(queue)
                if part.partition:
                    await self._settings.copy(part, fresh)
        raise SettingsChanged(queue.job_type)

    async def _enqueue(
        self, queue: Queue, specs: Sequence[TaskSpec], atomic: bool, ulids: Sequence[str], known: QueueSettings
    ) -> list[Task | Held | Refusal]:
        keys = self._caller.keys.of(queue)
        items = []
        for number, spec in enumerate(specs):
            due: Argument = b""
            if spec.run_at_ms:
                due = spec.run_at_ms
            elif spec.delay_ms:
                due = b"+%d" % spec.delay_ms
            group = 1 if not atomic else len(specs) if number == 0 else 0
            body, unique = arq_format.encode_job(spec), arq_format.encode_unique(spec.unique)
            items.append((ulids[number], spec.priority, due, spec.expires_in_ms, group, body, unique))
        item = (queue, keys.tag, items, known.version)
        now_ms, depth, dues = await self._caller.submit("enqueue", "enqueue", keys, item)
        outcomes: list[Task | Held | Refusal] = []
        start = f"{queue.partition}." if queue.partition else ""
        for spec, ulid, due_ms in zip(specs, ulids, dues, strict=True):
            if isinstance(due_ms, bytes):
                word, _, arq_id = due_ms.decode("utf-8", "surrogateescape").partition(" ")
                holder = public_id(queue.job_type, arq_id, keys.tag)
                outcomes.append(UniqueConflict(holder) if word == "conflict" else Held(holder))
            elif due_ms < 0:
                outcomes.append(self._full(queue, known, depth, specs, atomic) if due_ms == -1 else BatchRefused([]))
            else:
                status = Status.SCHEDULED if due_ms else Status.PENDING
                task_id = f"{queue.job_type}~{start}{ulid}"
                outcomes.append(Task(task_id, status, spec, now_ms, due_ms or now_ms))
        return outcomes

    def _full(self, part: Queue, known: QueueSettings, depth: int, specs: Sequence[TaskSpec], atomic: bool) -> Refusal:
        largest, bound = (known.bound_of(number, self._caller.queue_limit) for number in (0, part.partition))
        # One with a unique key needs no room where another task holds it.
        if atomic and sum(spec.unique is None for spec in specs) > largest:
            return BatchTooLarge(largest, f"an atomic batch for {part.job_type}")
        return QueueFull(part.job_type, depth, bound, known.partitions)


def _without_room(specs: Sequence[TaskSpec], outcomes: Sequence[Task | Held | Refusal]) -> list[int]:
    """List what found no room and may stand in any partition."""
    return [
        i
        for i, (spec, outcome) in enumerate(zip(specs, outcomes, strict=True))
        if isinstance(outcome, QueueFull) and spec.unique is None and spec.concurrency_key is None
    ]
