"""Calls of the scripts that only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.store import arq_format
from gateway.store.batching import Argument
from gateway.store.script_call import ScriptCall
from gateway.tasks import Lease, public_id


class LeasesCall(ScriptCall):
    name = "leases"
    promises = False
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), items[0][1], items[0][2]]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        queue = items[0][0]
        tag = self.store.keys.of(queue).tag
        leases = []
        for raw_id, raw in zip(reply[3::2], reply[4::2], strict=True):
            record = arq_format.decode_lease(raw)
            task_id = public_id(queue.job_type, raw_id.decode("utf-8", "surrogateescape"), tag)
            leases.append(
                Lease(task_id, record.token, record.worker_id, int(record.started_at_ms), int(record.ends_at_ms))
            )
        return [(leases, reply[2])]


class ReadCall(ScriptCall):
    name = "read"
    promises = False
    batch = 200

    def arguments(self, items: list[Any]) -> list[Argument]:
        with_log = any(item[1] for item in items)
        return [*self.start(), int(with_log), len(items), *(item[0] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return reply[2:]


class PageCall(ScriptCall):
    name = "page"
    promises = False
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        ((before, after, limit, examine, statuses),) = items
        return [*self.start(), before, after, limit, examine, *statuses]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [(reply[2], reply[3:])]


class StatsCall(ScriptCall):
    name = "stats"
    promises = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        return self.start()

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [reply[1:]] * len(items)
