"""What a failover of a cluster takes with it, and when clients are served again.

Redis copies to replicas after it has answered. Without `DURABILITY=replicated` the last acknowledged changes before a
failover may be gone: nobody promises them, so they are counted by themselves, each where it belongs to a failover.
"""

from __future__ import annotations

from collections import defaultdict

from tests.campaign.history import Fault, Operation
from tests.campaign.timeline import build, place_of
from tests.campaign.violations import Violation

# What follows where a task, a hand-out or a report was forgotten. Anything else is a broken promise all the same.
_FORGOTTEN = frozenset((
    "acknowledged task lost", "handed out task lost", "accepted outcome lost", "two leases at once",
    "attempt not counted", "attempt without a hand-out", "stale report accepted", "two outcomes accepted",
    "handed out after its end", "stored twice", "one key, two tasks", "unique key held twice", "handed out early",
    "FIFO broken", "priority ignored", "completed by nobody", "failed too soon", "handed out too old",
))  # fmt: skip
# A replica that follows is a moment behind.
_BEHIND_SECONDS = 1.0


def unpromised(
    violations: list[Violation], operations: list[Operation], faults: list[Fault], gateways: int
) -> tuple[list[Violation], list[Violation]]:
    """Part what a cluster without replication before the answer may lose from what breaks a promise.

    A violation is excused when it is of a kind that forgetting explains, and something that its clients were told
    was told around a failover of the task's own queue. Returns (broken promises, what is not promised).
    """
    timeline = build(operations, faults, gateways)
    spans = _spans(faults)
    moments: dict[str, list[float]] = defaultdict(list)
    for item in timeline.items.values():
        for task in item.ids:
            moments[task].append(item.end)
    for task, grants in timeline.grants.items():
        moments[task] += [grant.answered for grant in grants]
    for task, reports in timeline.reports.items():
        moments[task] += [report.end for report in reports]
    for told in (timeline.cancels, timeline.retries):
        for task, some in told.items():
            moments[task] += [operation.end for operation in some]
    broken, excused = [], []
    for violation in violations:
        own = spans.get(place_of(violation.task), ())
        near = any(start <= at <= end for at in moments[violation.task] for start, end in own)
        (excused if violation.kind in _FORGOTTEN and near else broken).append(violation)
    return broken, excused


def _spans(faults: list[Fault]) -> dict[str, list[tuple[float, float]]]:
    """When each queue may have forgotten something."""
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for fault in faults:
        if fault.name.startswith("primary_"):
            for queue in fault.queues:
                spans[queue].append((fault.at - _BEHIND_SECONDS, fault.until))
    return spans


def outages(operations: list[Operation], faults: list[Fault]) -> list[tuple[str, float, float]]:
    """For each primary that was replaced: the fault, seconds until then, and from then to the next acknowledged task.

    A partition beyond the first may be out of use, so none counts. Infinite: no task was acknowledged any more.
    """
    stored: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for operation in operations:
        if operation.op == "enqueue" and operation.status in (200, 201):
            for made in operation.reply.get("tasks", ()):
                if made["status"] == 201:
                    stored[place_of(made["id"])].append((operation.start, operation.end))
    found = []
    for fault in faults:
        queues = [queue for queue in fault.queues if "/" not in queue]
        if fault.replaced and queues:
            ends = [end for queue in queues for start, end in stored[queue] if start > fault.replaced]
            served = min(ends, default=float("inf")) - fault.replaced
            found.append((fault.name, fault.replaced - fault.at, served))
    return found
