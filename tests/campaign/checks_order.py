"""Order and bounds: priority first, FIFO inside one, never more waiting than TASK_QUEUE_SIZE, unique keys unique.

Order is judged only where the times leave no doubt: among tasks of the queues whose tasks are ready at once (and there
among those of one partition and one concurrency key, which are held back meanwhile), at moments when no poll without an
answer can have held one of them for a while.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator

import msgspec

from tests.campaign.contents import Contents
from tests.campaign.history import NO_ANSWER, Fault, Operation
from tests.campaign.producers import ORDERED_QUEUES, PARTITIONED_QUEUE, PRIORITIES
from tests.campaign.timeline import ROUNDING_SECONDS, Timeline, asks_for, effective, place_of
from tests.campaign.violations import Violation

# A gateway puts back what it claimed for a client that is gone; it gives up on Redis after a few seconds.
_HAND_BACK_SECONDS = 6.0
# For so long it waits for a replica, and then once more when it puts back.
_REPLICA_SECONDS = 2.0


class _First(msgspec.Struct):
    task: str
    priority: str
    asked: float
    stored: float
    at: float
    judged: bool


class Judged(msgspec.Struct):
    """How much could be judged. hand_outs: for order.

    most_waiting: the most tasks of one queue that waited for certain; doubted: how many of a queue's bound were left
    out at a time, the mean over the load and all queues, since a poll without an answer may have held them.
    """

    hand_outs: int = 0
    most_waiting: int = 0
    doubted: float = 0.0


def check(timeline: Timeline, contents: Contents, queue_size: int) -> tuple[list[Violation], Judged]:
    """Return every broken promise about order and bounds, and how much could be judged."""
    found, judged = [], Judged()
    for queue in ORDERED_QUEUES:
        doubts = _doubts(timeline, queue)
        for firsts in _first_grants(timeline, queue):
            certain = [first for first in firsts if not _within(doubts, first.at)]
            found += _order(firsts, certain)
            judged.hand_outs += len(certain)
    found += _overshoot(timeline, queue_size, judged)
    found += _unique(timeline, contents)
    return found, judged


def _first_grants(timeline: Timeline, queue: str) -> list[list[_First]]:
    """First hand-outs of a queue by time, those of each partition and concurrency key by themselves."""
    by_key: dict[tuple[str, str], list[_First]] = defaultdict(list)
    for item in timeline.items.values():
        if item.asked["job_type"] != queue or not item.created_id:
            continue
        grants = timeline.grants.get(item.created_id)
        if grants:
            straight = grants[0].attempt == 1 and not (
                timeline.cancels.get(item.created_id) or timeline.retries.get(item.created_id)
            )
            priority = item.asked.get("priority", "normal")
            first = _First(item.created_id, priority, item.start, item.end, grants[0].at, straight)
            by_key[place_of(item.created_id), item.asked.get("concurrency_key", "")].append(first)
    return [sorted(firsts, key=lambda first: first.at) for firsts in by_key.values()]


def _doubts(timeline: Timeline, queue: str) -> list[tuple[float, float]]:
    """When a claim whose answer was lost may have taken a task away for a while, its attempt uncounted."""
    # A gateway that is stopped sends polls home and puts back what it was about to give them.
    spans = [(fault.at, fault.until) for fault in timeline.faults if fault.name == "gateway_term"]
    spans += [(poll.start, poll.end + _HAND_BACK_SECONDS) for poll in _holders(timeline) if asks_for(poll, queue)]
    # While no replica confirms anything, what is claimed for polls that wait goes back, too, and they wait on.
    spans += [(one.start, one.end + _REPLICA_SECONDS) for one in timeline.operations if _not_replicated(one)]
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _holders(timeline: Timeline) -> list[Operation]:
    """Polls that may have taken tasks away, to be put back with their attempts uncounted: without an answer, or refused
    since no replica confirmed what they got.

    What died with its gateway is not put back: its lease lapses, and the attempt counts. So with any other 503.
    """
    kills: dict[str, list[Fault]] = defaultdict(list)
    for fault in timeline.faults:
        if fault.name == "gateway_kill":
            kills[fault.target].append(fault)
    return [
        poll for poll in timeline.lost_polls
        if _not_replicated(poll)
        or (poll.status == NO_ANSWER and not _killed(poll, kills[timeline.gateway_of(poll)]))
    ]  # fmt: skip


def _not_replicated(one: Operation) -> bool:
    return one.status == 503 and one.reply.get("code") == "not_replicated"


def _sent_home(timeline: Timeline) -> list[Operation]:
    """Polls at a gateway while it stopped: what it was about to give them it put back."""
    stops = [fault for fault in timeline.faults if fault.name == "gateway_term"]
    return [
        one for one in (timeline.operations if stops else ())
        if (one.op == "poll" or "next" in one.facts)
        and any(timeline.gateway_of(one) == stop.target and one.start < stop.until and stop.at < one.end
                for stop in stops)
    ]  # fmt: skip


def _killed(poll: Operation, kills: list[Fault]) -> bool:
    return any(poll.start < kill.until and kill.at <= poll.end <= kill.until + 0.5 for kill in kills)


def _within(spans: list[tuple[float, float]], at: float) -> bool:
    place = bisect.bisect_right(spans, (at, float("inf"))) - 1
    return place >= 0 and at <= spans[place][1]


def _order(firsts: list[_First], certain: list[_First]) -> Iterator[Violation]:
    """Look for a task that was ready before another one was given out, and yet came after it."""
    sure = {first.task for first in certain}
    # Walking back in time: the tasks given out later than the one at hand, by priority, the earliest stored of each.
    waiting: dict[str, tuple[float, str]] = {}
    later: list[_First] = []
    for first in reversed(firsts):
        while later and later[0].at > first.at + ROUNDING_SECONDS:
            one = later.pop(0)
            if one.judged:
                waiting[one.priority] = min(waiting.get(one.priority, (float("inf"), "")), (one.stored, one.task))
        if first.task in sure:
            rank = PRIORITIES.index(first.priority)
            stored, task = waiting.get(first.priority, (float("inf"), ""))
            if stored < first.asked:
                early = f"{first.asked - stored:.3f} s"
                yield Violation("FIFO broken", first.task, f"before {task}, stored {early} earlier")
            for priority in PRIORITIES[rank + 1 :]:
                stored, task = waiting.get(priority, (float("inf"), ""))
                if stored < first.at - ROUNDING_SECONDS:
                    yield Violation("priority ignored", first.task, f"{first.priority} before {priority} {task}")
        later.append(first)


def _overshoot(timeline: Timeline, queue_size: int, judged: Judged) -> Iterator[Violation]:
    """Count tasks that were waiting for certain: stored, and not yet given to anyone."""
    changes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for item in timeline.items.values():
        if not item.created_id or item.asked.get("unique_key") or item.asked.get("expires_in_seconds"):
            continue
        grants = timeline.grants.get(item.created_id)
        leaves = [cancel.start for cancel in timeline.cancels.get(item.created_id, ()) if effective(cancel)]
        if grants and grants[0].attempt == 1:
            leaves.append(grants[0].at)
        elif grants or not leaves:
            continue
        if min(leaves) > item.end:
            changes[item.asked["job_type"]] += [(item.end, 1), (min(leaves), -1)]
    load = [one.start for one in timeline.operations if not one.client.startswith("drain")]
    first, last = min(load, default=0.0), max(load, default=0.0)
    for poll in (*_holders(timeline), *_sent_home(timeline)):
        for queue in changes:
            if asks_for(poll, queue):
                # It may have taken as many away for a while.
                most = poll.facts.get("next", poll.facts).get("max", 1)
                end = poll.end + _HAND_BACK_SECONDS
                changes[queue] += [(poll.start, -most), (end, most)]
                judged.doubted += most * max(0.0, min(end, last) - poll.start)
    judged.doubted /= max(1, len(changes)) * max(1.0, last - first)
    # What waits in partitions from before a change stands beside the bound: docs/reliability.md names it.
    changed = min((fault.at for fault in timeline.faults if fault.name == "repartition"), default=float("inf"))
    for queue, moves in changes.items():
        waiting = 0
        for at, change in sorted(moves):
            if queue == PARTITIONED_QUEUE and at > changed:
                break
            waiting += change
            judged.most_waiting = max(judged.most_waiting, waiting)
            if waiting > queue_size:
                yield Violation("queue bound overshot", "", f"{queue}: {waiting} of {queue_size} at {at:.3f}")
                break


def _unique(timeline: Timeline, contents: Contents) -> Iterator[Violation]:
    by_key: dict[tuple[str, str], list[tuple[float, float, str]]] = defaultdict(list)
    for stored in contents.tasks.values():
        item = timeline.items.get(stored.payload)
        if not stored.unique_key or item is None or timeline.retries.get(stored.id):
            continue
        asked = [one.asked for one in (item, timeline.made.get(stored.id)) if one is not None]
        if any(one.get("unique_until", "finished") != "finished" for one in asked):
            continue
        end = stored.finished or float("inf")
        by_key[stored.job_type, stored.unique_key].append((stored.created, end, stored.id))
    for (queue, key), spans in by_key.items():
        spans.sort()
        for (_, end, task), (start, _, other) in itertools.pairwise(spans):
            if start < end - ROUNDING_SECONDS:
                late = f"{end - start:.3f} s later"
                yield Violation("unique key held twice", other, f"{key} of {queue} was {task}'s until {late}")
