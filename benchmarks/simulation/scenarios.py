"""What is simulated for docs/scaling.md, and the tables and curves that come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.simulation import alarms, sweeps
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
    for part in (_growth, _load, _losses, _bursts, _many_queues, _ceiling, _partitions, _lapses, _alarms):
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
        line[number], claims = _most(replace(base, gateways=number))
        rows.append([f"{number:,}", f"{line[number]:,.0f}", f"{claims:.2f}"])
    report.tables["The ceiling of one queue: tasks posted one by one, claimed and completed one by one"] = rows
    report.pictures["ceiling.svg"] = curves(
        "The most that one queue does, by how many gateways its load comes through",
        "gateways",
        "tasks a second",
        {"one task a request": line},
    )


def _most(base: Setting) -> tuple[float, float]:
    """Find the most tasks a second that go through, and the claims for each."""
    workers = max(2000 * base.shards // base.gateways, 2)
    setting = replace(base, workers=workers, busy=0.0, warm_s=1.5, seconds=1.0)
    low, high, claims = 1_000.0, 32_000.0 * base.shards, 0.0
    while high / low > 1.06:
        rate = (low * high) ** 0.5
        found = simulate(replace(setting, tasks_per_second=rate, seconds=min(base.seconds / 10, 8000 / rate)))
        # What is posted is also done, and soon: no line of tasks forms.
        if found.p50_ms < 20 and found.redis_share < 0.99:
            low, claims = rate, found.claims_per_task
        else:
            high = rate
    return low, claims


def _partitions(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    number = gateways[-3:][0]
    rows: Table = [
        ["partitions", "shards", "claims a task", "without rechecks", "rings a task", "p50 ms", "p99 ms", "fairness",
         "of a shard's core", "idle"]
    ]  # fmt: skip
    spread = replace(base, gateways=number, partitions=True)
    for partitions, shards in ((1, 1), (2, 2), (4, 4), (8, 8), (16, 8), (32, 8)):
        found = simulate(replace(spread, queues=partitions, shards=shards))
        idle = simulate(replace(spread, queues=partitions, shards=shards, tasks_per_second=0.0))
        rows.append(
            [f"{partitions}", f"{shards}", f"{found.claims_per_task:.2f}", f"{found.dispatch_claims_per_task:.2f}",
             f"{found.rings_per_task:.2f}", f"{found.p50_ms:.2f}", f"{found.p99_ms:.1f}", f"{found.fairness:.3f}",
             f"{found.redis_share:.1%}", f"{idle.redis_share:.1%}"]
        )  # fmt: skip
    title = f"{number:,} gateways, 1,000 tasks a second, workers busy half the time"
    report.tables[f"A queue spread over partitions: {title}"] = rows
    rows = [["gateways", "partitions", "shards", "tasks a second", "claims a task"]]
    lines: dict[str, dict[float, float]] = {}
    for number in [number for number in gateways if number in (10, 100)]:
        line = lines[f"{number:,} gateways"] = {}
        for partitions in (1, 2, 4, 8):
            setting = replace(base, gateways=number, partitions=True, queues=partitions, shards=partitions)
            line[partitions], claims = _most(setting)
            rows.append([f"{number:,}", f"{partitions}", f"{partitions}", f"{line[partitions]:,.0f}", f"{claims:.2f}"])
    report.tables["The ceiling of a queue spread over partitions, each on a shard of its own: one by one"] = rows
    report.pictures["partitions.svg"] = curves(
        "The most that one queue does, by its partitions, each on a shard of its own",
        "partitions",
        "tasks a second",
        lines,
    )


def _lapses(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    rng = random.Random(base.seed)
    rows: Table = [["gateways left", "queues", "met at once", "median s", "p99 s", "worst s"]]
    queues = (25, 100, 1_000, 10_000)
    late_s = sweeps.noted_lateness_s(1, rng)
    lines: dict[str, dict[float, float]] = {"noted, any number left": dict.fromkeys(queues, late_s[-1])}
    for left in (1, 2, 10, 100):
        late_s = sweeps.noted_lateness_s(left, rng)
        at_once = sum(not late for late in late_s) / len(late_s)
        rows.append([f"{left}", "noted, any number", f"{at_once:.0%}", *(f"{it:.2f}" for it in sweeps.shares(late_s))])
    for left in (1, 2, 10, 100):
        line = lines[f"not noted, {left} left"] = {}
        for known in queues:
            middle, late, worst = sweeps.shares(sweeps.lateness_s(known, left, rng, 500 if left == 100 else 2000))
            line[known] = late
            rows.append([f"{left}", f"not noted, {known:,}", "", f"{middle:.2f}", f"{late:.2f}", f"{worst:.1f}"])
    report.tables["A lease that lapses within a second after the death of its gateway and its worker"] = rows
    report.pictures["lapses.svg"] = curves(
        "A lapsed lease whose gateway died with its worker: noticed after (p99)",
        "known queues",
        "seconds",
        lines,
        logarithmic=True,
    )


def _alarms(report: Report, base: Setting, gateways: tuple[int, ...]) -> None:
    rng = random.Random(base.seed)
    rows: Table = [
        ["gateways", "due tasks a second", "sweeps a second", "looks a second", "of one Redis core",
         "sweeps, if everybody went on", "looks", "of one Redis core"]
    ]  # fmt: skip
    costs = base.costs
    for number in [number for number in gateways if number in (1, 2, 4, 10, 100, 1000)]:
        for due in (0.2, 1.0, 10.0, 100.0):
            row = [f"{number:,}", f"{due:g}"]
            for rules in (alarms.AS_BUILT, alarms.EVERYBODY):
                found = alarms.simulate(number, due, rng, rules, seconds=5.0 if number == 1000 else 20.0)
                share = found.sweeps * (costs.expire_s + costs.pipeline_s)
                share += found.looks * (costs.look_s + costs.pipeline_s)
                row += [f"{found.sweeps:,.0f}", f"{found.looks:,.0f}", f"{share:.0%}"]
            rows.append(row)
    report.tables["Alarms of one queue that all gateways know, as it is and if everybody went on"] = rows


def _latencies(found: Findings) -> Iterator[str]:
    for value in (found.p50_ms, found.p99_ms, found.p999_ms, found.worst_ms):
        yield f"{value:,.1f}"


def _markdown(title: str, rows: Table) -> str:
    head, *body = rows
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body), ""])
