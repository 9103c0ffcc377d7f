"""Outcomes: each task ends once, as its worker was told, and is there to be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.campaign.checks_lapses import LAPSES
from tests.campaign.checks_leases import possible_unseen
from tests.campaign.contents import FINAL, Contents, Stored
from tests.campaign.timeline import Report, Timeline, effective
from tests.campaign.violations import Violation

# What workers of the campaign say.
_SAID = ("Trouble", "")


def check(timeline: Timeline, contents: Contents) -> Iterator[Violation]:
    """Yield every broken promise about acknowledged tasks and accepted outcomes."""
    yield from _lost(timeline, contents)
    yield from _strangers(timeline, contents)
    for task, reports in timeline.reports.items():
        yield from _outcomes(timeline, task, reports, contents.tasks.get(task))
    for task, cancels in timeline.cancels.items():
        stored = contents.tasks.get(task)
        accepted = any(cancel.status == 200 for cancel in cancels)
        if accepted and not _sent_back(timeline, task) and stored is not None and stored.status != "cancelled":
            yield Violation("accepted outcome lost", task, f"cancelled, but {stored.status}")
    for stored in contents.tasks.values():
        yield from _final_state(timeline, stored)
    for task in contents.listed_twice:
        yield Violation("listed twice", task, "in one walk through a list")


def _sent_back(timeline: Timeline, task: str) -> bool:
    return any(effective(retry) for retry in timeline.retries.get(task, ()))


def _short_lived(timeline: Timeline, task: str) -> bool:
    given = [timeline.items.get(grant.payload) for grant in timeline.grants.get(task, ())]
    asked = [timeline.asked(task), *(item.asked for item in given if item is not None)]
    return any(one.get("retention_seconds") == 0 for one in asked)


def _lost(timeline: Timeline, contents: Contents) -> Iterator[Violation]:
    for item in timeline.items.values():
        for task in item.ids:
            if task in contents.tasks:
                continue
            if not _short_lived(timeline, task):
                yield Violation("acknowledged task lost", task, item.payload[:40])
    for task, grants in timeline.grants.items():
        if task not in contents.tasks and not _short_lived(timeline, task):
            yield Violation("handed out task lost", task, grants[0].payload[:40])


def _strangers(timeline: Timeline, contents: Contents) -> Iterator[Violation]:
    seen: dict[str, str] = {}
    for stored in contents.tasks.values():
        item = timeline.items.get(stored.payload)
        if item is None:
            yield Violation("task that nobody asked for", stored.id, stored.payload[:40])
            continue
        if not item.may_exist:
            yield Violation("refused task stored", stored.id, stored.payload[:40])
        # Once the task that was replaced has ended, the same request repeated has nothing left to replace, and its task
        # is a new one: docs/reliability.md names it among what is not promised.
        replaces = item.asked.get("on_conflict") == "replace" and item.keyed
        if stored.payload in seen and not replaces:
            yield Violation("stored twice", stored.id, f"also {seen[stored.payload]}: {stored.payload[:40]}")
        seen[stored.payload] = stored.id
        made = timeline.made.get(stored.id)
        if made is not None and made.payload != stored.payload and not made.asked.get("unique_key"):
            yield Violation("payload changed", stored.id, f"{made.payload[:40]} is {stored.payload[:40]}")
    for task, grants in timeline.grants.items():
        made = timeline.made.get(task)
        for grant in grants:
            if grant.payload not in timeline.items:
                yield Violation("task that nobody asked for", task, grant.payload[:40])
            elif made is not None and made.payload != grant.payload and not made.asked.get("unique_key"):
                yield Violation("payload changed", task, f"{made.payload[:40]} handed out as {grant.payload[:40]}")
    for item in timeline.items.values():
        if len(item.ids) > 1 and not item.asked.get("unique_key"):
            yield Violation("one key, two tasks", min(item.ids), f"{sorted(item.ids)}")


def _outcomes(timeline: Timeline, task: str, reports: list[Report], stored: Stored | None) -> Iterator[Violation]:
    accepted: dict[str, set[str]] = defaultdict(set)
    final: dict[str, str] = {}
    for report in reports:
        if report.status == 200:
            accepted[report.token].add(report.verb)
            if report.outcome in FINAL:
                final[report.token] = report.outcome
    for token, verbs in accepted.items():
        if len(verbs) > 1:
            yield Violation("two outcomes accepted", task, f"{sorted(verbs)} of {token}")
    completed = [token for token, outcome in final.items() if outcome == "completed"]
    sent_back = sum(effective(retry) for retry in timeline.retries.get(task, ()))
    if len(completed) > 1 or len(final) > 1 + sent_back:
        yield Violation("two outcomes accepted", task, f"{final}")
    if stored is not None and final and not sent_back:
        (token, outcome), *_ = final.items()
        if stored.status != outcome:
            yield Violation("accepted outcome lost", task, f"{outcome}, but {stored.status}")
        elif outcome == "completed" and stored.result != f"done by {token}":
            # A report may leave the result out; then it is null.
            given = {report.facts.get("result") for report in reports if report.token == token}
            if stored.result not in given:
                yield Violation("accepted outcome lost", task, f"result {stored.result!r} of {token}")
    if final:
        ended = min(report.end for report in reports if report.status == 200 and report.outcome in FINAL)
        later = [grant for grant in timeline.grants.get(task, ()) if grant.at > ended]
        if later and not sent_back:
            yield Violation("handed out after its end", task, f"{later[0].token} {later[0].at - ended:.3f} s after")


def _final_state(timeline: Timeline, stored: Stored) -> Iterator[Violation]:
    if stored.status not in FINAL:
        yield Violation("stuck", stored.id, f"still {stored.status} after two drains")
        return
    most = timeline.most_attempts(stored.payload, stored.max_attempts)
    attempts = f"{stored.attempt} of {stored.max_attempts}, asked: {most}"
    if stored.attempt > most:
        yield Violation("attempt out of bounds", stored.id, attempts)
    yield from _attempts_at_the_end(timeline, stored)
    reports = [report for report in timeline.reports.get(stored.id, ()) if report.effective()]
    verbs = {report.verb for report in reports}
    if stored.status == "completed" and "complete" not in verbs:
        yield Violation("completed by nobody", stored.id, repr(stored.result)[:60])
    if stored.status == "cancelled" and not any(effective(one) for one in timeline.cancels.get(stored.id, ())):
        yield Violation("cancelled by nobody", stored.id, stored.error_type)
    if stored.status == "failed":
        reason, used_up = stored.error_type, stored.attempt >= most
        for_good = any(report.verb == "fail" and report.facts.get("retryable") is False for report in reports)
        said = reason in _SAID and "fail" in verbs
        if not said and reason not in ("corrupt", "expired", *LAPSES):
            yield Violation("failed by nobody", stored.id, f"{reason!r} at {attempts}")
        elif reason == "corrupt" or (reason in LAPSES and not used_up) or (said and not used_up and not for_good):
            yield Violation("failed too soon", stored.id, f"{reason} at {attempts}")


def _attempts_at_the_end(timeline: Timeline, stored: Stored) -> Iterator[Violation]:
    """Whatever was counted was handed out, to somebody who saw it or by a poll without an answer."""
    if _sent_back(timeline, stored.id):
        return
    grants = timeline.grants.get(stored.id, [])
    seen, since = (grants[-1].attempt, grants[-1].held_until()) if grants else (0, 0.0)
    if not possible_unseen(timeline, stored.id, stored.attempt - seen, since, stored.finished or float("inf")):
        yield Violation("attempt without a hand-out", stored.id, f"{seen}, at the end {stored.attempt}")
