"""Seconds from the spawn of the gateway to its first 200 on /health/ready, over a Redis that is up already."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Row


def run(bench: Bench) -> list[Row]:
    """Start and stop it once per round."""
    seconds, memory_mib = [], []
    for _ in range(bench.rounds):
        with bench.redis() as redis, bench.gateway(redis) as gateway:
            seconds.append(gateway.start_seconds)
            memory_mib.append(gateway.process.rss_bytes() / 2**20)
    return [
        Row("spawn to ready", "s", seconds, key="seconds"),
        Row("memory when ready", "MiB", memory_mib),
    ]
