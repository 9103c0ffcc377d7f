"""The gateway under the same measurements, driven over HTTP by the load client.

The warm-up is a run of its own here, so that CPU seconds and tasks count the same span. The load client is producer
and worker at once, and stands in the figures as `client` and `worker`.
"""

from __future__ import annotations

import os

from benchmarks.bench import PAYLOAD_BYTES, Bench
from benchmarks.load_client import Report, problems_of
from benchmarks.peers.measures import CALLERS, IDLE_SPANS, Sample, idle_rate, per_thousand, private_redis
from benchmarks.processes import CpuClock

_CONNECTIONS = {1: 64, 10: 16, 100: 8}  # of workers, by the tasks in each request
_TASKS_PER_SECOND = {1: 16_000, 10: 40_000, 100: 50_000}  # more than it can do


def enqueue(bench: Bench, durability: str, batch: int) -> Sample:
    """`POST /tasks`: 64 connections with one task each, or 8 with arrays of a hundred."""
    with private_redis(bench, durability) as redis, bench.gateway(redis) as gateway:
        flags = {"connections": CALLERS[batch], "batch": batch, "payload_bytes": PAYLOAD_BYTES}
        bench.load.warm_up("post", gateway.url, duration=f"{bench.warmup_seconds}s", **flags)
        clock = CpuClock([gateway.process, redis.process])
        report = bench.load.run("post", gateway.url, duration=f"{bench.seconds}s", **flags)
        cpu_seconds = clock.seconds() | {"client": report["cpu_seconds"]}
    _note(bench, report)
    return {
        "per_second": report["tasks_per_second"],
        "call_ms": report["latency_ms"]["request"],
        "cpu_seconds_per_1000": per_thousand(cpu_seconds, report["tasks"]),
    }


def process(bench: Bench, durability: str, batch: int, connections: int | None = None) -> Sample:
    """Complete with `next` on a filled queue: a request per task, or `/outcomes` with `batch` of them."""
    tasks = int(_TASKS_PER_SECOND[batch] * (bench.seconds + bench.warmup_seconds))
    with private_redis(bench, durability) as redis, bench.gateway(redis) as gateway:
        empty_bytes = redis.used_memory_bytes()
        bench.fill(gateway.url, tasks, "bench")
        bytes_per_job = (redis.used_memory_bytes() - empty_bytes) / tasks
        os.sync()  # as for the others
        flags = {"connections": connections or _CONNECTIONS[batch], "max": batch}
        bench.load.warm_up("work", gateway.url, duration=f"{bench.warmup_seconds}s", **flags)
        clock = CpuClock([gateway.process, redis.process])
        report = bench.load.run("work", gateway.url, duration=f"{bench.seconds}s", **flags)
        cpu_seconds = clock.seconds() | {"worker": report["cpu_seconds"]}
    _note(bench, report)
    if report["statuses"].get("204"):
        bench.note(f"tasks-gateway, batches of {batch}: the queue ran dry, fill it with more")
    return {
        "per_second": report["tasks_per_second"],
        "cpu_seconds_per_1000": per_thousand(cpu_seconds, report["tasks"]),
        "bytes_per_job": bytes_per_job,
    }


def latency(bench: Bench, durability: str, processed_per_second: float) -> Sample:
    """From the moment at which a POST was due, however late the client was, to the task in a waiting worker's hands."""
    rate = idle_rate(processed_per_second)
    with private_redis(bench, durability) as redis, bench.gateway(redis) as gateway:
        span = {"warmup": f"{bench.warmup_seconds}s", "duration": f"{IDLE_SPANS * bench.seconds}s"}
        flags = {"rate": rate, "connections": 4, "payload_bytes": PAYLOAD_BYTES}
        report = bench.load.run("latency", gateway.url, **span, **flags)
    _note(bench, report)
    found = report["latency_ms"]["dispatch"]
    shares = {name: found[name] for name in ("min", "p50", "p90", "p99", "p99.9", "max")}
    return {"latency_ms": shares, "jobs": found["count"], "rate": rate}


def _note(bench: Bench, report: Report) -> None:
    bench.note(*(f"tasks-gateway, {report['command']}: {problem}" for problem in problems_of(report)))
