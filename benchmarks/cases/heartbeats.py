"""10,000 leases kept alive by one worker with `POST /heartbeats`, 1,000 a request: how long one beat of all of them
takes, and what it costs. A worker beats every third of its leases' length: all 10,000 every ten seconds by default.
"""

from __future__ import annotations

import time

from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.processes import CpuClock

_LEASES = 10_000
_BATCH = 1_000


def run(bench: Bench) -> list[Row]:
    """Measure each round on a fresh gateway, one beat after the other."""
    leases = bench.size(_LEASES)
    beat_ms, request_ms = [], []
    cpu_ms: dict[str, list[float]] = {"gateway": [], "redis": []}
    for round_number in range(bench.rounds):
        with bench.redis() as redis, bench.gateway(redis) as gateway:
            bench.fill(gateway.url, leases, "bench")
            held = bench.load.launch("leases", gateway.url, tasks=leases, max=_BATCH, connections=1)
            clock = CpuClock([gateway.process, redis.process])
            time.sleep(bench.seconds)
            cpu_seconds, report = clock.seconds(), held.release()
            bench.keep("heartbeats", round_number, report, clock)
            beat_ms.append(report["latency_ms"]["beat"]["p50"])
            request_ms.append(report["latency_ms"]["heartbeats"]["p99"])
            for name, found in cpu_ms.items():
                found.append(1000 * cpu_seconds[name] * leases / report["tasks"])
    return [
        Row(f"one beat of {leases:,} leases, p50", "ms", beat_ms),
        Row(f"one request of {min(leases, _BATCH):,}, p99", "ms", request_ms),
        *(Row(f"CPU of one beat, {name}", "ms", found) for name, found in cpu_ms.items()),
    ]
