"""Calls of the scripts that take workers' reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.errors import (
    LeaseLost,
    Refusal,
    TaskNotFound,
)
from gateway.store.batching import Argument
from gateway.store.calls import Kept, Reported
from gateway.store.script_call import ScriptCall
from gateway.tasks import Status


class ReportCall(ScriptCall):
    """A report: items start with (queue, public id, arq id, token)."""

    def refusal(self, word: bytes, item: Any) -> Refusal:
        if word == b"missing":
            return TaskNotFound(item[1])
        self.store.listener.count("stale_report", 1)
        return LeaseLost(item[1])


class HeartbeatCall(ReportCall):
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


class CompleteCall(ReportCall):
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


class FailCall(ReportCall):
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


class ReleaseCall(ReportCall):
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
