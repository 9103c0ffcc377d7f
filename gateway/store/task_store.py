"""TaskStore: every change of a task's state, one method a verb. Each runs the script of the same name."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from gateway import retries
from gateway.errors import (
    AlreadyFinished,
    LeaseLost,
    NotFinished,
    QueueFull,
    Refusal,
    TaskNotFound,
)
from gateway.store import arq_format
from gateway.store.batching import Argument, Lane
from gateway.store.keys import Keys, QueueKeys
from gateway.store.records import LEASED, READY_END, read_claimed
from gateway.tasks import Lease, LeasedTask, Queue, Status, Task, TaskSpec, Ulids, public_id, split_id

__all__ = ["LEASED", "READY_END", "Claim", "Claimed", "Listener", "Swept", "TaskStore"]


class Claim(msgspec.Struct, frozen=True):
    """What one poll asks of one queue. lease_ms 0: each task's own. Its tokens start with `seed`, 128 random bits."""

    worker_id: str
    max: int
    lease_ms: int = 0
    poll_id: str = ""
    seed: str = msgspec.field(default_factory=lambda: secrets.token_urlsafe(16))


class Claimed(msgspec.Struct, frozen=True):
    """What a call of `claim` gave: per poll its tasks; ready tasks left; whether this gateway stands in the registry."""

    tasks: list[list[LeasedTask]]
    ready_left: int
    registered: bool


class Swept(msgspec.Struct, frozen=True):
    """What one sweep of a queue did. next_alarm_ms: when the queue needs one again (unix ms, 0: not by itself)."""

    next_alarm_ms: int
    lapsed: int
    timed_out: int
    expired: int
    promoted: int
    purged: int


class Reported(msgspec.Struct, frozen=True):
    """A report that was accepted. due_ms: when the task is due again (unix ms, 0: it is not waiting for a time)."""

    status: Status
    worker_id: str = ""
    due_ms: int = 0


class Kept(msgspec.Struct, frozen=True):
    """A lease that goes on for lease_ms."""

    lease_ms: int
    cancel_requested: bool
    worker_id: str


class Listener(Protocol):
    """Who wants to hear what the store's replies tell in passing."""

    def ready(self, queue: Queue, tasks: int) -> None:
        """So many tasks became ready that this gateway should claim."""

    def alarm(self, queue: Queue, at_ms: int) -> None:
        """The queue will need a sweep then (unix ms, the store's clock)."""

    def count(self, name: str, number: int) -> None:
        """An outcome to add to the metrics."""

    def dispatched(self, waited_ms: int) -> None:
        """A task was handed out so long after it became ready."""


