"""What is simulated for docs/scaling.md, and the tables and curves that come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.simulation import sweeps
from benchmarks.simulation.findings import Findings
from benchmarks.simulation.pictures import curves
from benchmarks.simulation.world import Setting, simulate

Table = list[list[str]]
Progress = Callable[[str], None]
_GATEWAYS = (1, 2, 4, 10, 30, 100, 300, 1000)


class Report:
    """Tables by title, and pictures by the name of their file."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.pictures: dict[str, str] = {}

    def markdown(self) -> str:
        """All tables."""
        return "\n".join(_markdown(title, rows) for title, rows in self.tables.items())


def run(report: Report, tell: Progress, *, quick: bool = False) -> None:
    """Run everything, about three minutes; quick: small sizes, a few seconds."""
    gateways = (1, 4) if quick else _GATEWAYS
    base = Setting(seconds=1.0 if quick else 10.0, warm_s=2.0 if quick else 4.0)
    for part in (_growth, _load, _losses, _bursts, _many_queues, _ceiling, _sweeps):
        tell(part.__name__.strip("_"))
        part(report, base, gateways)


def _growth(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    rows: Table = [
        ["gateways", "workers", "claims a task", "without rechecks", "rings a task", "p50 ms", "p99 ms", "worst ms",
         "fairness", "of waits", "Redis core"]
    ]  # fmt: skip
    lines: dict[str, dict[float, float]] = {"all claims": {}, "without rechecks": {}, "rings": {}}
    for number in gateways:
        found = simulate(replace(base, gateways=number))
        rows.append(
            [f"{number:,}", f"{number * base.workers:,}", f"{found.claims_per_task:.2f}",
             f"{found.dispatch_claims_per_task:.2f}", f"{found.rings_per_task:.2f}", f"{found.p50_ms:.2f}",
             f"{found.p99_ms:.2f}", f"{found.worst_ms:.1f}", f"{found.fairness:.3f}", f"{found.fairness_of_waits:.3f}",
             f"{found.redis_share:.0%}"]
        )  # fmt: skip
        for name, value in zip(
            lines, (found.claims_per_task, found.dispatch_claims_per_task, found.rings_per_task), strict=True
        ):
            lines[name][number] = value
    report.tables["More gateways: one queue, 1,000 tasks a second, workers busy half the time"] = rows
    report.pictures["claims.svg"] = curves(
        "Claims and rings for each task: one queue, 1,000 tasks a second", "gateways", "calls a task", lines
    )


def _load(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    number = gateways[-3:][0]
    rows: Table = [["workers busy", "claims a task", "rings a task", "pass-ons a task", "p50 ms", "p99 ms", "fairness"]]
    for busy in (0.1, 0.5, 0.8, 0.95, 1.2):
        found = simulate(replace(base, gateways=number, busy=busy))
        rows.append(
            [f"{busy:.0%}", f"{found.claims_per_task:.2f}", f"{found.rings_per_task:.2f}",
             f"{found.pass_ons_per_task:.3f}", f"{found.p50_ms:.2f}", f"{found.p99_ms:.1f}", f"{found.fairness:.3f}"]
        )  # fmt: skip
    uneven = simulate(replace(base, gateways=number, few_have=10))
    rows.append(
        ["50%, one gateway in ten with ten times the workers", f"{uneven.claims_per_task:.2f}",
         f"{uneven.rings_per_task:.2f}", f"{uneven.pass_ons_per_task:.3f}", f"{uneven.p50_ms:.2f}",
         f"{uneven.p99_ms:.1f}", f"{uneven.fairness:.3f}"]
    )  # fmt: skip
    report.tables[f"More load: {number:,} gateways, one queue, 1,000 tasks a second"] = rows


def _losses(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    rows: Table = [["what is lost", "gateways", "claims a task", "p50 ms", "p99 ms", "p99.9 ms", "worst ms"]]
    losses: dict[str, dict[str, float]] = {
        "nothing": {},
        "1 % of rings": {"lost_rings": 0.01},
        "10 % of rings": {"lost_rings": 0.1},
        "a tenth of the gateways, killed": {"killed": 0.1},
        "a tenth of the gateways, deaf but connected": {"deaf": 0.1},
    }
    for what, loss in losses.items():
        for number in [number for number in gateways if number in (4, 10, 100, 1000)]:
            found = simulate(replace(base, gateways=number, **loss))  # type: ignore[arg-type]  # floats, all of them
            rows.append([what, f"{number:,}", f"{found.claims_per_task:.2f}", *_latencies(found)])
    report.tables["Lost rings and dead gateways: one queue, 1,000 tasks a second, workers busy half the time"] = rows


def _bursts(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    number = gateways[-3:][0]
    rows: Table = [["tasks a POST", "tasks a poll", "claims a task", "rings a task", "p50 ms", "p99 ms", "fairness"]]
    for burst, most in ((1, 1), (10, 1), (100, 1), (1000, 1), (100, 10), (1000, 100)):
        found = simulate(replace(base, gateways=number, burst=burst, most=most, busy=0.2))
        rows.append(
            [f"{burst:,}", f"{most}", f"{found.claims_per_task:.2f}", f"{found.rings_per_task:.2f}",
             f"{found.p50_ms:.2f}", f"{found.p99_ms:.1f}", f"{found.fairness:.3f}"]
        )  # fmt: skip
    report.tables[f"Tasks that come at once: {number:,} gateways, one queue, 1,000 tasks a second, busy a fifth"] = rows


def _many_queues(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    rows: Table = [
        ["queues", "Redis", "queues a poll", "claims a task", "rings a task", "p50 ms", "p99 ms", "fairness"]
    ]
    number = gateways[-3:][0]
    for queues, shards, polled in ((1, 1, 1), (10, 1, 1), (10, 1, 3), (10, 1, 10), (50, 10, 1), (50, 10, 5)):
        found = simulate(
            replace(base, gateways=number, queues=queues, shards=shards, polled=polled, busy=0.3, workers=20)
        )
        rows.append(
            [f"{queues}", f"{shards}", f"{polled}", f"{found.claims_per_task:.2f}", f"{found.rings_per_task:.2f}",
             f"{found.p50_ms:.2f}", f"{found.p99_ms:.1f}", f"{found.fairness:.3f}"]
        )  # fmt: skip
    report.tables[f"More queues: {number:,} gateways with 20 workers each, 1,000 tasks a second, busy 30 %"] = rows


def _ceiling(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    """What one Redis hands out at most, when the same load comes through more gateways."""
    rows: Table = [["gateways", "tasks a second", "claims a task"]]
    line: dict[float, float] = {}
    for number in gateways:
        setting = replace(base, gateways=number, workers=max(2000 // number, 2), busy=0.0, warm_s=1.5, seconds=1.0)
        low, high, claims = 1_000.0, 32_000.0, 0.0
        while high / low > 1.06:
            rate = (low * high) ** 0.5
            found = simulate(replace(setting, tasks_per_second=rate, seconds=min(base.seconds / 10, 8000 / rate)))
            # What is posted is also done, and soon: no line of tasks forms.
            if found.p50_ms < 20 and found.redis_share < 0.99:
                low, claims = rate, found.claims_per_task
            else:
                high = rate
        line[number] = low
        rows.append([f"{number:,}", f"{low:,.0f}", f"{claims:.2f}"])
    report.tables["The ceiling of one queue: tasks posted one by one, claimed and completed one by one"] = rows
    report.pictures["ceiling.svg"] = curves(
        "The most that one queue does, by how many gateways its load comes through",
        "gateways",
        "tasks a second",
        {"one task a request": line},
    )


def _sweeps(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    rng = random.Random(base.seed)
    rows: Table = [["queues", "gateways left", "median s", "p99 s", "worst s"]]
    lines: dict[str, dict[float, float]] = {}
    for left in (1, 2, 10, 100):
        line = lines[f"{left} gateway{'s' if left > 1 else ''} left"] = {}
        for queues in (5, 100, 1_000, 10_000):
            middle, late, worst = sweeps.shares(sweeps.lateness_s(queues, left, rng, 500 if left == 100 else 2000))
            line[queues] = late
            rows.append([f"{queues:,}", f"{left}", f"{middle:.2f}", f"{late:.2f}", f"{worst:.1f}"])
    report.tables["A lease that lapses after the gateway died that knew of it, and its worker with it"] = rows
    report.pictures["lapses.svg"] = curves(
        "A lapsed lease that no living gateway has an alarm for: noticed after (p99)",
        "known queues",
        "seconds",
        lines,
        logarithmic=True,
    )
    rows = [["gateways", "due tasks a second", "sweeps a second", "of one Redis core"]]
    for number in [number for number in gateways if number in (1, 4, 10, 100, 1000)]:
        for due in (1.0, 10.0, 100.0):
            rate = sweeps.sweeps_per_second(number, due, 20.0, rng)
            share = rate * (base.costs.expire_s + base.costs.pipeline_s)
            rows.append([f"{number:,}", f"{due:.0f}", f"{rate:,.0f}", f"{share:.0%}"])
    report.tables["Alarms: every gateway sweeps a queue for each of its due tasks and ended retentions"] = rows


def _latencies(found: Findings) -> Iterator[str]:
    for value in (found.p50_ms, found.p99_ms, found.p999_ms, found.worst_ms):
        yield f"{value:,.1f}"


def _markdown(title: str, rows: Table) -> str:
    head, *body = rows
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body), ""])
