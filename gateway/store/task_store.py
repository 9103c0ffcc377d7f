"""TaskStore: every change of a task's state, one method a verb. Each runs the script of the same name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from gateway import retries
from gateway.errors import (
    BatchRefused,
    BatchTooLarge,
    InvalidMember,
    QueueFull,
    Refusal,
    SettingsChanged,
    StoreFull,
    StoreUnavailable,
    TaskChanged,
    TaskNotFound,
    UniqueConflict,
)
from gateway.queue_settings import NO_DEFAULTS, NO_SETTINGS, QueueSettings
from gateway.store import arq_format
from gateway.store.batching import Argument, Verb
from gateway.store.calls import Claim, Claimed, Granted, Held, Kept, Listener, Nobody, Reported, StaleSettings, Swept
from gateway.store.keys import Keys, QueueKeys
from gateway.store.partitions import Name, Partitions, read_name
from gateway.store.settings_format import read_settings, write_settings
from gateway.store.verbs import VERBS
from gateway.tasks import Lease, LeasedTask, Queue, Status, Task, TaskSpec, Ulids, public_id, split_id

_PATCH_TRIES = 5
_STALE_TRIES = 5
_PURGE_TASKS = 500
_MOST_SETTINGS = 10_000


class Lane(Protocol):
    """Where requests go that share calls to Redis."""

    def submit(self, verb: Verb, keys: QueueKeys, item: Any) -> asyncio.Future[Any]:
        """Put a request into the next call."""

    async def close(self) -> None:
        """Wait for what is under way, then drop the connections."""


class TaskStore:
    """The tasks in Redis.

    clock: unix ms for scripts, or None for Redis's own (tests hand in a time). gateway: this process's name.
    Every method raises StoreUnavailable when Redis does not answer, and StoreFull when it cannot take more; where
    replicas are waited for, NotReplicated when none confirmed it.
    """

    def __init__(
        self,
        keys: Keys,
        lanes: Mapping[str, Lane],
        gateway: str,
        queue_limit: int,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.keys = keys
        self.gateway = gateway
        self.queue_limit = queue_limit
        self._lanes = lanes
        self._clock = clock
        self._ahead_ms = 0.0
        self._ulids = Ulids()
        self._settings: dict[Queue, QueueSettings] = {}
        self.partitions = Partitions()
        # Why nothing of what is stored may be touched, or ''.
        self.refusal = ""
        self.listener: Listener = Nobody()
        # Told of each queue whose rings this process is going to wait for.
        self.expect_rings: Callable[[Queue], None] = lambda queue: None
        self._verbs = {verb.name: verb(self) for verb in VERBS}

    def now_ms(self) -> int:
        """The store's clock, as far as the last reply told it."""
        return self._clock() if self._clock else int(time.time() * 1000 + self._ahead_ms)

    def given_now(self) -> Argument:
        """What scripts get for the time: '' lets them read Redis's clock."""
        return self._clock() if self._clock else b""

    def heard_now(self, now_ms: int) -> None:
        """Note the store's clock from a reply."""
        self._ahead_ms = now_ms - time.time() * 1000

    def heard_spread(self, queue: Queue, spread: int) -> None:
        """Note how many partitions of a queue may hold tasks, as its first one tells."""
        if not queue.partition and self.partitions.heard(queue, spread):
            self.listener.spread(queue, self.partitions.all_of(queue))

    def heard_noted(self, every: Sequence[Queue]) -> None:
        """Note which partitions ever were, as the registry lists them: none may be left alone with its tasks."""
        for queue in self.partitions.noted(every):
            self.listener.spread(queue, self.partitions.all_of(queue))

    def arq_id(self, queue: Queue, task_id: str) -> bytes:
        """Find arq's job id of a public id: any bytes, since one that was not made here need be no text.

        Raises TaskNotFound when the id can be nobody's in this queue.
        """
        parts = split_id(task_id)
        if parts is None or parts.job_type != queue.job_type or parts.partition != queue.partition:
            raise TaskNotFound(task_id)
        arq_id = parts.rest if parts.plain else f"{self.keys.of(queue).tag}{parts.rest}"
        raw_id = arq_id.encode("utf-8", "surrogateescape")
        if parts.plain and not self.keys.may_hold(queue, raw_id):
            raise TaskNotFound(task_id)
        return raw_id

    def queue_of(self, tenant: str, task_id: str) -> Queue:
        """Find the queue, and the partition of it, that a public id names. Raises TaskNotFound: it can be nobody's."""
        parts = split_id(task_id)
        if parts is None:
            raise TaskNotFound(task_id)
        return Queue(tenant, parts.job_type, parts.partition)

    def make_names(self, queue: Queue, specs: Sequence[TaskSpec], *, atomic: bool = False) -> list[str]:
        """Make names for tasks of one queue to come; each tells its partition, too."""
        now_ms = self.now_ms()
        dealt = self.partitions.deal(queue, specs, self._settings.get(queue, NO_SETTINGS), together=atomic)
        return [str(Name(partition, self._ulids.make(now_ms))) for partition in dealt]

    async def enqueue(
        self, queue: Queue, specs: Sequence[TaskSpec], *, atomic: bool = False, names: Sequence[str] = ()
    ) -> list[Task | Held | Refusal]:
        """Store new tasks of one queue, at most 1,000. names: made before (`make_names`), one a spec.

        Returns per spec the task; Held where its unique key gave another one (or replaced it); QueueFull where the
        bound was reached; UniqueConflict. atomic: all or none, BatchRefused for those that stood beside a refused one,
        BatchTooLarge where they could not even fit into an empty queue.
        Source: lua/enqueue.lua.
        """
        if not names and self._settings.get(queue, NO_SETTINGS).partitions == 1:
            now_ms = self.now_ms()
            return await self._enqueue_anew(queue, specs, atomic, [self._ulids.make(now_ms) for _ in specs])
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
        for step in range(1, self._settings.get(queue, NO_SETTINGS).partitions):
            left = [
                i
                for i, (spec, outcome) in enumerate(zip(specs, outcomes, strict=True))
                if isinstance(outcome, QueueFull) and spec.unique is None and spec.concurrency_key is None
            ]
            if not left or (atomic and len(left) < len(specs)):
                return
            partitions = self._settings.get(queue, NO_SETTINGS).partitions
            part = queue.part((places[left[0]].partition + step) % partitions)
            try:
                done = await self._enqueue_anew(part, [specs[i] for i in left], atomic, [places[i].ulid for i in left])
            except (StoreFull, SettingsChanged):
                continue
            for i, outcome in zip(left, done, strict=True):
                outcomes[i] = outcome

    async def _enqueue_anew(
        self, part: Queue, specs: Sequence[TaskSpec], atomic: bool, ulids: Sequence[str]
    ) -> list[Task | Held | Refusal]:
        """Store tasks in one partition by the queue's settings as they are now."""
        queue = part.whole
        for _ in range(_STALE_TRIES):
            known = self._settings.get(queue, NO_SETTINGS)
            filled = [known.defaults.fill(spec) for spec in specs] if known.defaults is not NO_DEFAULTS else specs
            try:
                return await self._enqueue(part, filled, atomic, ulids, known)
            except StaleSettings:
                fresh = await self.settings(queue)
                if part.partition:
                    await self._copy_settings(part, fresh)
        raise SettingsChanged(queue.job_type)

    async def _enqueue(
        self, queue: Queue, specs: Sequence[TaskSpec], atomic: bool, ulids: Sequence[str], known: QueueSettings
    ) -> list[Task | Held | Refusal]:
        keys = self.keys.of(queue)
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
        now_ms, depth, dues = await self._submit("enqueue", "enqueue", keys, (queue, keys.tag, items, known.version))
        outcomes: list[Task | Held | Refusal] = []
        start = f"{queue.partition}." if queue.partition else ""
        for spec, item, due_ms in zip(specs, items, dues, strict=True):
            if isinstance(due_ms, bytes):
                word, _, arq_id = due_ms.decode("utf-8", "surrogateescape").partition(" ")
                holder = public_id(queue.job_type, arq_id, keys.tag)
                outcomes.append(UniqueConflict(holder) if word == "conflict" else Held(holder))
            elif due_ms < 0:
                outcomes.append(self._full(queue, known, depth, specs, atomic) if due_ms == -1 else BatchRefused([]))
            else:
                status = Status.SCHEDULED if due_ms else Status.PENDING
                task_id = f"{queue.job_type}~{start}{item[0]}"
                outcomes.append(Task(task_id, status, spec, now_ms, due_ms or now_ms))
        return outcomes

    def _full(self, part: Queue, known: QueueSettings, depth: int, specs: Sequence[TaskSpec], atomic: bool) -> Refusal:
        largest = known.bound_of(0, self.queue_limit)
        if atomic and len(specs) > largest:
            return BatchTooLarge(largest, f"an atomic batch for {part.job_type}")
        return QueueFull(part.job_type, depth, known.bound_of(part.partition, self.queue_limit), known.partitions)

    async def claim(
        self, queue: Queue, claims: Sequence[Claim], *, stays: bool, others: int, waited_ms: int
    ) -> Claimed:
        """Hand ready tasks to polls, in the order given.

        stays: unserved polls will wait, so this gateway wants to be rung; others: further polls that wait here for this
        queue; waited_ms: how long the oldest of them has waited.
        Source: lua/claim.lua.
        """
        self.expect_rings(queue)
        claimed: Claimed = await self._submit(
            "claim", "claim", self.keys.of(queue), (queue, claims, stays, others, waited_ms)
        )
        if claimed.corrupt:
            await asyncio.gather(*(self._end_corrupt(queue, leased, reason) for leased, reason in claimed.corrupt))
        return claimed

    async def heartbeat(
        self,
        queue: Queue,
        task_id: str,
        token: str,
        *,
        lease_ms: int = 0,
        progress: bytes = b"",
        lines: Sequence[str] = (),
    ) -> Kept:
        """Keep a claimed task for another `lease_ms` (0: as long as before).

        Raises LeaseLost if the token does not hold it now; TaskNotFound. Source: lua/heartbeat.lua.
        """
        item = (queue, task_id, self.arq_id(queue, task_id), token, lease_ms, progress, lines)
        kept: Kept = await self._submit("report", "heartbeat", self.keys.of(queue), item)
        return kept

    async def complete(self, queue: Queue, task_id: str, token: str, result: bytes) -> Reported:
        """End a claimed task well. result: JSON.

        Raises LeaseLost, TaskNotFound. Repeating it with the same token is answered the same. Source: lua/complete.lua.
        """
        item = (queue, task_id, self.arq_id(queue, task_id), token, *arq_format.completed_pairs(result))
        reported: Reported = await self._submit("report", "complete", self.keys.of(queue), item)
        return reported

    async def fail(
        self, queue: Queue, task_id: str, token: str, error: bytes, brief: bytes, message: str, *,
        retryable: bool = True, retry_in_ms: int | None = None, pause_ms: int = 0,
    ) -> Reported:  # fmt: skip
        """End a claimed attempt badly: the task waits for another one, or is failed.

        error: JSON; brief: shorter JSON for the history; message: what arq's clients raise. retry_in_ms: instead of the
        task's own backoff. pause_ms: the queue hands nothing out for that long. Raises LeaseLost, TaskNotFound.
        Source: lua/fail.lua.
        """
        arq_id = self.arq_id(queue, task_id)
        delay = retry_in_ms
        if delay is None:
            # The rule cannot change while the task is leased, and the token fences the attempt number.
            delay = await self._backoff_ms(queue, arq_id) if retryable else 0
        item = (
            queue,
            task_id,
            arq_id,
            token,
            retryable,
            delay,
            error,
            brief,
            pause_ms,
            *arq_format.failed_pairs(message, error),
        )
        reported: Reported = await self._submit("report", "fail", self.keys.of(queue), item)
        if pause_ms and len(await self.parts(queue.whole)) > 1:
            # Its script has paused its own partition; the others follow. This gateway may not know of them yet.
            await self.configure(queue.whole, None, pause=b"+%d" % pause_ms)
        return reported

    async def release(
        self,
        queue: Queue,
        task_id: str,
        token: str,
        *,
        delay_ms: int = 0,
        front: bool = False,
        poll: str = "",
    ) -> Reported:
        """Give a claimed task back, its attempt uncounted.

        front: to where it stood, as if it had never been claimed; otherwise to the end of its priority.
        poll: "<worker> <poll_id>" whose reply was lost; nothing happens if that poll was repeated meanwhile.
        Raises LeaseLost, TaskNotFound. Source: lua/release.lua.
        """
        item = (queue, task_id, self.arq_id(queue, task_id), token, delay_ms, front, poll)
        reported: Reported = await self._submit("report", "release", self.keys.of(queue), item)
        return reported

    async def expire(self, queue: Queue, limit: int = 200) -> Swept:
        """Sweep a queue: lapsed leases, tasks not started in time, due tasks, ended retention; `limit` of each.

        Source: lua/expire.lua.
        """
        swept: Swept = await self._submit("chore", "expire", self.keys.of(queue), (queue, limit))
        return swept

    async def take_alarms(
        self,
        noted: Mapping[Queue, int],
        settled: Mapping[Queue, tuple[int, int]],
        ahead_ms: int,
        left_ms: int,
        most: int,
    ) -> list[tuple[Queue, int, int]]:
        """Note alarms in the index that all gateways share, and take those that are due within `ahead_ms`.

        noted: queue -> unix ms; settled: of those taken before, until when they were left to us and the next (0: none).
        Returns the queues taken, at most so many, when they are due, and until when they are left to us: for `left_ms`.
        Source: lua/alarms.lua.
        """
        tag_of = self.keys.of
        item = (
            {tag_of(queue).tag: at_ms for queue, at_ms in noted.items()},
            {tag_of(queue).tag: word for queue, word in settled.items()},
            ahead_ms,
            left_ms,
            most,
        )
        taken = await self._submit("limit", "alarms", self.keys.alarms(), item)
        found = ((self.keys.queue_of(tag.decode()), at_ms, left_until_ms) for tag, at_ms, left_until_ms in taken)
        return [(queue, at_ms, left_until_ms) for queue, at_ms, left_until_ms in found if queue is not None]

    async def cancel(self, queue: Queue, task_id: str) -> bool:
        """Cancel a task. True: it is cancelled; False: its worker was asked.

        Raises AlreadyFinished, TaskNotFound. Source: lua/cancel.lua.
        """
        done: bool = await self._submit(
            "report", "cancel", self.keys.of(queue), (queue, task_id, self.arq_id(queue, task_id))
        )
        return done

    async def retry(self, queue: Queue, task_id: str, *, delay_ms: int = 0) -> None:
        """Send a failed or cancelled task back with fresh attempts, due after `delay_ms`.

        Raises AlreadyFinished (completed), NotFinished, QueueFull, TaskNotFound. Source: lua/retry.lua.
        """
        await self._submit(
            "report", "retry", self.keys.of(queue), (queue, task_id, self.arq_id(queue, task_id), delay_ms)
        )

    async def patch(
        self, queue: Queue, task_id: str, change: Callable[[TaskSpec], TaskSpec], due: Argument | None
    ) -> None:
        """Change a waiting task. change: makes its new spec; due: as enqueue.lua takes it, b"0" for now, None as it is.

        Raises AlreadyStarted, AlreadyFinished, TaskNotFound; InvalidMember for the contents of a plain arq job;
        TaskChanged when others kept changing it. Source: lua/patch.lua.
        """
        arq_id = self.arq_id(queue, task_id)
        for _ in range(_PATCH_TRIES):
            reply = await self.submit_read("read", queue, (arq_id, False))
            if not reply:
                raise TaskNotFound(task_id)
            try:
                record = arq_format.decode_record(reply[2])
                spec = arq_format.spec_of(record, queue.job_type)
            except arq_format.Corrupt:
                raise TaskNotFound(task_id) from None
            fresh_spec = change(spec)
            if record.o is None:
                if msgspec.structs.replace(fresh_spec, priority=spec.priority) != spec:
                    raise InvalidMember("payload", "a plain arq producer made this task; only its place can change")
                known = fresh = reply[2]
            else:
                known, fresh = arq_format.without_time(reply[2]), arq_format.encode_job(fresh_spec)
            given = b"" if due is None else due
            item = (queue, task_id, arq_id, known, fresh, fresh_spec.priority, given)
            if await self._submit("report", "patch", self.keys.of(queue), item):
                return
        raise TaskChanged(task_id)

    async def delete(self, queue: Queue, task_id: str) -> None:
        """Forget a final or waiting task. Raises AlreadyStarted, TaskNotFound. Source: lua/delete.lua."""
        item = (queue, task_id, self.arq_id(queue, task_id))
        await self._submit("report", "delete", self.keys.of(queue), item)

    async def purge(self, queue: Queue) -> int:
        """Forget every task of a queue that waits now, in calls of 500. Returns how many. Source: lua/purge.lua."""
        return sum([await self._purge(part) for part in await self.parts(queue)])

    async def _purge(self, queue: Queue) -> int:
        before_ms, offset, total, passed, more = self.now_ms(), 0, 0, 0, True
        while more:
            forgotten, offset, more = await self._submit(
                "chore", "purge", self.keys.of(queue), (before_ms, offset, _PURGE_TASKS)
            )
            total, passed = total + forgotten, passed + forgotten
            if not more and passed:
                # What was passed over may have moved: once more from the front, until there is nothing left.
                offset, passed, more = 0, 0, True
        return total

    async def settings(self, queue: Queue) -> QueueSettings:
        """Read what an operator set for a queue. Source: lua/settings.lua."""
        fields = await self.submit_read("settings", queue, None)
        found = read_settings(fields)
        if len(self._settings) >= _MOST_SETTINGS:
            self._settings.clear()
        self._settings[queue] = found
        self.heard_spread(queue, found.spread)
        return found

    async def parts(self, queue: Queue) -> list[Queue]:
        """List a queue's partitions that may hold tasks, as they are now. Most queues have one."""
        await self.settings(queue)
        return self.partitions.all_of(queue)

    async def _copy_settings(self, part: Queue, settings: QueueSettings) -> None:
        """Bring a further partition's settings up to those of its queue."""
        item = (part, b"=%d" % settings.version, settings.paused_until_ms, write_settings(settings))
        try:
            await self._submit("report", "configure", self.keys.of(part), item)
        except StaleSettings as stale:
            # Another change overtook this one; or a replica took over that lacks the change that this has a copy of.
            if (await self.settings(part.whole)).version < stale.version:
                above = (part.whole, b">%d" % stale.version, b"", None)
                await self._submit("report", "configure", self.keys.of(part.whole), above)
                await self._copy_settings(part, await self.settings(part.whole))

    async def configure(
        self, queue: Queue, settings: QueueSettings | None, *, version: int | None = None, pause: Argument = b""
    ) -> QueueSettings:
        """Replace a queue's settings (None: leave them), pause it or end its pause. Returns them as they are then.

        version: only if they are still of this version. pause: until then (unix ms, 0: go on), b"" as it is.
        Further partitions get theirs one after the other; who got no answer asks again.
        Raises StaleSettings: they changed meanwhile. Source: lua/configure.lua.
        """
        fields = None if settings is None else write_settings(settings)
        given: Argument = b"" if version is None else version
        held = last = await self._submit("report", "configure", self.keys.of(queue), (queue, given, pause, fields))
        while held and settings is not None and settings.max_processing_per_key is not None:
            # More of each key may run: what was held back is let go, some hundred tasks a call.
            now_held = await self._submit("report", "configure", self.keys.of(queue), (queue, b"", b"", fields))
            if now_held >= last:
                break
            held = last = now_held
        return await self._copy_to_all(queue)

    async def _copy_to_all(self, queue: Queue) -> QueueSettings:
        fresh = await self.settings(queue)
        for part in self.partitions.all_of(queue)[1:]:
            await self._copy_settings(part, fresh)
        return fresh

    async def forget_older(self, queue: Queue) -> None:
        """Give the present partitions the whole of the limits again, once those of a time when there were more are
        worked off: nothing happens while they hold tasks that are not completed."""
        known = await self.settings(queue)
        if known.spread <= known.partitions:
            return
        older = [queue.part(number) for number in range(known.partitions, known.spread)]
        counts = await asyncio.gather(*(self.submit_read("stats", part, None) for part in older))
        # What failed or was cancelled may be sent back.
        holding = [
            number
            for number, (_, ready, due, leased, _, failed, cancelled, *_) in enumerate(counts, 1)
            if ready or due or leased or failed or cancelled
        ]
        spread = known.partitions + max(holding, default=0)
        if spread == known.spread:
            return
        fields = write_settings(msgspec.structs.replace(known, spread=spread))
        try:
            item = (queue, b"<%d" % known.version, b"", fields)
            await self._submit("report", "configure", self.keys.of(queue), item)
        except StaleSettings:
            return
        await self._copy_to_all(queue)

    async def spend(self, whose: str, bucket: str, per_minute: int, ahead: int) -> Granted:
        """Ask a rate limit for one request, and for `ahead` more to keep in store. Source: lua/limit.lua."""
        keys = self.keys.bucket(whose, bucket)
        granted: Granted = await self._submit("limit", "limit", keys, (per_minute, ahead))
        return granted

    async def watch(self, queue: Queue, task_id: str, ttl_ms: int) -> int:
        """Ask to hear of the task's end. 1: it is final (or gone) already; 2: too many ask, look again by yourself.

        Source: lua/watch.lua.
        """
        self.expect_rings(queue)
        done: int = await self._submit("chore", "watch", self.keys.of(queue), (self.arq_id(queue, task_id), ttl_ms))
        return done

    async def pass_ring_on(self, queue: Queue) -> None:
        """Let another gateway claim: no poll waits here any more. Source: lua/ring.lua."""
        await self._submit("chore", "ring", self.keys.of(queue), queue)

    async def leases(self, queue: Queue, offset: int, limit: int = 500) -> list[Lease]:
        """List a queue's leases, earliest end first, a window at a time. Source: lua/leases.lua."""
        leases: list[Lease] = await self._submit("read", "leases", self.keys.of(queue), (queue, offset, limit))
        return leases

    async def close(self) -> None:
        """Finish what is under way and drop the connections."""
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))

    async def _end_corrupt(self, queue: Queue, leased: LeasedTask, reason: str) -> None:
        error = msgspec.json.encode({"type": "corrupt", "message": reason[:1000]})
        try:
            await self.fail(
                queue, leased.task.id, leased.token, error, error, f"corrupt: {reason[:1000]}", retryable=False
            )
        except Refusal:
            # Its lease lapses then, and the next claim of it ends it.
            pass

    def submit_read(self, verb: str, queue: Queue, item: Any) -> asyncio.Future[Any]:
        """Put a read into the read lane (the inspector's way in)."""
        return self._submit("read", verb, self.keys.of(queue), item)

    def _submit(self, lane: str, verb: str, keys: QueueKeys, item: Any) -> asyncio.Future[Any]:
        if self.refusal:
            raise StoreUnavailable(self.refusal)
        return self._lanes[lane].submit(self._verbs[verb], keys, item)

    async def _backoff_ms(self, queue: Queue, arq_id: bytes) -> int:
        reply = await self.submit_read("read", queue, (arq_id, False))
        if not reply or not reply[1]:
            return 0
        try:
            spec = arq_format.spec_of(arq_format.decode_record(reply[2]), queue.job_type)
        except arq_format.Corrupt:
            return 0
        return retries.delay_ms(spec.retry, int(reply[3]))