class TaskStore:
    """The tasks in Redis.

    clock: unix ms for scripts, or None for Redis's own (tests hand in a time). gateway: this process's name.
    Every method raises StoreUnavailable when Redis does not answer, and StoreFull when it cannot take more.
    """

    def __init__(
        self,
        keys: Keys,
        lanes: dict[str, Lane],
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
        self.listener: Listener = _Nobody()
        self._verbs = {verb.name: verb(self) for verb in _VERBS}

    def now_ms(self) -> int:
        """The store's clock, as far as the last reply told it."""
        return self._clock() if self._clock else int(time.time() * 1000 + self._ahead_ms)

    def given_now(self) -> Argument:
        """What scripts get for the time: '' lets them read Redis's clock."""
        return self._clock() if self._clock else b""

    def heard_now(self, now_ms: int) -> None:
        """Note the store's clock from a reply."""
        self._ahead_ms = now_ms - time.time() * 1000

    def arq_id(self, queue: Queue, task_id: str) -> str:
        """Find arq's job id of a public id. Raises TaskNotFound when the id can be nobody's in this queue."""
        parts = split_id(task_id)
        if parts is None or parts[0] != queue.job_type:
            raise TaskNotFound(task_id)
        return parts[1] if parts[2] else f"{self.keys.of(queue).tag}{parts[1]}"

    async def enqueue(self, queue: Queue, specs: Sequence[TaskSpec], *, atomic: bool = False) -> list[Task | QueueFull]:
        """Store new tasks of one queue, at most 1,000.

        Returns per spec the task, or QueueFull where the bound was reached; atomic: all or none.
        Source: lua/enqueue.lua.
        """
        keys = self.keys.of(queue)
        now_ms = self.now_ms()
        items = []
        for number, spec in enumerate(specs):
            due: Argument = b""
            if spec.run_at_ms:
                due = spec.run_at_ms
            elif spec.delay_ms:
                due = b"+%d" % spec.delay_ms
            group = 1 if not atomic else len(specs) if number == 0 else 0
            items.append(
                (self._ulids.make(now_ms), spec.priority, due, spec.expires_in_ms, group, arq_format.encode_job(spec))
            )
        now_ms, depth, dues = await self._submit("enqueue", "enqueue", keys, (queue, keys.tag, items))
        tasks: list[Task | QueueFull] = []
        for spec, item, due_ms in zip(specs, items, dues, strict=True):
            if due_ms < 0:
                tasks.append(QueueFull(queue.job_type, depth, self.queue_limit))
                continue
            status = Status.SCHEDULED if due_ms else Status.PENDING
            tasks.append(Task(f"{queue.job_type}~{item[0]}", status, spec, now_ms, due_ms or now_ms))
        return tasks

    async def claim(
        self, queue: Queue, claims: Sequence[Claim], *, stays: bool, others: int, waited_ms: int
    ) -> Claimed:
        """Hand ready tasks to polls, in the order given.

        stays: unserved polls will wait, so this gateway wants to be rung; others: further polls that wait here for this
        queue; waited_ms: how long the oldest of them has waited.
        Source: lua/claim.lua.
        """
        claimed: Claimed = await self._submit(
            "claim", "claim", self.keys.of(queue), (queue, claims, stays, others, waited_ms)
        )
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
        retryable: bool = True, retry_in_ms: int | None = None,
    ) -> Reported:  # fmt: skip
        """End a claimed attempt badly: the task waits for another one, or is failed.

        error: JSON; brief: shorter JSON for the history; message: what arq's clients raise. retry_in_ms: instead of the
        task's own backoff. Raises LeaseLost, TaskNotFound. Source: lua/fail.lua.
        """
        arq_id = self.arq_id(queue, task_id)
        delay = retry_in_ms
        if delay is None:
            # The rule cannot change while the task is leased, and the token fences the attempt number.
            delay = await self._backoff_ms(queue, arq_id) if retryable else 0
        item = (queue, task_id, arq_id, token, retryable, delay, error, brief, *arq_format.failed_pairs(message, error))
        reported: Reported = await self._submit("report", "fail", self.keys.of(queue), item)
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

    async def cancel(self, queue: Queue, task_id: str) -> bool:
        """Cancel a task. True: it is cancelled; False: its worker was asked.

        Raises AlreadyFinished, TaskNotFound. Source: lua/cancel.lua.
        """
        done: bool = await self._submit(
            "report", "cancel", self.keys.of(queue), (queue, task_id, self.arq_id(queue, task_id))
        )
        return done

    async def retry(self, queue: Queue, task_id: str) -> None:
        """Send a failed or cancelled task back with fresh attempts.

        Raises AlreadyFinished (completed), NotFinished, QueueFull, TaskNotFound. Source: lua/retry.lua.
        """
        await self._submit("report", "retry", self.keys.of(queue), (queue, task_id, self.arq_id(queue, task_id)))

    async def watch(self, queue: Queue, task_id: str, ttl_ms: int) -> bool:
        """Ask to hear of the task's end. True: it is final (or gone) already. Source: lua/watch.lua."""
        done: bool = await self._submit("chore", "watch", self.keys.of(queue), (self.arq_id(queue, task_id), ttl_ms))
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

    def submit_read(self, verb: str, queue: Queue, item: Any) -> asyncio.Future[Any]:
        """Put a read into the read lane (the inspector's way in)."""
        return self._submit("read", verb, self.keys.of(queue), item)

    def _submit(self, lane: str, verb: str, keys: QueueKeys, item: Any) -> asyncio.Future[Any]:
        return self._lanes[lane].submit(self._verbs[verb], keys, item)

    async def _backoff_ms(self, queue: Queue, arq_id: str) -> int:
        reply = await self.submit_read("read", queue, (arq_id, False))
        if not reply or not reply[1]:
            return 0
        try:
            spec = arq_format.spec_of(arq_format.decode_record(reply[2]), queue.job_type)
        except arq_format.Corrupt:
            return 0
        return retries.delay_ms(spec.retry, int(reply[3]))


