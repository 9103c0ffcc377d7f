"""What a simulated or a real run showed, and the few figures that say it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass
class Findings:
    """Of the counted part of a run. *_per_task: calls for each task that was handed out.

    claims_per_task: claim calls of any kind; dispatch_claims_per_task: without rechecks; empty_share: of all claim
    calls, those that found nothing. fairness: Jain's index of tasks per worker over the gateways; fairness_of_waits:
    of mean latencies. latency: from a task being ready in Redis to its worker having it.
    """

    gateways: int
    tasks: int
    claims_per_task: float
    dispatch_claims_per_task: float
    empty_share: float
    rings_per_task: float
    wasted_rings_share: float
    pass_ons_per_task: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    worst_ms: float
    fairness: float
    fairness_of_waits: float
    redis_share: float

    def rounded(self) -> dict[str, float]:
        """As a dictionary with three figures behind the point."""
        return {name: round(value, 3) for name, value in dataclasses.asdict(self).items()}


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything. nan: nobody has anything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else float("nan")


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; `ordered` ascends. nan of none."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")
