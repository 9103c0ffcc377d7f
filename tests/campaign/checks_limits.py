"""Limits: how many leases live at a time, by queue and by concurrency key; pace; pauses; tasks not started in time.

A lease counts from when the store gave it for as long as it was held for certain, so what is counted here did happen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.campaign.contents import Contents
from tests.campaign.producers import SETTINGS
from tests.campaign.timeline import ROUNDING_SECONDS, Grant, Item, Timeline, effective
from tests.campaign.violations import Violation

# As long as this a queue with a rate may have rested, and catch up at once.
_BURST_SECONDS = 0.1


def check(timeline: Timeline, contents: Contents) -> Iterator[Violation]:
    """Yield every limit that was passed, every hand-out while its queue was paused or its task too old."""
    by_queue: dict[str, list[Grant]] = defaultdict(list)
    by_key: dict[tuple[str, str], list[Grant]] = defaultdict(list)
    for grant in timeline.by_token.values():
        item = timeline.items.get(grant.payload)
        if item is None:
            continue
        queue, key = item.asked["job_type"], item.asked.get("concurrency_key")
        by_queue[queue].append(grant)
        if key is not None:
            by_key[queue, key].append(grant)
    for queue, settings in SETTINGS.items():
        if "max_processing" in settings:
            yield from _at_once("max_processing passed", queue, by_queue[queue], round(settings["max_processing"]))
        if "rate_per_second" in settings:
            yield from _paced(queue, by_queue[queue], settings["rate_per_second"])
    for (queue, key), grants in by_key.items():
        most = round(SETTINGS.get(queue, {}).get("max_processing_per_key", 1))
        yield from _at_once("concurrency key passed", f"{key} of {queue}", grants, most)
    yield from _paused(timeline, by_queue)
    yield from _expired(timeline, contents)


def _at_once(kind: str, what: str, grants: list[Grant], most: int) -> Iterator[Violation]:
    moves = []
    for grant in grants:
        # Shorter by what times are rounded by.
        start, end = grant.at + ROUNDING_SECONDS, grant.held_until() - ROUNDING_SECONDS
        if start < end:
            moves += [(start, 1, grant.task), (end, -1, grant.task)]
    live = 0
    for at, change, task in sorted(moves):
        live += change
        if live > most:
            yield Violation(kind, task, f"{what}: {live} of {most} at {at:.3f}")
            return


def _paced(queue: str, grants: list[Grant], rate: float) -> Iterator[Violation]:
    """In no span of time more are given out than its seconds at this rate, and a tenth of a second's worth besides.

    What was given out and lost on its way to a worker is not counted: there may have been more, never fewer.
    """
    most = max(1.0, rate * _BURST_SECONDS) + 2 * ROUNDING_SECONDS * rate
    # A bucket that each hand-out fills by one and that runs out at the rate: its level is the worst span that ends now.
    level, before = 0.0, 0.0
    for grant in sorted(grants, key=lambda one: one.at):
        level = max(0.0, level - (grant.at - before) * rate) + 1
        before = grant.at
        if level > most:
            yield Violation("rate passed", grant.task, f"{queue}: {level:.2f} of {most:.2f} at {grant.at:.3f}")
            return


def _paused(timeline: Timeline, by_queue: dict[str, list[Grant]]) -> Iterator[Violation]:
    """Nothing is given out from the reply to a fail that paused its queue until that time is over."""
    for reports in timeline.reports.values():
        by_token = defaultdict(list)
        for report in reports:
            if report.effective():
                by_token[report.token].append(report)
        for token, fails in by_token.items():
            # Another verb asks for no pause, as a fail without one.
            asked = {fail.facts.get("pause_queue_seconds", 0.0) for fail in fails}
            answers = [fail.end for fail in fails if fail.status == 200]
            grant = timeline.by_token.get(token)
            item = timeline.items.get(grant.payload) if grant else None
            if len(asked) != 1 or not answers or item is None:
                continue  # no telling which of them it was
            since, until = min(answers), min(fail.start for fail in fails) + asked.pop()
            queue = item.asked["job_type"]
            for other in by_queue[queue] if until > since else ():
                if since + ROUNDING_SECONDS < other.at < until - ROUNDING_SECONDS:
                    early = f"{until - other.at:.3f} s before the end of {queue}'s pause"
                    yield Violation("handed out while paused", other.task, early)


def _expired(timeline: Timeline, contents: Contents) -> Iterator[Violation]:
    for task, item in timeline.made.items():
        limit = item.asked.get("expires_in_seconds")
        if limit is None or not _untouched(timeline, task, item):
            continue
        # A release gives the attempt back, and the task must be started in time again.
        late = item.end + limit + ROUNDING_SECONDS
        for grant in timeline.grants.get(task, ()):
            if grant.attempt == 1 and grant.at > late:
                yield Violation("handed out too old", task, f"{grant.token} {grant.at - late:.3f} s after its time")
    for stored in contents.tasks.values():
        item = timeline.items.get(stored.payload)
        if stored.error_type != "expired" or item is None or not _untouched(timeline, stored.id, item):
            continue
        limit = item.asked.get("expires_in_seconds", float("inf"))
        if stored.finished is not None and stored.finished < item.start + limit - ROUNDING_SECONDS:
            yield Violation("expired too soon", stored.id, f"after {stored.finished - item.start:.3f} of {limit} s")
        if stored.attempt > 0:
            yield Violation("expired after its start", stored.id, f"attempt {stored.attempt}")


def _untouched(timeline: Timeline, task: str, item: Item) -> bool:
    """Whether nothing can have changed what was asked for: no other task's place taken, nothing sent back."""
    return "unique_key" not in item.asked and not any(effective(one) for one in timeline.retries.get(task, ()))