class _Nobody:
    def ready(self, queue: Queue, tasks: int) -> None: ...

    def alarm(self, queue: Queue, at_ms: int) -> None: ...

    def count(self, name: str, number: int) -> None: ...

    def dispatched(self, waited_ms: int) -> None: ...


class _Verb:
    """One script's call and reply. Items and replies are those of its Lua header."""

    name = ""
    repeat = True
    batch = 500

    def __init__(self, store: TaskStore) -> None:
        self.store = store

    def weight(self, item: Any) -> int:
        return 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        raise NotImplementedError

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        raise NotImplementedError

    def start(self) -> list[Argument]:
        return [self.store.given_now()]

    def hear(self, reply: list[Any], queue: Queue | None = None, mine: int = 0) -> None:
        self.store.heard_now(reply[1])
        if mine and queue is not None:
            self.store.listener.ready(queue, mine)


class _Enqueue(_Verb):
    name = "enqueue"

    def weight(self, item: Any) -> int:
        return len(item[2])

    def arguments(self, items: list[Any]) -> list[Argument]:
        total = sum(len(item[2]) for item in items)
        args: list[Argument] = [*self.start(), self.store.gateway, self.store.queue_limit, total]
        for _, tag, tasks in items:
            for ulid, priority, due, expires_in_ms, group, body in tasks:
                args += (tag + ulid, priority, due, expires_in_ms, group, body)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        queue = items[0][0]
        listener = self.store.listener
        outcomes, at, stored = [], 4, 0
        for _, _, tasks in items:
            dues = reply[at : at + len(tasks)]
            at += len(tasks)
            stored += sum(due >= 0 for due in dues)
            for due, task in zip(dues, tasks, strict=True):
                if due > 0:
                    listener.alarm(queue, due)
                if task[3] and due >= 0:
                    listener.alarm(queue, reply[1] + task[3])
            outcomes.append((reply[1], reply[3], dues))
        listener.count("enqueued", stored)
        self.hear(reply, queue, reply[2])
        return outcomes


class _Claim(_Verb):
    name = "claim"
    # Leases that a lost reply gave out come back by themselves; handing out others in their place must not happen.
    repeat = False
    batch = 200

    def weight(self, item: Any) -> int:
        return len(item[1])

    def arguments(self, items: list[Any]) -> list[Argument]:
        others = max(item[3] for item in items)
        waited_ms = max(item[4] for item in items)
        polls = sum(len(item[1]) for item in items)
        args: list[Argument] = [*self.start(), self.store.gateway, others, waited_ms, polls]
        for _, claims, stays, _, _ in items:
            for claim in claims:
                args += (claim.worker_id, claim.poll_id, claim.max, claim.lease_ms, claim.seed, int(stays))
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        queue = items[0][0]
        self.hear(reply)
        listener = self.store.listener
        if reply[4]:
            listener.alarm(queue, reply[4] + 1)
        if reply[5]:
            listener.count("failed", reply[5])
        tag = self.store.keys.of(queue).tag
        outcomes, at = [], 6
        for _, claims, _, _, _ in items:
            given = []
            for claim in claims:
                leased = [
                    read_claimed(task, _token(task[4], claim), claim.worker_id, queue, tag, reply[1])
                    for task in reply[at]
                ]
                for one in leased:
                    if one.task.attempt == 1:
                        listener.dispatched(max(0, reply[1] - one.task.run_at_ms))
                given.append(leased)
                at += 1
            outcomes.append(Claimed(given, reply[2], bool(reply[3])))
        return outcomes


