"""Two gateway processes on one port (`serve --processes 2`) against one, over the same kind of Redis, 64 connections.

On two cores this shows what the second process costs rather than what it brings: the load client and Redis need theirs.
"""

from __future__ import annotations

import dataclasses

from benchmarks.bench import Bench, interleaved
from benchmarks.figures import Row, ratios
from benchmarks.load_client import Report

_CONNECTIONS = 64
_TASKS_PER_SECOND = 16_000  # more than they can do
_CONTENDERS = {"one process": 1, "two processes": 2}


def run(bench: Bench) -> list[Row]:
    """Measure both, round by round."""
    posts: dict[str, list[float]] = {name: [] for name in _CONTENDERS}
    lives: dict[str, list[float]] = {name: [] for name in _CONTENDERS}
    one, two = _CONTENDERS
    for round_number in range(bench.rounds):
        for name in interleaved(round_number, list(_CONTENDERS)):
            command = [*bench.gateway_command, "--processes", str(_CONTENDERS[name])]
            served = dataclasses.replace(bench, gateway_command=command)
            posts[name].append(_post(served, name, round_number)["requests_per_second"])
            lives[name].append(_life(served, name, round_number)["tasks_per_second"])
    return [
        *(Row(f"POST /tasks, {name}", "requests/s", found) for name, found in posts.items()),
        Row("POST /tasks, two processes against one", "", ratios(posts[two], posts[one])),
        *(Row(f"poll and complete with next, {name}", "tasks/s", found) for name, found in lives.items()),
        Row("life, two processes against one", "", ratios(lives[two], lives[one])),
    ]


def _post(bench: Bench, name: str, round_number: int) -> Report:
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        return bench.measure(
            f"post, {name}", round_number, [gateway, redis], "post", gateway.url,
            connections=_CONNECTIONS, **bench.span(),
        )  # fmt: skip


def _life(bench: Bench, name: str, round_number: int) -> Report:
    tasks = int(_TASKS_PER_SECOND * (bench.seconds + bench.warmup_seconds))
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        bench.fill(gateway.url, tasks, "bench")
        return bench.measure(
            f"life, {name}", round_number, [gateway, redis], "work", gateway.url,
            connections=_CONNECTIONS, next=True, **bench.span(),
        )  # fmt: skip
