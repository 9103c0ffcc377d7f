"""From the start of a POST to the task in a waiting worker's hands, at half and four fifths of what the gateway can do.

What it can do is measured first in each round: posts go as fast as workers take the tasks, a bounded number of them
under way. Then tasks are posted at a share of that rate, each at its own time whether or not the gateway has kept up.
"""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Row, at_most
from benchmarks.load_client import Report

_SHARES = {"50 %": 0.5, "80 %": 0.8}
_POLLERS = 64
_POSTERS = 64
_BACKLOG = 128


def run(bench: Bench) -> list[Row]:
    """Measure each round on a fresh gateway."""
    capacities: list[float] = []
    reports: dict[str, list[Report]] = {share: [] for share in _SHARES}
    for round_number in range(bench.rounds):
        with bench.redis() as redis, bench.gateway(redis) as gateway:
            servers = [gateway, redis]
            found = bench.measure(
                "capacity", round_number, servers, "latency", gateway.url, rate=0, backlog=_BACKLOG,
                pollers=_POLLERS, connections=_POSTERS, **bench.span(),
            )  # fmt: skip
            capacities.append(found["tasks_per_second"])
            for name, share in _SHARES.items():
                report = bench.measure(
                    name, round_number, servers, "latency", gateway.url, rate=round(share * capacities[-1]),
                    pollers=_POLLERS, connections=_POSTERS, **bench.span(),
                )  # fmt: skip
                reports[name].append(report)
    rows = [Row("capacity: tasks posted, polled and completed with next", "tasks/s", capacities, key="capacity")]
    for name, found_reports in reports.items():
        dispatch = [report["latency_ms"]["dispatch"] for report in found_reports]
        for percentile in ("p50", "p99", "p99.9"):
            goal = at_most(25) if (name, percentile) == ("80 %", "p99") else None
            values = [found[percentile] for found in dispatch]
            rows.append(Row(f"POST to worker at {name}, {percentile}", "ms", values, goal, f"{name}/{percentile}"))
    return rows
