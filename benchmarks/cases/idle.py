"""What a hundred queues cost while nothing happens: each had a task once and is swept, and has ten polls open."""

from __future__ import annotations

import time

from benchmarks.bench import Bench
from benchmarks.figures import Row, at_most
from benchmarks.processes import CpuClock

_QUEUES = 100
_POLLS = 1_000
_WINDOW_SECONDS = 5.0


def run(bench: Bench) -> list[Row]:
    """Measure each round on a fresh gateway."""
    window_seconds = 1.0 if bench.quick else _WINDOW_SECONDS
    found: dict[str, list[float]] = {"gateway": [], "redis": [], "commands": []}
    for round_number in range(bench.rounds):
        with bench.redis() as redis, bench.gateway(redis) as gateway:
            spread = {"queues": _QUEUES, "job_type": "idle"}
            bench.load.run("post", gateway.url, tasks=_QUEUES, connections=1, duration="1m", **spread)
            bench.load.run("work", gateway.url, tasks=_QUEUES, connections=_QUEUES, duration="1m", **spread)
            held = bench.load.hold(gateway.url, polls=max(bench.size(_POLLS), _QUEUES), duration="10m", **spread)
            clock, calls, begun = CpuClock([gateway.process, redis.process]), redis.calls(), time.monotonic()
            time.sleep(window_seconds)
            cpu_seconds, calls_after, took = clock.seconds(), redis.calls(), time.monotonic() - begun
            report = held.release()
            commands = {name: count - calls.get(name, 0) for name, count in calls_after.items()}
            commands["info"] -= 1  # our own
            bench.keep("window", round_number, report | {"redis_calls": commands}, clock)
            for name in ("gateway", "redis"):
                found[name].append(100 * cpu_seconds[name] / took)
            found["commands"].append(sum(commands.values()) / took)
    return [
        Row(f"gateway's CPU, {_QUEUES} queues", "% of a core", found["gateway"], at_most(2)),
        Row(f"Redis's CPU, {_QUEUES} queues", "% of a core", found["redis"], at_most(2)),
        Row(f"Redis commands, those inside scripts too, {_QUEUES} queues", "/s", found["commands"]),
    ]
