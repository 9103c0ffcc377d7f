"""100,000 leases that end at one moment, as when a cluster of workers dies: how long until all are pending again, and
what a good client of another queue notices of it.

The good client posts 200 tasks a second to workers that wait. Its longest time from POST to worker, and the longest
that Redis was busy with one command (SLOWLOG), tell whether the sweeps get in anybody's way.
"""

from __future__ import annotations

import json
import time
import urllib.request

from benchmarks.bench import Bench
from benchmarks.figures import Row, at_most
from benchmarks.processes import CpuClock
from benchmarks.redis_server import RedisServer

_LEASES = 100_000
_MOST_ROUNDS = 3
_LOOK_SECONDS = 0.05
_LONGEST_SECONDS = 120.0
_TASKS_PER_SECOND = 200
_POLLERS = 16


def run(bench: Bench) -> list[Row]:
    """Measure each round on a fresh gateway, in three rounds at most."""
    leases = bench.size(_LEASES)
    seconds, p99_ms, stall_ms, script_ms = [], [], [], []
    for round_number in range(min(bench.rounds, _MOST_ROUNDS)):
        with bench.redis() as redis, bench.gateway(redis) as gateway:
            bench.fill(gateway.url, leases, "lapsing")
            silent = bench.load.launch(
                "leases", gateway.url, job_type="lapsing", tasks=leases, connections=4, lapse=True, duration="10m"
            )
            good = bench.load.launch(
                "latency", gateway.url, job_type="good", rate=_TASKS_PER_SECOND, pollers=_POLLERS, connections=4,
                warmup="0s", duration="5m",
            )  # fmt: skip
            ends_at = int(silent.announced.split()[-1]) / 1000
            time.sleep(max(0.0, ends_at - time.time()))
            redis.client.config_set("slowlog-log-slower-than", 1000)
            redis.client.slowlog_reset()
            clock = CpuClock([gateway.process, redis.process])
            seconds.append(_until_pending(bench, gateway.url, leases) - ends_at)
            script_ms.append(_longest_command_ms(redis))
            report = good.release()
            bench.keep("good client", round_number, report, clock)
            bench.note(*(f"round {round_number}: {kind}" for kind in silent.release()["errors"]))
        p99_ms.append(report["latency_ms"]["dispatch"]["p99"])
        stall_ms.append(report["latency_ms"]["dispatch"]["max"])
    return [
        Row(f"{leases:,} leases end: all pending again after", "s", seconds),
        Row("good client meanwhile, POST to worker, p99", "ms", p99_ms),
        Row("good client meanwhile, longest", "ms", stall_ms),
        Row("longest command of Redis meanwhile", "ms", script_ms, at_most(50)),
    ]


def _until_pending(bench: Bench, url: str, tasks: int) -> float:
    """Look until that many tasks are pending. Returns when (unix seconds)."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    while True:
        with urllib.request.urlopen(f"{url}/queues/lapsing", timeout=30) as reply:
            pending = json.load(reply)["pending"]
        if pending == tasks:
            return time.time()
        if time.monotonic() > deadline:
            bench.note(f"only {pending} of {tasks} tasks were pending again after {_LONGEST_SECONDS:.0f} s")
            return time.time()
        time.sleep(_LOOK_SECONDS)


def _longest_command_ms(redis: RedisServer) -> float:
    """The longest command in the slow log; 0 when none took a millisecond."""
    return max((entry["duration"] for entry in redis.client.slowlog_get(128)), default=0) / 1000
