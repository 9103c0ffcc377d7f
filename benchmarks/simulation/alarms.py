"""One queue's alarms, and the gateways that meet them by way of the index that all share.

Modelled after gateway/background.py and store/lua/alarms.lua; names are theirs. A call to Redis takes no time here:
what is counted are sweeps and calls, and what is timed is late by tenths of a second.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import random

from benchmarks.simulation.clockwork import Clockwork

_NEVER_S = math.inf
_SHORTEST_GAP_S = 0.02


@dataclasses.dataclass(frozen=True)
class Rules:
    """What gateways keep to.

    look_s, gather_s: between looks at most, and from news to the look that carries them. ahead_s: from when an alarm is
    taken; left_s: until when after its time it is left to its taker. all_go_on: whoever swept goes on with what is due
    within ahead_s, and not its taker only. notes_pull: an alarm noted while a taker has the queue makes it anybody's
    again. take_over_at_once: who takes what another left sweeps then, and not at the end of that other's time.
    """

    look_s: float = 0.5
    gather_s: float = 0.1
    ahead_s: float = 0.65
    left_s: float = 0.9
    all_go_on: bool = False
    notes_pull: bool = False
    take_over_at_once: bool = True


AS_BUILT = Rules()
# Before it was so: whoever swept went on, and every note made the queue anybody's.
EVERYBODY = Rules(left_s=0.7, all_go_on=True, notes_pull=True, take_over_at_once=False)


@dataclasses.dataclass(frozen=True)
class Findings:
    """A second of the counted part: sweeps, looks (calls of the index). late_s: of what came due, ascending."""

    sweeps: float
    looks: float
    late_s: list[float]


class _Queue:
    """What is due, and the queue's place in the index. state: `plain`, `taken`, or `noted` since it was taken."""

    def __init__(self) -> None:
        self.dues_s: list[float] = []
        self.late_s: list[float] = []
        self.score_s = _NEVER_S
        self.state = "plain"
        self.sweeps = self.looks = 0

    def sweep(self, now_s: float) -> float:
        """Meet what is due. Returns when the next is, or never."""
        self.sweeps += 1
        while self.dues_s and self.dues_s[0] <= now_s:
            self.late_s.append(now_s - heapq.heappop(self.dues_s))
        return self.dues_s[0] if self.dues_s else _NEVER_S

    def look(
        self, now_s: float, noted_s: float, settled: tuple[float, float] | None, rules: Rules
    ) -> tuple[float, float] | None:
        """Note, settle and take. Returns what was taken: when it is due, and until when it is left to the taker."""
        self.looks += 1
        if noted_s < _NEVER_S:
            if noted_s < self.score_s and (rules.notes_pull or self.state == "plain"):
                self.score_s, self.state = noted_s, "plain"
            elif self.state == "taken":
                self.state = "noted"
        if settled and settled[0] == self.score_s and self.state != "plain":
            if self.state == "taken":
                self.score_s, self.state = settled[1], "plain"
            elif not rules.notes_pull:
                self.score_s, self.state = min(settled[1], self.score_s), "plain"
        if self.score_s > now_s + rules.ahead_s:
            return None
        at_s = now_s if self.state != "plain" and rules.take_over_at_once else self.score_s
        self.score_s, self.state = max(at_s, now_s) + rules.left_s, "taken"
        return at_s, self.score_s


class _Sweeper:
    """A gateway's. round_s: how often it comes by without an alarm."""

    def __init__(self, queue: _Queue, clockwork: Clockwork, rng: random.Random, rules: Rules, round_s: float) -> None:
        self._queue, self._clockwork, self._rng, self._rules, self._round_s = queue, clockwork, rng, rules, round_s
        self._alarm_s = self._to_note_s = _NEVER_S
        self._free_s = 0.0
        self._wake_number = self._look_number = 0
        self._look_at_s = _NEVER_S
        self._left_s = 0.0
        self._settled: tuple[float, float] | None = None
        self._wait(rng.random() * rules.look_s)
        clockwork.after(rng.random() * round_s, self._come_by)

    def alarm(self, at_s: float) -> None:
        """Note that the queue needs a sweep then."""
        self._ring_at(at_s)
        self._share(at_s)
        self._has_news()

    def _ring_at(self, at_s: float) -> None:
        if at_s < self._alarm_s:
            self._alarm_s = at_s
            self._wake_number += 1
            wait_s = max(at_s, self._free_s) - self._clockwork.now_s
            self._clockwork.after(max(wait_s, 0.001), self._ring, self._wake_number)

    def _ring(self, number: int) -> None:
        if number == self._wake_number:
            self._alarm_s = _NEVER_S
            self._free_s = self._clockwork.now_s + _SHORTEST_GAP_S
            self._sweep()

    def _come_by(self) -> None:
        self._clockwork.after(self._round_s * self._rng.uniform(0.7, 1.0), self._come_by)
        self._sweep()

    def _sweep(self) -> None:
        now_s, left_s = self._clockwork.now_s, self._left_s
        if self._rules.all_go_on:
            self._left_s = 0.0
        next_s = self._queue.sweep(now_s)
        if left_s:
            self._settled = (left_s, next_s)
            self._has_news()
        elif next_s < _NEVER_S:
            self._share(next_s)
        if next_s <= now_s + self._rules.ahead_s and (left_s or self._rules.all_go_on):
            self._ring_at(next_s)

    # The shared index

    def _share(self, at_s: float) -> None:
        self._to_note_s = min(at_s, self._to_note_s)

    def _has_news(self) -> None:
        at_s = self._clockwork.now_s + self._rules.gather_s
        if at_s < self._look_at_s:
            self._wait(at_s - self._clockwork.now_s)

    def _wait(self, seconds: float) -> None:
        self._look_number += 1
        self._look_at_s = self._clockwork.now_s + seconds
        self._clockwork.after(seconds, self._look, self._look_number)

    def _look(self, number: int) -> None:
        if number != self._look_number:
            return
        now_s = self._clockwork.now_s
        noted_s, self._to_note_s = self._to_note_s, _NEVER_S
        settled, self._settled = self._settled, None
        if settled:
            self._left_s = 0.0
        taken = self._queue.look(now_s, noted_s, settled, self._rules)
        self._wait(self._rules.look_s)
        if taken:
            at_s, self._left_s = taken
            self._ring_at(at_s)


def simulate(
    gateways: int,
    due_per_second: float,
    rng: random.Random,
    rules: Rules = AS_BUILT,
    *,
    ahead_s: float = 5.0,
    round_s: float = 1.0,
    seconds: float = 10.0,
) -> Findings:
    """Run gateways over one queue whose tasks come due at that rate, Poisson, enqueued `ahead_s` before at any of them.

    round_s: how often each of them sweeps the queue besides.
    """
    clockwork, queue = Clockwork(), _Queue()
    sweepers = [_Sweeper(queue, clockwork, rng, rules, round_s) for _ in range(gateways)]

    def post() -> None:
        clockwork.after(rng.expovariate(due_per_second), post)
        due_s = clockwork.now_s + ahead_s
        heapq.heappush(queue.dues_s, due_s)
        rng.choice(sweepers).alarm(due_s)

    clockwork.after(rng.expovariate(due_per_second), post)
    warm_s = ahead_s + 3.0
    clockwork.run(warm_s)
    sweeps, looks, met = queue.sweeps, queue.looks, len(queue.late_s)
    clockwork.run(warm_s + seconds)
    return Findings((queue.sweeps - sweeps) / seconds, (queue.looks - looks) / seconds, sorted(queue.late_s[met:]))
