"""How late a lapsed lease is noticed whose gateway died with the worker.

After gateway/background.py: alarms stand in an index that all gateways share, so another one meets them. What the dead
one had not noted yet is left to the round: every gateway goes round all known queues in an order of its own, 25 a
second when there are more than 25.
"""

from __future__ import annotations

import random

from benchmarks.simulation.alarms import AS_BUILT, Rules
from benchmarks.simulation.findings import percentile

SWEEPS_PER_SECOND = 25.0
ROUND_S = 1.0


def noted_lateness_s(gateways: int, rng: random.Random, rules: Rules = AS_BUILT, samples: int = 2000) -> list[float]:
    """How long after its end a lapse is seen whose alarm stands in the index: so many samples, ascending.

    gateways: those that still live. The lease ends within the second after the death; where the dead one had taken its
    alarm before, it is anybody's only after a while.
    """
    return sorted(_met_s(gateways, rng, rules) for _ in range(samples))


def _met_s(gateways: int, rng: random.Random, rules: Rules) -> float:
    opens_s = rng.random() - rules.ahead_s  # after the death
    first_of_dead_s = opens_s + rng.random() * rules.look_s
    first_of_others_s = opens_s + min(rng.random() for _ in range(gateways)) * rules.look_s
    if first_of_dead_s >= 0 or first_of_others_s < first_of_dead_s:
        return 0.0
    if not rules.take_over_at_once:
        return rules.left_s
    return rules.left_s - rules.ahead_s + min(rng.random() for _ in range(gateways)) * rules.look_s


def lateness_s(queues: int, gateways: int, rng: random.Random, samples: int = 2000) -> list[float]:
    """How long after its end a lapse is seen of which no gateway knows: so many samples, ascending.

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


def shares(ordered: list[float]) -> tuple[float, float, float]:
    """Median, p99 and the worst."""
    return percentile(ordered, 0.5), percentile(ordered, 0.99), ordered[-1]
