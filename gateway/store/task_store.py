"""TaskStore: every change of a task's state, one method a verb. Each runs the script of the same name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from gateway import retries
from gateway.errors import InvalidMember, NotReplicated, Refusal, TaskChanged, TaskNotFound
from gateway.queue_settings import QueueSettings
from gateway.store import arq_format
from gateway.store.batching import Argument
from gateway.store.caller import Caller, Lane
from gateway.store.calls import Claim, Claimed, Granted, Held, Kept, Reported, Swept
from gateway.store.enqueuing import Enqueuing
from gateway.store.keys import Keys
from gateway.store.partitions import Partitions
from gateway.store.settings_store import SettingsStore
from gateway.tasks import Lease, LeasedTask, Queue, Task, TaskSpec, split_id

log = logging.getLogger("gateway.store")
_PATCH_TRIES = 5
_PURGE_TASKS = 500


class TaskStore(Caller):
    """The tasks in Redis.

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
        super().__init__(keys, lanes, gateway, queue_limit, clock)
        self.partitions = Partitions()
        self._settings = SettingsStore(self, self.partitions)
        self._enqueuing = Enqueuing(self, self._settings, self.partitions)
        self.heard_spread = self._settings.heard_spread
        # Told of each queue whose rings this process is going to wait for.
        self.expect_rings: Callable[[Queue], None] = lambda queue: None

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
        return self._enqueuing.make_names(queue, specs, atomic=atomic)

    def enqueue(
        self, queue: Queue, specs: Sequence[TaskSpec], *, atomic: bool = False, names: Sequence[str] = ()
    ) -> Coroutine[Any, Any, list[Task | Held | Refusal]]:
        """Store new tasks of one queue, at most 1,000. names: made before (`make_names`), one a spec.

        Returns per spec the task; Held where its unique key gave another one (or replaced it); QueueFull where the
        bound was reached; UniqueConflict. atomic: all or none, BatchRefused for those that stood beside a refused one,
        BatchTooLarge where they could not even fit into an empty queue.
        Source: lua/enqueue.lua.
        """
        return self._enqueuing.enqueue(queue, specs, atomic, names)

    async def claim(
        self, queue: Queue, claims: Sequence[Claim], *, stays: bool, others: int, waited_ms: int
    ) -> Claimed:
        """Hand ready tasks to polls, in the order given.

        stays: unserved polls will wait, so this gateway wants to be rung; others: further polls that wait here for this
        queue; waited_ms: how long the oldest of them has waited. What no replica confirmed goes back (NotReplicated):
        no worker hears of it, so it must not cost an attempt.
        Source: lua/claim.lua.
        """
        self.expect_rings(queue)
        item = (queue, claims, stays, others, waited_ms)
        try:
            claimed: Claimed = await self.submit("claim", "claim", self.keys.of(queue), item)
        except NotReplicated as refusal:
            if isinstance(refusal.outcome, Claimed):
                await self._take_back(queue, claims, refusal.outcome)
            raise
        if claimed.corrupt:
            await asyncio.gather(*(self._end_corrupt(queue, leased, reason) for leased, reason in claimed.corrupt))
        return claimed

    async def _take_back(self, queue: Queue, claims: Sequence[Claim], claimed: Claimed) -> None:
        """Put what this claim gave out back where it stood; what its poll_ids got before stays theirs."""
        await asyncio.gather(
            *(
                self.put_back(queue, leased, claim.worker_id, claim.poll_id)
                for claim, tasks in zip(claims, claimed.tasks, strict=True)
                for leased in tasks
                if leased.token.startswith(claim.seed)
            )
        )

    async def put_back(self, queue: Queue, leased: LeasedTask, worker_id: str, poll_id: str) -> None:
        """Put a task that no worker will hear of back where it stood, as if it had never been claimed.

        Nothing happens where its poll was repeated meanwhile. What cannot be put back lapses: nothing is raised.
        """
        poll = f"{worker_id} {poll_id}" if poll_id else ""
        try:
            await self.release(queue, leased.task.id, leased.token, front=True, poll=poll)
        except Refusal as refusal:
            log.info("could not hand a task back", extra={"task_id": leased.task.id, "code": refusal.code})

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
        kept: Kept = await self.submit("report", "heartbeat", self.keys.of(queue), item)
        return kept

    async def complete(self, queue: Queue, task_id: str, token: str, result: bytes) -> Reported:
        """End a claimed task well. result: JSON.

        Raises LeaseLost, TaskNotFound. Repeating it with the same token is answered the same. Source: lua/complete.lua.
        """
        item = (queue, task_id, self.arq_id(queue, task_id), token, *arq_format.completed_pairs(result))
        reported: Reported = await self.submit("report", "complete", self.keys.of(queue), item)
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
        reported: Reported = await self.submit("report", "fail", self.keys.of(queue), item)
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
        reported: Reported = await self.submit("report", "release", self.keys.of(queue), item)
        return reported

    async def expire(self, queue: Queue, limit: int = 200) -> Swept:
        """Sweep a queue: lapsed leases, tasks not started in time, due tasks, ended retention; `limit` of each.

        Source: lua/expire.lua.
        """
        swept: Swept = await self.submit("chore", "expire", self.keys.of(queue), (queue, limit))
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
        taken = await self.submit("limit", "alarms", self.keys.alarms(), item)
        found = ((self.keys.queue_of(tag.decode()), at_ms, left_until_ms) for tag, at_ms, left_until_ms in taken)
        return [(queue, at_ms, left_until_ms) for queue, at_ms, left_until_ms in found if queue is not None]

    async def cancel(self, queue: Queue, task_id: str) -> bool:
        """Cancel a task. True: it is cancelled; False: its worker was asked.

        Raises AlreadyFinished, TaskNotFound. Source: lua/cancel.lua.
        """
        done: bool = await self.submit(
            "report", "cancel", self.keys.of(queue), (queue, task_id, self.arq_id(queue, task_id))
        )
        return done

    async def retry(self, queue: Queue, task_id: str, *, delay_ms: int = 0) -> None:
        """Send a failed or cancelled task back with fresh attempts, due after `delay_ms`.

        Raises AlreadyFinished (completed), NotFinished, QueueFull, TaskNotFound. Source: lua/retry.lua.
        """
        await self.submit(
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
            if await self.submit("report", "patch", self.keys.of(queue), item):
                return
        raise TaskChanged(task_id)

    async def delete(self, queue: Queue, task_id: str) -> None:
        """Forget a final or waiting task. Raises AlreadyStarted, TaskNotFound. Source: lua/delete.lua."""
        item = (queue, task_id, self.arq_id(queue, task_id))
        await self.submit("report", "delete", self.keys.of(queue), item)

    async def purge(self, queue: Queue) -> int:
        """Forget every task of a queue that waits now, in calls of 500. Returns how many. Source: lua/purge.lua."""
        return sum([await self._purge(part) for part in await self.parts(queue)])

    async def _purge(self, queue: Queue) -> int:
        before_ms, offset, total, passed, more = self.now_ms(), 0, 0, 0, True
        while more:
            forgotten, offset, more = await self.submit(
                "chore", "purge", self.keys.of(queue), (before_ms, offset, _PURGE_TASKS)
            )
            total, passed = total + forgotten, passed + forgotten
            if not more and passed:
                # What was passed over may have moved: once more from the front, until there is nothing left.
                offset, passed, more = 0, 0, True
        return total

    async def settings(self, queue: Queue) -> QueueSettings:
        """Read what an operator set for a queue. Source: lua/settings.lua."""
        return await self._settings.read(queue)

    async def parts(self, queue: Queue) -> list[Queue]:
        """List a queue's partitions that may hold tasks, as they are now. Most queues have one."""
        return await self._settings.parts(queue)

    async def configure(
        self, queue: Queue, settings: QueueSettings | None, *, version: int | None = None, pause: Argument = b""
    ) -> QueueSettings:
        """Replace a queue's settings (None: leave them), pause it or end its pause. Returns them as they are then.

        version: only if they are still of this version. pause: until then (unix ms, 0: go on), b"" as it is.
        Further partitions get theirs one after the other; who got no answer asks again.
        Raises StaleSettings: they changed meanwhile. Source: lua/configure.lua.
        """
        return await self._settings.configure(queue, settings, version=version, pause=pause)

    def heard_noted(self, every: Sequence[Queue]) -> None:
        """Note which partitions ever were, as the registry lists them: none may be left alone with its tasks."""
        self._settings.heard_noted(every)

    async def forget_older(self, queue: Queue) -> None:
        """Give the present partitions the whole of the limits again, once those of a time when there were more are
        worked off: nothing happens while they hold tasks that are not completed."""
        await self._settings.forget_older(queue)

    async def spend(self, whose: str, bucket: str, per_minute: int, ahead: int) -> Granted:
        """Ask a rate limit for one request, and for `ahead` more to keep in store. Source: lua/limit.lua."""
        keys = self.keys.bucket(whose, bucket)
        granted: Granted = await self.submit("limit", "limit", keys, (per_minute, ahead))
        return granted

    async def watch(self, queue: Queue, task_id: str, ttl_ms: int) -> int:
        """Ask to hear of the task's end. 1: it is final (or gone) already; 2: too many ask, look again by yourself.

        Source: lua/watch.lua.
        """
        self.expect_rings(queue)
        done: int = await self.submit("chore", "watch", self.keys.of(queue), (self.arq_id(queue, task_id), ttl_ms))
        return done

    async def pass_ring_on(self, queue: Queue) -> None:
        """Let another gateway claim: no poll waits here any more. Source: lua/ring.lua."""
        await self.submit("chore", "ring", self.keys.of(queue), queue)

    async def leases(self, queue: Queue, *, a_call: int = 500) -> list[Lease]:
        """List a queue's leases, earliest end first, a window of so many a call. Source: lua/leases.lua."""
        found: dict[str, Lease] = {}
        offset, looked_at = 0, a_call
        while looked_at == a_call:
            item = (queue, offset, a_call)
            leases, looked_at = await self.submit("read", "leases", self.keys.of(queue), item)
            # Between two calls a lease may have been kept, and stand further back.
            found.update((lease.task_id, lease) for lease in leases)
            offset += looked_at
        return list(found.values())

    async def _end_corrupt(self, queue: Queue, leased: LeasedTask, reason: str) -> None:
        error = msgspec.json.encode({"type": "corrupt", "message": reason[:1000]})
        try:
            await self.fail(
                queue, leased.task.id, leased.token, error, error, f"corrupt: {reason[:1000]}", retryable=False
            )
        except Refusal:
            # Its lease lapses then, and the next claim of it ends it.
            pass

    async def _backoff_ms(self, queue: Queue, arq_id: bytes) -> int:
        reply = await self.submit_read("read", queue, (arq_id, False))
        if not reply or not reply[1]:
            return 0
        try:
            spec = arq_format.spec_of(arq_format.decode_record(reply[2]), queue.job_type)
        except arq_format.Corrupt:
            return 0
        return retries.delay_ms(spec.retry, int(reply[3]))
