"""`POST /tasks` and a task's life with a thousand job types instead of one, 64 connections.

Every worker polls for sixteen of the thousand, so a moment's requests go to as many queues as there are workers, and
each queue's to a script call of their own.
"""

from __future__ import annotations

from benchmarks.bench import Bench, interleaved
from benchmarks.figures import Row, ratios
from benchmarks.load_client import Report

_JOB_TYPES = (1, 1_000)
_CONNECTIONS = 64
_TASKS_PER_SECOND = 16_000  # more than it can do


def run(bench: Bench) -> list[Row]:
    """Measure one and many, round by round."""
    posts: dict[str, list[float]] = {str(number): [] for number in _JOB_TYPES}
    lives: dict[str, list[float]] = {str(number): [] for number in _JOB_TYPES}
    one, many = posts
    for round_number in range(bench.rounds):
        for name in interleaved(round_number, list(posts)):
            posts[name].append(_post(bench, name, round_number)["requests_per_second"])
            lives[name].append(_life(bench, name, round_number)["tasks_per_second"])
    return [
        *(Row(f"POST /tasks, job types: {name}", "requests/s", found) for name, found in posts.items()),
        Row("POST /tasks, a thousand job types against one", "", ratios(posts[many], posts[one])),
        *(Row(f"poll and complete with next, job types: {name}", "tasks/s", found) for name, found in lives.items()),
        Row("life, a thousand job types against one", "", ratios(lives[many], lives[one])),
    ]


def _post(bench: Bench, name: str, round_number: int) -> Report:
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        return bench.measure(
            f"post, {name}", round_number, [gateway, redis], "post", gateway.url, queues=int(name),
            connections=_CONNECTIONS, **bench.span(),
        )  # fmt: skip


def _life(bench: Bench, name: str, round_number: int) -> Report:
    tasks = int(_TASKS_PER_SECOND * (bench.seconds + bench.warmup_seconds))
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        # An array goes to one queue: so many of them that each queue gets one, or arrays of 1,000.
        batch = min(-(-tasks // int(name)), 1000)
        bench.load.run(
            "post", gateway.url, tasks=tasks, batch=batch, connections=2, duration="10m", queues=int(name)
        )  # fmt: skip
        return bench.measure(
            f"life, {name}", round_number, [gateway, redis], "work", gateway.url, queues=int(name),
            connections=_CONNECTIONS, next=True, **bench.span(),
        )  # fmt: skip
