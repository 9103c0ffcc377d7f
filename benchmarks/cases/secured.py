"""What identity, rate limits and quotas cost: `POST /tasks` and a task's life with all of them, and with none."""

from __future__ import annotations

from benchmarks.bench import Bench, interleaved
from benchmarks.figures import Row, at_least, ratios
from benchmarks.load_client import Report
from benchmarks.tokens import SECRET, token

_CONNECTIONS = 64
_TASKS_PER_SECOND = 16_000  # more than it can do
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
            posts[name].append(_post(bench, name, round_number)["requests_per_second"])
            lives[name].append(_life(bench, name, round_number)["tasks_per_second"])
    return [
        *(Row(f"POST /tasks, {name}", "requests/s", found) for name, found in posts.items()),
        Row("POST /tasks, all against none", "", ratios(posts["with all"], posts["with none"]), at_least(0.85)),
        *(Row(f"poll and complete with next, {name}", "tasks/s", found) for name, found in lives.items()),
        Row("life, all against none", "", ratios(lives["with all"], lives["with none"]), at_least(0.85)),
    ]


def _flags(name: str) -> dict[str, object]:
    return {"token": token()} if _CONTENDERS[name] else {}


def _post(bench: Bench, name: str, round_number: int) -> Report:
    with bench.redis() as redis, bench.gateway(redis, **_CONTENDERS[name]) as gateway:
        return bench.measure(
            f"post, {name}", round_number, [gateway, redis], "post", gateway.url,
            connections=_CONNECTIONS, **_flags(name), **bench.span(),
        )  # fmt: skip


def _life(bench: Bench, name: str, round_number: int) -> Report:
    tasks = int(_TASKS_PER_SECOND * (bench.seconds + bench.warmup_seconds))
    with bench.redis() as redis, bench.gateway(redis, **_CONTENDERS[name]) as gateway:
        bench.fill(gateway.url, tasks, "bench", str(_flags(name).get("token", "")))
        return bench.measure(
            f"life, {name}", round_number, [gateway, redis], "work", gateway.url,
            connections=_CONNECTIONS, next=True, **_flags(name), **bench.span(),
        )  # fmt: skip