def _token(number: int | bytes, claim: Claim) -> str:
    """A lease's token: the poll's seed and the task's number in it; a lease that was given before has its token in full."""
    if isinstance(number, bytes):
        return number.decode()
    return f"{claim.seed}.{number}" if number else claim.seed


class _Report(_Verb):
    """A report: items start with (queue, public id, arq id, token)."""

    def refusal(self, word: bytes, item: Any) -> Refusal:
        if word == b"missing":
            return TaskNotFound(item[1])
        self.store.listener.count("stale_report", 1)
        return LeaseLost(item[1])


class _Heartbeat(_Report):
    name = "heartbeat"

    def arguments(self, items: list[Any]) -> list[Argument]:
        args: list[Argument] = [*self.start(), len(items)]
        for _, _, arq_id, token, lease_ms, progress, lines in items:
            args += (arq_id, token, lease_ms, progress, len(lines), *lines)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        outcomes: list[Kept | Refusal] = []
        for item, answer in zip(items, reply[2:], strict=True):
            if answer[0] == b"ok":
                outcomes.append(Kept(answer[1], bool(answer[2]), answer[3].decode()))
                self.store.listener.alarm(item[0], reply[1] + answer[1] + 1)
            else:
                outcomes.append(self.refusal(answer[0], item))
        return outcomes


class _Complete(_Report):
    name = "complete"

    def arguments(self, items: list[Any]) -> list[Argument]:
        args: list[Argument] = [*self.start(), len(items)]
        for _, _, arq_id, token, pairs, number in items:
            args += (arq_id, token, pairs, number)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        outcomes: list[Reported | Refusal] = []
        done = 0
        for item, answer in zip(items, reply[2:], strict=True):
            if answer[0] == b"completed":
                done += answer[3] > 0
                outcomes.append(Reported(Status.COMPLETED, answer[1].decode()))
            else:
                outcomes.append(self.refusal(answer[0], item))
        self.store.listener.count("completed", done)
        return outcomes


class _Fail(_Report):
    name = "fail"

    def arguments(self, items: list[Any]) -> list[Argument]:
        args: list[Argument] = [*self.start(), self.store.gateway, len(items)]
        for _, _, arq_id, token, retryable, delay_ms, error, brief, pairs, number in items:
            args += (arq_id, token, int(retryable), delay_ms, error, brief, pairs, number)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0][0], reply[2])
        outcomes: list[Reported | Refusal] = []
        for item, (word, due_ms, worker_id, _, attempt) in zip(items, reply[3:], strict=True):
            if word in (b"lost", b"missing"):
                outcomes.append(self.refusal(word, item))
                continue
            status = Status(word.decode())
            if attempt:
                self.store.listener.count("retried" if status is Status.RETRYING else status.value, 1)
            if due_ms:
                self.store.listener.alarm(item[0], due_ms)
            outcomes.append(Reported(status, worker_id.decode(), due_ms))
        return outcomes


class _Release(_Report):
    name = "release"

    def arguments(self, items: list[Any]) -> list[Argument]:
        args: list[Argument] = [*self.start(), self.store.gateway, len(items)]
        for _, _, arq_id, token, delay_ms, front, poll in items:
            args += (arq_id, token, delay_ms, "front" if front else "end", poll)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0][0], reply[2])
        outcomes: list[Reported | Refusal] = []
        for item, (word, due_ms) in zip(items, reply[3:], strict=True):
            if word in (b"lost", b"missing"):
                outcomes.append(self.refusal(word, item))
                continue
            if due_ms:
                self.store.listener.alarm(item[0], due_ms)
            outcomes.append(Reported(Status.PROCESSING if word == b"kept" else Status(word.decode()), "", due_ms))
        return outcomes


