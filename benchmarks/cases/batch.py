"""The whole life of tasks in batches of 10 and 100: enqueued as arrays, polled, reported by `/outcomes` with `next`.

Held against raw Redis: the same three scripts (enqueue, claim, complete) on the same kind of Redis with the same
number of tasks a call and nothing around them, as `benchmarks/scripts.py` runs them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bench import Bench, interleaved
from benchmarks.figures import Row, at_least, ratios
from benchmarks.http_server import ROOT, HttpServer
from benchmarks.processes import CpuClock
from benchmarks.redis_server import RedisServer

_CONNECTIONS = {10: 16, 100: 8}  # by the size of a batch
_TASKS_PER_SECOND = {10: 7_000, 100: 15_000}
_CONTENDERS = ("gateway", "raw")


@dataclass
class _Rates:
    """Tasks a second, one per round. own_time: of the scripts, by the time that Redis counts for them."""

    enqueued: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    own_time: list[float] = field(default_factory=list)


def run(bench: Bench) -> list[Row]:
    """Enqueue a queue full and work it off, round by round. Whole life is both times added."""
    rates = {batch: _Rates() for batch in _CONNECTIONS}
    for round_number in range(bench.rounds):
        for batch, found in rates.items():
            tasks = int(_TASKS_PER_SECOND[batch] * bench.seconds) // batch * batch
            for contender in interleaved(round_number, list(_CONTENDERS)):
                if contender == "raw":
                    report = _raw(bench, round_number, tasks, batch)
                    found.raw.append(tasks / (report["enqueue_seconds"] + report["work_seconds"]))
                else:
                    _gateway(bench, round_number, tasks, batch, found)
    return [row for batch, found in rates.items() for row in _rows(batch, found)]


def _rows(batch: int, found: _Rates) -> list[Row]:
    against_raw, against_own_time = ratios(found.whole, found.raw), ratios(found.whole, found.own_time)
    goal = at_least(0.8) if batch == 100 else None
    return [
        Row(f"enqueue in arrays of {batch}", "tasks/s", found.enqueued, key=f"enqueue/{batch}"),
        Row(f"poll and report {batch} at once", "tasks/s", found.worked, key=f"work/{batch}"),
        Row(f"whole life in batches of {batch}", "tasks/s", found.whole, key=f"whole/{batch}"),
        Row(f"raw Redis: the three scripts alone, {batch} a call", "tasks/s", found.raw, key=f"raw/{batch}"),
        Row(f"whole life in batches of {batch} against raw Redis", "", against_raw, goal, f"against raw/{batch}"),
        Row(f"the scripts by Redis's own count, {batch} a request", "tasks/s", found.own_time),
        Row(
            f"whole life in batches of {batch} against Redis's own count", "", against_own_time,
            key=f"against own count/{batch}",
        ),
    ]  # fmt: skip


def _gateway(bench: Bench, round_number: int, tasks: int, batch: int, found: _Rates) -> None:
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        servers: list[HttpServer | RedisServer] = [gateway, redis]
        flags = {"tasks": tasks, "connections": _CONNECTIONS[batch], "duration": "2m"}
        usec_before = redis.script_cost()[1]
        posted = bench.measure(
            f"enqueue, batches of {batch}", round_number, servers, "post", gateway.url, batch=batch, **flags
        )  # fmt: skip
        done = bench.measure(
            f"work, batches of {batch}", round_number, servers, "work", gateway.url, max=batch, **flags
        )  # fmt: skip
        found.own_time.append(tasks * 1e6 / (redis.script_cost()[1] - usec_before))
    if done["tasks"] < tasks:
        bench.note(f"round {round_number}: {tasks - done['tasks']} of {tasks} tasks were not done in time")
    found.enqueued.append(posted["tasks_per_second"])
    found.worked.append(done["tasks_per_second"])
    found.whole.append(tasks / (posted["seconds"] + done["seconds"]))


def _raw(bench: Bench, round_number: int, tasks: int, batch: int) -> dict[str, Any]:
    with bench.redis() as redis:
        clock = CpuClock([redis.process])
        numbers = map(str, (tasks, batch, _CONNECTIONS[batch]))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scripts", redis.url, *numbers],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        report: dict[str, Any] = json.loads(done.stdout)
        bench.keep(f"raw, batches of {batch}", round_number, report, clock)
    if report["tasks"] != tasks:
        bench.note(f"round {round_number}: the scripts alone completed {report['tasks']:.0f} of {tasks} tasks")
    return report
