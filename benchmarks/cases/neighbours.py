"""A quiet tenant beside a noisy one: how long its tasks take to a waiting worker, alone and while the other has 100,000
waiting tasks and 200 workers that go through them as fast as they can.
"""

from __future__ import annotations

from benchmarks.bench import Bench, interleaved
from benchmarks.figures import Row, at_most, ratios
from benchmarks.load_client import Report
from benchmarks.tokens import SECRET, token

_BACKLOG = 100_000
_NOISY_POLLS = 200
_TASKS_PER_SECOND = 50
_CONTENDERS = ("alone", "beside")


def run(bench: Bench) -> list[Row]:
    """Measure the quiet tenant, round by round."""
    reports: dict[str, list[Report]] = {name: [] for name in _CONTENDERS}
    for round_number in range(bench.rounds):
        for name in interleaved(round_number, list(_CONTENDERS)):
            reports[name].append(_quiet(bench, name, round_number))
    dispatch = {name: [report["latency_ms"]["dispatch"] for report in found] for name, found in reports.items()}
    p99 = {name: [found["p99"] for found in each] for name, each in dispatch.items()}
    return [
        *(
            Row(f"POST to worker, p50, {name}", "ms", [found["p50"] for found in dispatch[name]])
            for name in _CONTENDERS
        ),
        *(Row(f"POST to worker, p99, {name}", "ms", p99[name]) for name in _CONTENDERS),
        Row("p99 beside the noisy tenant against alone", "", ratios(p99["beside"], p99["alone"]), at_most(3)),
    ]


def _quiet(bench: Bench, name: str, round_number: int) -> Report:
    settings = {"JWT_SECRET": SECRET}
    with bench.redis() as redis, bench.gateway(redis, **settings) as gateway:
        bench.fill(gateway.url, bench.size(_BACKLOG), "bench", token("noisy"))
        noise = None
        if name == "beside":
            noise = bench.load.start(
                "work", gateway.url, connections=_NOISY_POLLS, next=True, token=token("noisy"), duration="10m"
            )
        try:
            return bench.measure(
                name, round_number, [gateway, redis], "latency", gateway.url, rate=_TASKS_PER_SECOND, pollers=4,
                connections=2, token=token("quiet"), **bench.span(),
            )  # fmt: skip
        finally:
            if noise is not None:
                noise.kill()
                noise.wait()
