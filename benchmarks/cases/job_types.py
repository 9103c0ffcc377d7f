"""`POST /tasks` and a task's life with a hundred and a thousand job types instead of one, 64 connections.

Every worker polls for its share of them (sixteen of a thousand), so a moment's requests go to many queues, and each
queue's to a script call of their own.
"""

from __future__ import annotations

from benchmarks.bench import Bench, interleaved
from benchmarks.cases import post_and_life
from benchmarks.figures import Row, ratios

JOB_TYPES = (1, 100, 1_000)


def run(bench: Bench) -> list[Row]:
    """Measure each number, round by round."""
    posts: dict[str, list[float]] = {str(number): [] for number in JOB_TYPES}
    lives: dict[str, list[float]] = {str(number): [] for number in JOB_TYPES}
    one, _, many = posts
    for round_number in range(bench.rounds):
        for name in interleaved(round_number, list(posts)):
            post, life = post_and_life.measure(bench, name, round_number, job_types=int(name))
            posts[name].append(post)
            lives[name].append(life)
    return [
        *(
            Row(f"POST /tasks, job types: {int(name):,}", "requests/s", found, key=f"post/{name}")
            for name, found in posts.items()
        ),
        Row("POST /tasks, a thousand job types against one", "", ratios(posts[many], posts[one])),
        *(
            Row(f"poll and complete with next, job types: {int(name):,}", "tasks/s", found, key=f"life/{name}")
            for name, found in lives.items()
        ),
        Row("life, a thousand job types against one", "", ratios(lives[many], lives[one])),
    ]
