"""How each script is called with many requests at once, and how its reply is read. One class a verb.

Items, arguments and replies are those of the header of the verb's Lua file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.errors import (
    AlreadyFinished,
    AlreadyStarted,
    LeaseLost,
    NotFinished,
    QueueFull,
    Refusal,
    TaskNotFound,
    UniqueConflict,
)
from gateway.store import arq_format
from gateway.store.batching import Argument
from gateway.store.calls import Claim, Claimed, Granted, Kept, Listener, Reported, StaleSettings, Swept
from gateway.store.keys import Keys
from gateway.store.records import read_claimed
from gateway.tasks import Lease, LeasedTask, Queue, Status, public_id


class Context(Protocol):
    """What calls need of the store they belong to."""

    keys: Keys
    gateway: str
    queue_limit: int
    listener: Listener

    def given_now(self) -> Argument:
        """The time to hand in."""

    def heard_now(self, now_ms: int) -> None:
        """The store's clock, from a reply."""

    def heard_spread(self, queue: Queue, spread: int) -> None:
        """How many partitions of a queue may hold tasks, from a reply."""


class ScriptCall:
    """One script's call and reply. Items and replies are those of its Lua header."""

    # promises: its reply says that something is so from now on. What only reads, sweeps or rings promises nothing.
    name = ""
    repeat = True
    batch = 500
    promises = True

    def __init__(self, store: Context) -> None:
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


class _Enqueue(ScriptCall):
    name = "enqueue"

    def weight(self, item: Any) -> int:
        return len(item[2])

    def arguments(self, items: list[Any]) -> list[Argument]:
        total = sum(len(item[2]) for item in items)
        versions = {item[3] for item in items}
        version = versions.pop() if len(versions) == 1 else -1
        args: list[Argument] = [*self.start(), self.store.gateway, self.store.queue_limit, version, total]
        for _, tag, tasks, _ in items:
            for ulid, *rest in tasks:
                args.append(tag + ulid)
                args += rest
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        if reply[0] == b"stale":
            return [StaleSettings()] * len(items)
        queue = items[0][0]
        listener = self.store.listener
        outcomes, at, stored = [], 4, 0
        for _, _, tasks, _ in items:
            dues = reply[at : at + len(tasks)]
            at += len(tasks)
            for due, (_, _, asked, expires_in_ms, *_) in zip(dues, tasks, strict=True):
                if isinstance(due, bytes):
                    if due.startswith(b"replaced") and asked:
                        delay = isinstance(asked, bytes)
                        listener.alarm(queue, reply[1] + int(asked) if delay else asked)
                    if due.startswith(b"replaced") and expires_in_ms:
                        listener.alarm(queue, reply[1] + expires_in_ms)
                    continue
                stored += due >= 0
                if due > 0:
                    listener.alarm(queue, due)
                if expires_in_ms and due >= 0:
                    listener.alarm(queue, reply[1] + expires_in_ms)
            outcomes.append((reply[1], reply[3], dues))
        listener.count("enqueued", stored)
        self.hear(reply, queue, reply[2])
        return outcomes


class _Claim(ScriptCall):
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
        self.store.heard_spread(queue, reply[6])
        tag = self.store.keys.of(queue).tag
        outcomes, at = [], 7
        for _, claims, _, _, _ in items:
            given: list[list[LeasedTask]] = []
            corrupt: list[tuple[LeasedTask, str]] = []
            fresh = False
            for claim in claims:
                given.append([])
                if reply[at] == 1:
                    fresh = True
                    at += 1
                    continue
                for task in reply[at]:
                    one, reason = read_claimed(task, _token(task[4], claim), claim.worker_id, queue, tag)
                    if reason is not None:
                        corrupt.append((one, reason))
                        continue
                    if one.task.attempt == 1:
                        listener.dispatched(max(0, reply[1] - one.task.run_at_ms))
                    given[-1].append(one)
                at += 1
            outcomes.append(Claimed(given, reply[2], bool(reply[3]), tuple(corrupt), fresh))
        return outcomes


def _token(number: int | bytes, claim: Claim) -> str:
    """A lease's token: the poll's seed and the task's number in it; one that was given before has its token in full."""
    if isinstance(number, bytes):
        return number.decode()
    return f"{claim.seed}.{number}" if number else claim.seed


class _Report(ScriptCall):
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
        args: list[Argument] = [*self.start(), self.store.gateway, len(items)]
        for _, _, arq_id, token, pairs, number in items:
            args += (arq_id, token, pairs, number)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0][0], reply[2])
        outcomes: list[Reported | Refusal] = []
        done = 0
        for item, answer in zip(items, reply[3:], strict=True):
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
        for _, _, arq_id, token, retryable, delay_ms, error, brief, pause_ms, pairs, number in items:
            args += (arq_id, token, int(retryable), delay_ms, error, brief, pause_ms, pairs, number)
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
            if item[8]:
                self.store.listener.alarm(item[0], reply[1] + item[8])
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


class _Expire(ScriptCall):
    name = "expire"
    promises = False
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), self.store.gateway, items[0][1]]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0][0], reply[2])
        swept = Swept(*reply[3:9])
        for name, number in (
            ("lapsed", swept.lapsed),
            ("timeout", swept.timed_out),
            ("expired", swept.expired),
            ("failed", reply[9]),
            ("cancelled", reply[10]),
        ):
            if number:
                self.store.listener.count(name, number)
        return [swept]


class _Cancel(ScriptCall):
    name = "cancel"
    repeat = False

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


