"""Two gateway processes on one port (`serve --processes 2`) against one, over the same kind of Redis, 64 connections.

On two cores this shows what the second process costs rather than what it brings: the load client and Redis need theirs.
"""

from __future__ import annotations

import dataclasses

from benchmarks.bench import Bench, interleaved
from benchmarks.cases import post_and_life
from benchmarks.figures import Row, ratios

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
            post, life = post_and_life.measure(served, name, round_number)
            posts[name].append(post)
            lives[name].append(life)
    return [
        *(Row(f"POST /tasks, {name}", "requests/s", found) for name, found in posts.items()),
        Row("POST /tasks, two processes against one", "", ratios(posts[two], posts[one])),
        *(Row(f"poll and complete with next, {name}", "tasks/s", found) for name, found in lives.items()),
        Row("life, two processes against one", "", ratios(lives[two], lives[one])),
    ]
