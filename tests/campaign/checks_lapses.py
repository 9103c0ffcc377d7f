"""Lapses: a lease that ran out is noticed within a second, as soon as nothing is broken.

Only the last lapse of a task tells when it was noticed: then the task ends. What counts is how much of that time was
calm: without a fault, or one's aftermath.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.campaign.contents import Contents
from tests.campaign.timeline import Timeline, effective
from tests.campaign.violations import Violation

# One second is promised; two more are for a machine that stutters.
_LATEST_SECONDS = 1.0 + 2.0
# A gateway connects anew, Redis is read again.
_AFTERMATH_SECONDS = 2.0
# What meets only clients holds up no sweep.
_HARMLESS = ("repartition", "worker_kill", "worker_stop", "producer_kill", "client_link")
LAPSES = ("lease_lapsed", "timeout")


def check(timeline: Timeline, contents: Contents) -> tuple[list[Violation], list[float]]:
    """Return lapses that were noticed too late, and how many seconds those took that met with no fault at all."""
    troubled = _troubled(timeline)
    found, waits = [], []
    for stored in contents.tasks.values():
        grants = timeline.grants.get(stored.id)
        if stored.error_type not in LAPSES or stored.finished is None or not grants:
            continue
        last = grants[-1]
        sent_back = any(effective(retry) for retry in timeline.retries.get(stored.id, ()))
        if sent_back or last.attempt != stored.attempt or last.let_go != float("inf"):
            continue
        wait = max(0.0, stored.finished - last.until_most)
        calm = wait - sum(_both(troubled, last.until_most, last.until_most + wait))
        if calm == wait and wait:
            waits.append(wait)
        if calm > _LATEST_SECONDS:
            late = f"{wait:.3f} s after its end, {calm:.3f} s of them calm"
            found.append(Violation("lapse noticed late", stored.id, f"{last.token} {late}"))
    return found, waits


def _troubled(timeline: Timeline) -> list[tuple[float, float]]:
    """When something was broken that may hold up a sweep: spans that do not overlap, in order."""
    spans: list[tuple[float, float]] = []
    for fault in sorted(timeline.faults, key=lambda one: one.at):
        if fault.name in _HARMLESS:
            continue
        start, end = fault.at, fault.until + _AFTERMATH_SECONDS
        if spans and start <= spans[-1][1]:
            start, before = spans.pop()
            end = max(end, before)
        spans.append((start, end))
    return spans


def _both(troubled: list[tuple[float, float]], start: float, end: float) -> Iterator[float]:
    """How much of a time each trouble took."""
    for since, until in troubled:
        if since < end and start < until:
            yield min(end, until) - max(start, since)