class _Retry(ScriptCall):
    name = "retry"
    repeat = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        args: list[Argument] = [*self.start(), self.store.gateway, self.store.queue_limit, len(items)]
        for _, _, arq_id, delay_ms in items:
            args += (arq_id, delay_ms)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0][0], reply[2])
        outcomes: list[Refusal | None] = []
        for item, word in zip(items, reply[3:], strict=True):
            if word == b"pending":
                outcomes.append(None)
                if item[3]:
                    self.store.listener.alarm(item[0], reply[1] + item[3])
            elif word.startswith(b"full"):
                limit = int(word.split()[1])
                outcomes.append(QueueFull(item[0].job_type, limit, limit))
            elif word == b"conflict":
                outcomes.append(UniqueConflict(item[1], "another task holds this task's unique_key by now"))
            elif word == b"completed":
                outcomes.append(AlreadyFinished(item[1], "completed"))
            elif word == b"live":
                outcomes.append(NotFinished(item[1]))
            else:
                outcomes.append(TaskNotFound(item[1]))
        return outcomes


class _Patch(ScriptCall):
    name = "patch"
    repeat = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        args: list[Argument] = [*self.start(), self.store.gateway, len(items)]
        for _, _, arq_id, known, fresh, priority, due in items:
            args += (arq_id, known, fresh, priority, due)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0][0], reply[2])
        outcomes: list[bool | Refusal] = []
        for item, (word, due_ms) in zip(items, reply[3:], strict=True):
            if word in (b"ok", b"changed"):
                outcomes.append(word == b"ok")
                if due_ms:
                    self.store.listener.alarm(item[0], due_ms)
            elif word == b"processing":
                outcomes.append(AlreadyStarted(item[1]))
            elif word in (b"completed", b"failed", b"cancelled"):
                outcomes.append(AlreadyFinished(item[1], word.decode()))
            else:
                outcomes.append(TaskNotFound(item[1]))
        return outcomes


class _Delete(ScriptCall):
    name = "delete"
    repeat = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), len(items), *(item[2] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        refusals = {b"processing": AlreadyStarted, b"missing": TaskNotFound}
        return [
            refusals[word](item[1]) if word in refusals else None for item, word in zip(items, reply[2:], strict=True)
        ]


class _Purge(ScriptCall):
    name = "purge"
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), *items[0]]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [(reply[2], reply[3], bool(reply[4]))]


class _Configure(ScriptCall):
    name = "configure"
    repeat = False
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        (_, version, pause, fields), *_ = items
        given: list[Argument] = [b""]
        if fields is not None:
            given = [len(fields)]
            for name, value in fields.items():
                given += (name, value)
        return [*self.start(), self.store.gateway, version, pause, *given]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        queue = items[0][0]
        if reply[0] == b"changed":
            return [StaleSettings(reply[3])]
        self.hear(reply, queue, reply[2])
        if reply[4]:
            self.store.listener.alarm(queue, reply[4])
        return [reply[5]]


class _Settings(ScriptCall):
    name = "settings"
    promises = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        return self.start()

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [dict(zip(reply[2::2], reply[3::2], strict=True))] * len(items)


class _Watch(ScriptCall):
    name = "watch"
    promises = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        longest = max(item[1] for item in items)
        return [*self.start(), self.store.gateway, longest, len(items), *(item[0] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        return list(reply[2:])


class _Ring(ScriptCall):
    name = "ring"
    promises = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), self.store.gateway]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0], reply[2])
        return [None] * len(items)


class _Leases(ScriptCall):
    name = "leases"
    promises = False
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


class _Read(ScriptCall):
    name = "read"
    promises = False
    batch = 200

    def arguments(self, items: list[Any]) -> list[Argument]:
        with_log = any(item[1] for item in items)
        return [*self.start(), int(with_log), len(items), *(item[0] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return reply[2:]


class _Page(ScriptCall):
    name = "page"
    promises = False
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        ((before, after, limit, examine, statuses),) = items
        return [*self.start(), before, after, limit, examine, *statuses]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [(reply[2], reply[3:])]


class _Stats(ScriptCall):
    name = "stats"
    promises = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        return self.start()

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [reply[1:]] * len(items)


class _Limit(ScriptCall):
    """Items: (requests a minute, requests to put in store besides)."""

    name = "limit"
    promises = False
    repeat = False
    batch = 1_000_000

    def arguments(self, items: list[Any]) -> list[Argument]:
        limit, more = items[-1]
        return [*self.start(), limit, len(items), more]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        granted, stored, left, wait_ms, full_ms = reply[2:]
        return [
            Granted(number < granted, stored if number == 0 else 0, left, wait_ms, full_ms)
            for number in range(len(items))
        ]


class _Alarms(ScriptCall):
    """Items: (noted: tag -> at, settled: tag -> (left until, next), ms ahead, ms left to the taker, most)."""

    name = "alarms"
    promises = False
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        ((noted, settled, ahead_ms, left_ms, most),) = items
        args: list[Argument] = [*self.start(), ahead_ms, left_ms, most, len(noted), len(settled)]
        for tag, at_ms in noted.items():
            args += (tag, at_ms)
        for tag, (left_until_ms, next_ms) in settled.items():
            args += (tag, left_until_ms, next_ms)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [list(zip(reply[2::3], reply[3::3], reply[4::3], strict=True))]


VERBS: tuple[type[ScriptCall], ...] = (
    _Enqueue, _Claim, _Heartbeat, _Complete, _Fail, _Release, _Expire, _Cancel, _Retry, _Patch, _Delete, _Purge,
    _Configure, _Settings, _Limit, _Alarms, _Watch,
    _Ring, _Leases, _Read, _Page, _Stats,
)  # fmt: skip
