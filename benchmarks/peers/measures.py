"""What is measured of a contender, each time on a fresh private Redis (or at the server that already runs).

Every function returns one sample: plain figures, as they go into the results file. CPU seconds are per 1,000 jobs,
by process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from benchmarks.bench import Bench
from benchmarks.peers.contenders import Contender
from benchmarks.peers.records import Record, percentiles
from benchmarks.peers.tools import Tools
from benchmarks.processes import CpuClock, Process, ProcessFailed
from benchmarks.redis_server import RedisServer

Sample = dict[str, Any]

DURABILITIES = ("always", "everysec", "off")
CALLERS = {1: 64, 100: 8}  # callers side by side, by the jobs in each call
IDLE_JOBS_PER_SECOND = 100.0
IDLE_SPANS = 2  # times as long as the others: its tail needs many jobs
_IDLE_SHARE = 0.25  # of what its worker can do, where that is less
_LONG_SECONDS = 300.0


@dataclass
class Stand:
    """A contender set up for one measurement. redis: None where its server is elsewhere."""

    bench: Bench
    tools: Tools
    contender: Contender
    redis: RedisServer | None
    directory: Path
    queue: str

    def enqueue(self, seconds: float, warmup_seconds: float, batch: int, jobs: int = 0) -> Sample:
        """Run its client's closed loop."""
        return self._client("enqueue", seconds, warmup_seconds, CALLERS[batch], batch, jobs)

    def send(self, rate: float, seconds: float) -> int:
        """Enqueue at a steady rate. Returns how many."""
        return int(self._client("send", rate, seconds)["sent"])

    def fill(self, jobs: int) -> int:
        """Put jobs into the queue, unmeasured and without waiting for the disk. Returns how many were stored."""
        batch = 100 if self.contender.batches else 1
        if self.redis is None:
            return int(self.enqueue(_LONG_SECONDS, 0, batch, jobs)["stored"])
        kept = cast(dict[str, str], self.redis.client.config_get("appendfsync"))
        self.redis.client.config_set("appendfsync", "no")
        stored = int(self.enqueue(_LONG_SECONDS, 0, batch, jobs)["stored"])
        self.redis.client.config_set("appendfsync", kept["appendfsync"])
        os.sync()  # otherwise the first write that is measured waits for all of these
        return stored

    @contextlib.contextmanager
    def worker(self) -> Iterator[tuple[Process, Record]]:
        """Its worker, running."""
        record = Record(self.directory / "record")
        process = Process(
            "worker",
            self.tools.worker(self.contender, self._socket()),
            directory=self.directory,
            environment=self._environment(),
            log=self.directory / "worker.log",
        )
        try:
            yield process, record
        finally:
            process.stop()

    def clock(self, *processes: Process) -> CpuClock:
        """Counts the CPU seconds of these, and of Redis where it is ours."""
        return CpuClock([*processes, *([self.redis.process] if self.redis else [])])

    def _client(self, *words: object) -> Sample:
        done = subprocess.run(
            [*self.tools.client(self.contender), *map(str, words)],
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=2 * _LONG_SECONDS,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.contender.name}, {words[0]}: {done.stderr.strip()[-800:]}")
        report: Sample = json.loads(done.stdout)
        return report

    def _environment(self) -> dict[str, str]:
        return self.tools.environment(self.contender, self._socket(), self.directory / "record", self.queue)

    def _socket(self) -> Path | None:
        return self.redis.socket if self.redis else None


@contextlib.contextmanager
def private_redis(bench: Bench, durability: str) -> Iterator[RedisServer]:
    """An empty Redis. durability: `always` or `everysec` (its appendfsync), or `off`: no append-only file at all."""
    with replace(bench, appendfsync="no" if durability == "off" else durability).redis() as server:
        if durability == "off":
            server.client.config_set("appendonly", "no")
        yield server


@contextlib.contextmanager
def set_up(bench: Bench, tools: Tools, contender: Contender, durability: str) -> Iterator[Stand]:
    """A contender on a fresh Redis, or with a queue of its own at its server."""
    with contextlib.ExitStack() as stack:
        redis = None if contender.url else stack.enter_context(private_redis(bench, durability))
        name = stack.enter_context(tempfile.TemporaryDirectory(dir=bench.directory))
        yield Stand(bench, tools, contender, redis, Path(name), f"bench-{uuid.uuid4().hex[:12]}")


def enqueue(stand: Stand, batch: int) -> Sample:
    """Closed loop, no worker: 64 callers with one job each, or 8 with a hundred."""
    clock = stand.clock()
    report = stand.enqueue(stand.bench.seconds, stand.bench.warmup_seconds, batch)
    cpu_seconds = clock.seconds() | {"client": report["cpu_seconds"]}
    return {
        "per_second": report["jobs_per_second"],
        "call_ms": {"p50": report["call_p50_ms"], "p99": report["call_p99_ms"]},
        "cpu_seconds_per_1000": per_thousand(cpu_seconds, report["stored"]),
    }


def process(stand: Stand) -> Sample:
    """One worker process on a filled queue. Counted are the jobs whose handler ran within the window.

    bytes_per_job: Redis's memory of a waiting job, where its Redis is ours.
    """
    empty_bytes = stand.redis.used_memory_bytes() if stand.redis else 0
    stored = stand.fill(int(stand.contender.jobs_per_second * (stand.bench.seconds + stand.bench.warmup_seconds)))
    memory = {"bytes_per_job": (stand.redis.used_memory_bytes() - empty_bytes) / stored} if stand.redis else {}
    with stand.worker() as (worker, record):
        record.wait_for(1, worker)
        time.sleep(stand.bench.warmup_seconds)
        clock, begun = stand.clock(worker), time.monotonic_ns()
        time.sleep(stand.bench.seconds)
        cpu_seconds, until = clock.seconds(), time.monotonic_ns()
        dry = record.jobs() >= stored
    ran = [moment for _, moment in record.entries() if begun <= moment < until]
    if dry or not ran:
        why = f"{stand.contender.name}: {'the queue ran dry' if dry else 'no job ran'} within the window"
        raise ProcessFailed("worker", why, worker.log)
    return {
        "per_second": len(ran) * 1e9 / (until - begun),
        "cpu_seconds_per_1000": per_thousand(cpu_seconds, len(ran)),
    } | memory


def latency(stand: Stand, processed_per_second: float) -> Sample:
    """One job at a time to a worker that waits: from the start of the enqueueing call to the handler."""
    rate = idle_rate(processed_per_second)
    with stand.worker() as (worker, record):
        stand.enqueue(_LONG_SECONDS, 0, 1, jobs=1)
        record.wait_for(1, worker)
        sent = stand.send(rate, stand.bench.warmup_seconds + IDLE_SPANS * stand.bench.seconds)
        record.wait_for(1 + sent, worker, timeout_seconds=20)
    entries = record.entries()[1:]
    counted_from = min(made for made, _ in entries) + stand.bench.warmup_seconds * 1e9
    took_ms = [(ran - made) / 1e6 for made, ran in entries if made >= counted_from]
    return {"latency_ms": percentiles(took_ms), "jobs": len(took_ms), "rate": rate}


def idle_rate(processed_per_second: float) -> float:
    """Jobs per second that leave a worker mostly idle."""
    return min(IDLE_JOBS_PER_SECOND, _IDLE_SHARE * processed_per_second)


def per_thousand(cpu_seconds: dict[str, float], jobs: float) -> dict[str, float]:
    """CPU seconds of each process per 1,000 jobs."""
    return {name: round(1000 * used / jobs, 4) for name, used in cpu_seconds.items()}