class _Expire(_Verb):
    name = "expire"
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), self.store.gateway, items[0][1]]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0][0], reply[2])
        swept = Swept(*reply[3:9])
        for name, number in (("lapsed", swept.lapsed), ("timeout", swept.timed_out), ("expired", swept.expired)):
            if number:
                self.store.listener.count(name, number)
        return [swept]


class _Cancel(_Verb):
    name = "cancel"

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), len(items), *(item[2] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        outcomes: list[bool | Refusal] = []
        for item, word in zip(items, reply[2:], strict=True):
            if word in (b"cancelled", b"requested"):
                outcomes.append(word == b"cancelled")
                if word == b"cancelled":
                    self.store.listener.count("cancelled", 1)
            elif word == b"missing":
                outcomes.append(TaskNotFound(item[1]))
            else:
                outcomes.append(AlreadyFinished(item[1], word.decode().removeprefix("was_")))
        return outcomes


class _Retry(_Verb):
    name = "retry"

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), self.store.gateway, self.store.queue_limit, len(items), *(item[2] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0][0], reply[2])
        outcomes: list[Refusal | None] = []
        for item, word in zip(items, reply[3:], strict=True):
            if word == b"pending":
                outcomes.append(None)
            elif word == b"full":
                outcomes.append(QueueFull(item[0].job_type, self.store.queue_limit, self.store.queue_limit))
            elif word == b"completed":
                outcomes.append(AlreadyFinished(item[1], "completed"))
            elif word == b"live":
                outcomes.append(NotFinished(item[1]))
            else:
                outcomes.append(TaskNotFound(item[1]))
        return outcomes


class _Watch(_Verb):
    name = "watch"

    def arguments(self, items: list[Any]) -> list[Argument]:
        longest = max(item[1] for item in items)
        return [*self.start(), self.store.gateway, longest, len(items), *(item[0] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        return [bool(flag) for flag in reply[2:]]


class _Ring(_Verb):
    name = "ring"

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), self.store.gateway]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0], reply[2])
        return [None] * len(items)


class _Leases(_Verb):
    name = "leases"
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), items[0][1], items[0][2]]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        queue = items[0][0]
        tag = self.store.keys.of(queue).tag
        leases = []
        for raw_id, raw in zip(reply[2::2], reply[3::2], strict=True):
            record = arq_format.decode_lease(raw)
            task_id = public_id(queue.job_type, raw_id.decode("utf-8", "surrogateescape"), tag)
            leases.append(
                Lease(task_id, record.token, record.worker_id, int(record.started_at_ms), int(record.ends_at_ms))
            )
        return [leases]


class _Read(_Verb):
    name = "read"
    batch = 200

    def arguments(self, items: list[Any]) -> list[Argument]:
        with_log = any(item[1] for item in items)
        return [*self.start(), int(with_log), len(items), *(item[0] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return reply[2:]


class _Page(_Verb):
    name = "page"
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        ((before, limit, lists),) = items
        return [*self.start(), before, limit, *lists]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        return [list(zip(reply[2::2], reply[3::2], strict=True))]


class _Stats(_Verb):
    name = "stats"

    def arguments(self, items: list[Any]) -> list[Argument]:
        return self.start()

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [reply[1:]] * len(items)


_VERBS: tuple[type[_Verb], ...] = (
    _Enqueue, _Claim, _Heartbeat, _Complete, _Fail, _Release, _Expire, _Cancel, _Retry, _Watch, _Ring, _Leases,
    _Read, _Page, _Stats,
)  # fmt: skip
