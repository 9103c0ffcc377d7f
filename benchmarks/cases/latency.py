"""From the start of a POST to the task in a waiting worker's hands, on an otherwise idle gateway."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Row, at_most

_TASKS_PER_SECOND = 200
_POLLERS = 16
_POSTERS = 4
_SPANS = 2  # times as long as the others: its tail needs many tasks


def run(bench: Bench) -> list[Row]:
    """Measure each round on a fresh gateway."""
    reports = []
    for round_number in range(bench.rounds):
        with bench.redis() as redis, bench.gateway(redis) as gateway:
            reports.append(
                bench.measure(
                    "gateway",
                    round_number,
                    [gateway, redis],
                    "latency",
                    gateway.url,
                    rate=_TASKS_PER_SECOND,
                    pollers=_POLLERS,
                    connections=_POSTERS,
                    warmup=f"{bench.warmup_seconds}s",
                    duration=f"{_SPANS * bench.seconds}s",
                )
            )
    dispatch = [report["latency_ms"]["dispatch"] for report in reports]
    return [
        Row("POST to worker, p50", "ms", [found["p50"] for found in dispatch], at_most(1.5), key="p50"),
        Row("POST to worker, p90", "ms", [found["p90"] for found in dispatch]),
        Row("POST to worker, p99", "ms", [found["p99"] for found in dispatch], at_most(5), key="p99"),
        Row("POST to worker, p99.9", "ms", [found["p99.9"] for found in dispatch]),
        Row("POST to worker, max", "ms", [found["max"] for found in dispatch]),
        Row("POST to its reply, p50", "ms", [report["latency_ms"]["post"]["p50"] for report in reports]),
    ]
