"""What identity, rate limits and quotas cost: `POST /tasks` and a task's life with all of them, and with none."""

from __future__ import annotations

from benchmarks.bench import Bench, interleaved
from benchmarks.cases import post_and_life
from benchmarks.figures import Row, at_least, ratios
from benchmarks.tokens import SECRET, token

_EVERYTHING = {
    "JWT_SECRET": SECRET,
    # High enough to refuse nobody, low enough to be asked all the time.
    "RATE_LIMIT_PER_MINUTE": "6000000",
    "TENANT_MAX_PENDING": "10000000",
    "TENANT_MAX_STORED_BYTES": "1000000000000",
}
_CONTENDERS: dict[str, dict[str, str]] = {"with none": {}, "with all": _EVERYTHING}


def run(bench: Bench) -> list[Row]:
    """Measure both, round by round."""
    posts: dict[str, list[float]] = {name: [] for name in _CONTENDERS}
    lives: dict[str, list[float]] = {name: [] for name in _CONTENDERS}
    for round_number in range(bench.rounds):
        for name in interleaved(round_number, list(_CONTENDERS)):
            settings = _CONTENDERS[name]
            post, life = post_and_life.measure(
                bench, name, round_number, token=token() if settings else "", **settings
            )  # fmt: skip
            posts[name].append(post)
            lives[name].append(life)
    return [
        *(Row(f"POST /tasks, {name}", "requests/s", found) for name, found in posts.items()),
        Row("POST /tasks, all against none", "", ratios(posts["with all"], posts["with none"]), at_least(0.85)),
        *(Row(f"poll and complete with next, {name}", "tasks/s", found) for name, found in lives.items()),
        Row("life, all against none", "", ratios(lives["with all"], lives["with none"]), at_least(0.85)),
    ]
