"""Calls of the scripts that make, hand out, change and end tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.errors import (
    AlreadyFinished,
    AlreadyStarted,
    NotFinished,
    QueueFull,
    Refusal,
    TaskNotFound,
    UniqueConflict,
)
from gateway.store.batching import Argument
from gateway.store.calls import Claim, Claimed, StaleSettings, Swept
from gateway.store.records import read_claimed
from gateway.store.script_call import ScriptCall
from gateway.tasks import LeasedTask


class EnqueueCall(ScriptCall):
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


class ClaimCall(ScriptCall):
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


class CancelCall(ScriptCall):
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


class RetryCall(ScriptCall):
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


class PatchCall(ScriptCall):
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


class DeleteCall(ScriptCall):
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


class ExpireCall(ScriptCall):
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
