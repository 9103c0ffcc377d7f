"""How late a lapsed lease is noticed when only the round of sweeps can notice it, and what alarms cost.

After gateway/background.py: every gateway goes round all known queues in an order of its own, five a second when there
are more than five, and sweeps besides when an alarm that it knows of is due, at most once in 20 ms a queue.
"""

from __future__ import annotations

import random

from benchmarks.simulation.findings import percentile

SWEEPS_PER_SECOND = 5.0
ROUND_S = 1.0
SHORTEST_GAP_S = 0.02


def lateness_s(queues: int, gateways: int, rng: random.Random, samples: int = 2000) -> list[float]:
    """How long after its end a lapse is seen that no living gateway has an alarm for: so many samples, ascending.

    gateways: those that still live. The first of them to come by sees it.
    """
    return sorted(min(_next_visit_s(queues, rng) for _ in range(gateways)) for _ in range(samples))


def _next_visit_s(queues: int, rng: random.Random) -> float:
    """How long from a random moment until one gateway comes by a given queue."""
    if queues <= SWEEPS_PER_SECOND:
        return rng.random() * ROUND_S * rng.uniform(0.7, 1.0)
    round_s = queues / SWEEPS_PER_SECOND
    now_s, place_s = rng.random() * round_s, rng.random() * round_s
    if place_s >= now_s:
        return place_s - now_s
    return round_s - now_s + rng.random() * round_s  # it was here in this round, and comes in the next


def sweeps_per_second(gateways: int, events_per_second: float, seconds: float, rng: random.Random) -> float:
    """How many sweeps a second all gateways make of one queue with events due at that rate, Poisson.

    An event is a task that is due, or one whose retention ends. Each sweep tells its gateway the next event, so every
    gateway that ever swept the queue comes for each of them; one that comes late finds nothing, and hears of the next.
    """
    sweeps = 0
    events, at_s = [], 0.0
    while at_s < seconds:
        at_s += rng.expovariate(events_per_second)
        events.append(at_s)
    for _ in range(gateways):
        place, now_s = 0, 0.0
        while True:
            while place < len(events) and events[place] <= now_s:
                place += 1
            if place >= len(events) or events[place] >= seconds:
                break
            sweeps += 1
            now_s = events[place] + SHORTEST_GAP_S
    return sweeps / seconds


def shares(ordered: list[float]) -> tuple[float, float, float]:
    """Median, p99 and the worst."""
    return percentile(ordered, 0.5), percentile(ordered, 0.99), ordered[-1]
