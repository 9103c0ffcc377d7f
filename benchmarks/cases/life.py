"""A task's life in a worker's hands, one task per request, against arq's own worker on the same kind of Redis.

Both start from a filled queue with as many tasks as they cannot finish in time, and run an empty function.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import native_arq
from benchmarks.bench import PAYLOAD_BYTES, Bench, interleaved
from benchmarks.figures import Row, at_least, ratios
from benchmarks.http_server import ROOT
from benchmarks.processes import CpuClock

_CONNECTIONS = 64
_GATEWAY_TASKS_PER_SECOND = 16_000  # more than it can do
_ARQ_TASKS_PER_SECOND = 3_000


def run(bench: Bench) -> list[Row]:
    """Measure every contender, round by round."""
    rates: dict[str, list[float]] = {contender: [] for contender in _CONTENDERS}
    for round_number in range(bench.rounds):
        for contender in interleaved(round_number, list(_CONTENDERS)):
            report = _CONTENDERS[contender](bench, contender, round_number)
            rates[contender].append(report["tasks_per_second"])
    # The goal is held against the better of arq's two: its defaults read 100 jobs each half second, then sleep.
    best_arq = [max(pair) for pair in zip(rates["arq, defaults"], rates["arq, tuned"], strict=True)]
    return [
        *(Row(contender, "tasks/s", found, key=contender) for contender, found in rates.items()),
        Row(
            "with next against the better arq", "", ratios(rates["with next"], best_arq), at_least(8), key="against arq"
        ),
    ]


def _gateway(bench: Bench, contender: str, round_number: int, *, following: bool) -> dict[str, Any]:
    tasks = int(_GATEWAY_TASKS_PER_SECOND * (bench.seconds + bench.warmup_seconds))
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        bench.fill(gateway.url, tasks, "bench")
        report = bench.measure(
            contender,
            round_number,
            [gateway, redis],
            "work",
            gateway.url,
            connections=_CONNECTIONS,
            next=following,
            **bench.span(),
        )
    if report["statuses"].get("204"):
        bench.note(f"{contender}, round {round_number}: the queue ran dry, fill it with more")
    return report


def _with_next(bench: Bench, contender: str, round_number: int) -> dict[str, Any]:
    return _gateway(bench, contender, round_number, following=True)


def _poll_and_complete(bench: Bench, contender: str, round_number: int) -> dict[str, Any]:
    return _gateway(bench, contender, round_number, following=False)


def _arq(
    bench: Bench, contender: str, round_number: int, *, max_jobs: int, poll_delay_seconds: float
) -> dict[str, Any]:
    tasks = int(_ARQ_TASKS_PER_SECOND * (bench.seconds + bench.warmup_seconds))
    with bench.redis() as redis:
        native_arq.fill(redis.client, tasks, PAYLOAD_BYTES)
        clock = CpuClock([redis.process])
        numbers = [bench.seconds, bench.warmup_seconds, max_jobs, poll_delay_seconds]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.native_arq", str(redis.socket), *map(str, numbers)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        report: dict[str, Any] = json.loads(done.stdout)
        bench.keep(contender, round_number, report, clock)
    if report["failed"] or not report["tasks"]:
        bench.note(f"{contender}, round {round_number}: {report['tasks']} done, {report['failed']} failed")
    return report


def _arq_defaults(bench: Bench, contender: str, round_number: int) -> dict[str, Any]:
    return _arq(bench, contender, round_number, max_jobs=10, poll_delay_seconds=0.5)


def _arq_tuned(bench: Bench, contender: str, round_number: int) -> dict[str, Any]:
    return _arq(bench, contender, round_number, max_jobs=100, poll_delay_seconds=0.01)


_CONTENDERS: dict[str, Callable[[Bench, str, int], dict[str, Any]]] = {
    "with next": _with_next,
    "poll, then complete": _poll_and_complete,
    "arq, defaults": _arq_defaults,
    "arq, tuned": _arq_tuned,
}
