"""The checker: a history and what is left in the store, held against every promise."""

from __future__ import annotations

import statistics
from collections import Counter

import msgspec

from tests.campaign import (
    checks_lapses,
    checks_leases,
    checks_limits,
    checks_order,
    checks_outcomes,
    checks_replies,
    checks_store,
)
from tests.campaign.contents import Contents
from tests.campaign.history import NO_ANSWER, Fault, Operation
from tests.campaign.timeline import build
from tests.campaign.violations import Violation


class Verdict(msgspec.Struct):
    """What the checker found, and how much it had to look at.

    operations: what was asked for, each item of a batch by itself; hand_outs: leases that a worker saw; repeated:
    those after a lapse, a lost reply or a kill, per million; judged_for_order: first hand-outs whose order could be
    judged; most_waiting, doubted: see `checks_order.Judged`; lapses: leases that ran out and ended their task while
    nothing was broken, and how many seconds later that was noticed.
    """

    violations: list[Violation]
    operations: int
    requests: int
    unanswered: int
    acknowledged: int
    hand_outs: int
    accepted: int
    repeated_per_million: float
    judged_for_order: int
    most_waiting: int
    doubted: float
    lapses: int
    lapse_median_seconds: float
    lapse_worst_seconds: float
    longest_seconds: float
    statuses: dict[str, int]


def check(
    operations: list[Operation], faults: list[Fault], contents: Contents, *, gateways: int, queue_size: int
) -> Verdict:
    """Hold a history against the invariants."""
    timeline = build(operations, faults, gateways)
    ordered, judged = checks_order.check(timeline, contents, queue_size)
    late, waits = checks_lapses.check(timeline, contents)
    violations = [
        *late,
        *checks_leases.check(timeline),
        *checks_outcomes.check(timeline, contents),
        *ordered,
        *checks_limits.check(timeline, contents),
        *checks_store.check(contents),
        *checks_replies.check(timeline, contents),
    ]
    statuses = Counter(f"{one.op} {one.status or 'none'} {one.reply.get('code', '')}".strip() for one in operations)
    grants = sum(len(grants) for grants in timeline.grants.values())
    # A fail or a release asks for another hand-out; what came beyond those is the price of at-least-once.
    asked_for = sum(
        any(r.token == grant.token and r.verb != "complete" and r.status == 200 for r in timeline.reports.get(task, ()))
        for task, given in timeline.grants.items()
        for grant in given[:-1]
    )
    repeated = grants - len(timeline.grants) - asked_for
    return Verdict(
        violations=violations,
        operations=sum(_size(one) for one in operations),
        requests=len(operations),
        unanswered=sum(one.status == NO_ANSWER for one in operations),
        acknowledged=sum(len(item.ids) for item in timeline.items.values()),
        hand_outs=grants,
        accepted=sum(report.status == 200 for reports in timeline.reports.values() for report in reports),
        repeated_per_million=1e6 * repeated / max(grants, 1),
        judged_for_order=judged.hand_outs,
        most_waiting=judged.most_waiting,
        doubted=judged.doubted,
        lapses=len(waits),
        lapse_median_seconds=statistics.median(waits or [0.0]),
        lapse_worst_seconds=max(waits, default=0.0),
        longest_seconds=max((one.end - one.start for one in operations if one.status), default=0.0),
        statuses=dict(sorted(statuses.items())),
    )


def _size(operation: Operation) -> int:
    """How many tasks a request is about, at least one; a poll along with a report is one more."""
    facts = operation.facts
    items = facts.get("items") or facts.get("outcomes") or facts.get("leases") or (1,)
    return len(items) + ("next" in facts)
