"""Leases: never two at once, never early, attempts counted, reports fenced by their token."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator

from tests.campaign.timeline import (
    ROUNDING_SECONDS,
    SHORTEST_LEASE_SECONDS,
    Grant,
    Item,
    Report,
    Timeline,
    asks_for,
    effective,
)
from tests.campaign.violations import Violation

# How long after a poll was given up a gateway may still claim for it.
_LATE_CLAIM_SECONDS = 10.0


def check(timeline: Timeline) -> Iterator[Violation]:
    """Yield every broken promise about leases."""
    for task, grants in timeline.grants.items():
        yield from _double(task, grants)
        yield from _attempts(timeline, task, grants)
        yield from _early(timeline, task, grants)
        for grant in grants:
            if not grant.at <= grant.answered + ROUNDING_SECONDS:
                yield Violation("lease from the future", task, f"{grant.at} after {grant.answered}")
    for task, token in timeline.reused_tokens:
        yield Violation("token given twice", task, token)
    for reports in timeline.reports.values():
        yield from _stale(timeline, reports)
    for beats in timeline.heartbeats.values():
        yield from _stale_heartbeats(timeline, beats)


def _double(task: str, grants: list[Grant]) -> Iterator[Violation]:
    held, holder = 0.0, ""
    for grant in grants:
        if grant.at < held - ROUNDING_SECONDS:
            late = f"{held - grant.at:.3f} s before the end of {holder}"
            yield Violation("two leases at once", task, f"{grant.token} given {late}")
        if grant.held_until() > held:
            held, holder = grant.held_until(), grant.token


def _attempts(timeline: Timeline, task: str, grants: list[Grant]) -> Iterator[Violation]:
    sent_back = [retry.start for retry in timeline.retries.get(task, ()) if effective(retry)]
    for grant in grants:
        most = timeline.most_attempts(grant.payload, grant.max_attempts)
        if not 1 <= grant.attempt <= most or grant.max_attempts != most:
            yield Violation("attempt out of bounds", task, f"{grant.attempt} of {grant.max_attempts}, asked: {most}")
    if sent_back:
        return
    item = timeline.items.get(grants[0].payload)
    # One with a unique key may have taken another's place, and that one's attempts with it.
    since = 0.0 if item is None or item.asked.get("unique_key") else item.start
    if not possible_unseen(timeline, task, grants[0].attempt - 1, since, grants[0].at):
        yield Violation("attempt without a hand-out", task, f"the first hand-out says {grants[0].attempt}")
    for before, after in itertools.pairwise(grants):
        least = before.attempt + (before.released > after.at)
        if after.attempt < least:
            yield Violation("attempt not counted", task, f"{before.attempt}, then {after.attempt}")
        unseen = after.attempt - before.attempt - 1
        if not possible_unseen(timeline, task, unseen, before.held_until(), after.at):
            yield Violation("attempt without a hand-out", task, f"{before.attempt}, then {after.attempt}")


def possible_unseen(timeline: Timeline, task: str, unseen: int, since: float, until: float) -> bool:
    """Whether so many attempts that nobody saw are possible in a time.

    Each was given to a poll without an answer that asked for the task's queue, and counts since its lease ran out.
    """
    if unseen <= 0:
        return True
    last = until - SHORTEST_LEASE_SECONDS + ROUNDING_SECONDS
    if last - since < (unseen - 1) * SHORTEST_LEASE_SECONDS:
        return False
    queue = task.partition("~")[0]
    return any(
        poll.start < last and poll.end + _LATE_CLAIM_SECONDS > since and asks_for(poll, queue)
        for poll in timeline.lost_polls
    )


def _early(timeline: Timeline, task: str, grants: list[Grant]) -> Iterator[Violation]:
    item = timeline.made.get(task) or timeline.items.get(grants[0].payload)
    if item is None or item.asked.get("unique_key"):
        return  # one that takes its place may come at another time
    due = item.start + item.asked.get("delay_seconds", 0)
    reported = min((report.start for report in timeline.reports.get(task, ())), default=float("inf"))
    if item.created_id == task and item.end < reported:
        # Of a try that got no answer another may tell later, and then how the task stands after its worker's report.
        due = max(due, item.run_at)
    if grants[0].at < due - ROUNDING_SECONDS:
        yield Violation("handed out early", task, f"{due - grants[0].at:.3f} s before it was due")
    if timeline.retries.get(task):
        return
    reports: dict[str, list[Report]] = defaultdict(list)
    for report in timeline.reports.get(task, ()):
        if report.effective():
            reports[report.token].append(report)
    for token, tries in reports.items():
        grant = timeline.by_token.get(token)
        if grant is None:
            continue
        due = _due_again(item, tries)
        for other in grants:
            if grant.at < other.at < due - ROUNDING_SECONDS:
                early = f"{due - other.at:.3f} s before it was due again"
                yield Violation("handed out early", task, f"{other.token} {early}")


def _due_again(item: Item, tries: list[Report]) -> float:
    """When a task is due again after the tries of one report: as the answers told, and as was asked for."""
    accepted = [report for report in tries if report.status == 200]
    told = max((report.run_at for report in accepted), default=0.0)
    asked = {_delay_asked_for(item, report) for report in tries}
    if not accepted or len(asked) > 1:
        return told  # no telling which of them it was
    return max(told, min(report.start for report in tries) + asked.pop())


def _delay_asked_for(item: Item, report: Report) -> float:
    if report.verb == "release":
        return float(report.facts.get("delay_seconds", 0))
    backoff = item.asked.get("retry", {})
    usual = backoff.get("base_seconds", 0) if backoff.get("backoff") == "fixed" else 0
    return float(report.facts.get("retry_in_seconds", usual)) if report.verb == "fail" else 0.0


def _stale(timeline: Timeline, reports: list[Report]) -> Iterator[Violation]:
    first: dict[tuple[str, str], float] = {}
    for report in sorted(reports, key=lambda one: one.start):
        key = (report.token, report.verb)
        if report.effective():
            first.setdefault(key, report.start)
        if report.status == 200:
            yield from _too_late(timeline, report, first[key])


def _stale_heartbeats(timeline: Timeline, beats: list[Report]) -> Iterator[Violation]:
    grant = timeline.by_token.get(beats[0].token)
    if grant is None:
        return
    ended = min(
        (report.end for report in timeline.reports.get(grant.task, ())
         if report.token == grant.token and report.status == 200),
        default=float("inf"),
    )  # fmt: skip
    for beat in beats:
        if beat.status == 200:
            yield from _too_late(timeline, beat, beat.start)
            if beat.start > ended:
                yield Violation("stale report accepted", grant.task, "a heartbeat after the token's own outcome")


def _too_late(timeline: Timeline, report: Report, start: float) -> Iterator[Violation]:
    grant = timeline.by_token.get(report.token)
    if grant is None:
        return
    # What a heartbeat itself made of the lease does not count for it.
    end = min(grant.until_most, report.lease_end)
    if start > end + ROUNDING_SECONDS:
        late = f"{start - end:.3f} s after the end of its lease"
        yield Violation("stale report accepted", report.task, f"{report.verb} {late}")
    for other in timeline.grants[report.task]:
        if other.at > grant.at and start > other.at + ROUNDING_SECONDS:
            yield Violation("stale report accepted", report.task, f"{report.verb} after {other.token} had the task")
