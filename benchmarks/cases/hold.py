"""10,000 long polls held open on an empty queue: their memory, and what they cost while nothing happens."""

from __future__ import annotations

import time

from benchmarks.bench import Bench
from benchmarks.figures import Row, at_most
from benchmarks.processes import CpuClock

_POLLS = 10_000
_WINDOW_SECONDS = 10.0
_RENEWED_WAIT_SECONDS = 25  # the protocol's default


def run(bench: Bench) -> list[Row]:
    """Measure each round on a fresh gateway: first polls that only wait, then polls that end evenly and come again."""
    polls, window_seconds = bench.size(_POLLS), 1.0 if bench.quick else _WINDOW_SECONDS
    memory_kib: list[float] = []
    idle: dict[str, list[float]] = {"gateway": [], "redis": [], "commands": []}
    renewed: dict[str, list[float]] = {"gateway": [], "redis": [], "commands": []}
    for round_number in range(bench.rounds):
        with bench.redis() as redis, bench.gateway(redis) as gateway:
            for kind, found in (("idle", idle), ("renewed", renewed)):
                rss_bytes = gateway.process.rss_bytes()
                held = bench.load.hold(
                    gateway.url,
                    polls=polls,
                    wait=55 if kind == "idle" else _RENEWED_WAIT_SECONDS,
                    stagger=kind == "renewed",
                    duration="10m",
                )
                if kind == "idle":
                    memory_kib.append((gateway.process.rss_bytes() - rss_bytes) / polls / 1024)
                clock, calls, begun = CpuClock([gateway.process, redis.process]), redis.calls(), time.monotonic()
                time.sleep(window_seconds)
                cpu_seconds, calls_after, took = clock.seconds(), redis.calls(), time.monotonic() - begun
                report = held.release()
                commands = {name: count - calls.get(name, 0) for name, count in calls_after.items()}
                commands["info"] -= 1  # our own
                bench.keep(f"{kind}, window", round_number, report | {"redis_calls": commands}, clock)
                for name in ("gateway", "redis"):
                    found[name].append(100 * cpu_seconds[name] / took)
                found["commands"].append(sum(commands.values()) / took)
    return [
        Row(f"gateway's memory per poll of {polls:,}", "KiB", memory_kib, at_most(20), key="memory"),
        Row("gateway's CPU, polls waiting", "% of a core", idle["gateway"], at_most(2), key="gateway"),
        Row("Redis's CPU, polls waiting", "% of a core", idle["redis"], at_most(2), key="redis"),
        Row(
            "both together",
            "% of a core",
            [sum(pair) for pair in zip(idle["gateway"], idle["redis"], strict=True)],
            at_most(2),
            "together",
        ),
        Row("Redis commands, polls waiting", "/s", idle["commands"], at_most(20), key="commands"),
        Row(f"gateway's CPU, renewed every {_RENEWED_WAIT_SECONDS} s", "% of a core", renewed["gateway"]),
        Row(f"Redis's CPU, renewed every {_RENEWED_WAIT_SECONDS} s", "% of a core", renewed["redis"]),
        Row(f"Redis commands, renewed every {_RENEWED_WAIT_SECONDS} s", "/s", renewed["commands"]),
    ]
