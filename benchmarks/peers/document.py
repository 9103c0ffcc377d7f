"""Makes the tables of a run and writes them, with their pictures, into docs/performance.md between two markers."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.peers import pictures
from benchmarks.peers.contenders import GATEWAY
from benchmarks.peers.rounds import CONCURRENCIES, SCALED

BEGIN, END = "<!-- peers: begin, written by `make bench-peers` -->", "<!-- peers: end -->"
_BATCHED = f"{GATEWAY}, batches of 100"
_OURS = (GATEWAY, f"{GATEWAY}, batches of 10", _BATCHED)
_MEASURES = {"enqueue": "enqueue, one per call", "enqueue_100": "enqueue, 100 per call", "process": "process"}
_SHARES = ("p50", "p90", "p99", "max")
_QUIET_LOAD = 0.5

Found = dict[str, Any]


def write(docs: Path, found: Found) -> None:
    """Replace what stands between the markers of docs/performance.md, and draw the pictures beside it."""
    page = docs / "performance.md"
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the markers {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{section(found)}\n\n{END}{after}")
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    panels = {title: _medians(found, measure) for measure, title in _MEASURES.items()}
    (folder / "throughput.svg").write_text(pictures.bars("Jobs per second, appendfsync always", panels, GATEWAY))
    spans = {name: _latency(found, name) for name in _contenders(found) if _latency(found, name)}
    (folder / "latency.svg").write_text(pictures.spans("Dispatch latency when idle, ms", spans, GATEWAY))
    curves = {name: _curve(found, name) for name in SCALED if _curve(found, name)}
    if curves:
        title = "Jobs processed per second by one worker, by its concurrency"
        (folder / "scaling.svg").write_text(pictures.curves(title, curves, GATEWAY))


def section(found: Found) -> str:
    """The whole generated part, as Markdown."""
    parts = [
        _about(found),
        "### Jobs per second\n\nMedian of the rounds, and the least and greatest; `appendfsync always`.\n\n"
        + _rates(found, "always")
        + "\n\n![Jobs per second, by contender](performance/throughput.svg)",
        "### Dispatch latency when idle\n\n"
        + _latencies(found)
        + "\n\n![Latency, by contender](performance/latency.svg)",
        "### CPU seconds per 1,000 jobs\n\nMedians. The gateway's client and worker are the load client, in Go.\n\n"
        + _cpu(found),
    ]
    if any(sample["measure"] == "scaling" for sample in found["samples"]):
        parts.append(
            "### By the worker's concurrency\n\nProcessing, `appendfsync always`; connections of the gateway's worker, "
            "coroutines or goroutines of the others.\n\n"
            + _scaling(found)
            + "\n\n![Jobs per second against concurrency](performance/scaling.svg)"
        )
    for durability, words in (("everysec", "`appendfsync everysec`"), ("off", "no append-only file")):
        if _names(found, "process", durability):
            parts.append(f"### With {words}\n\n" + _rates(found, durability))
    parts.append("### Against the goals\n\n" + _goals(found))
    parts.append("### Where the gateway is behind\n\n" + _losses(found))
    return "\n\n".join(parts)


def _about(found: Found) -> str:
    disk = found["disk_sync_ms"]
    rows = []
    for name, about in found["contenders"].items():
        versions = dict(about["versions"])
        runtime = versions.pop("runtime")
        rows.append(
            [name, ", ".join(f"{package} {version}" for package, version in versions.items()), runtime, about["note"]]
        )
    ours = ", ".join(f"{name} {found['packages'][name]}" for name in ("uvicorn", "starlette", "redis", "hiredis"))
    note = "64 connections of the load client, `next`; 16 for batches of 10, 8 for batches of 100"
    rows.insert(
        0, [GATEWAY, f"commit {(found['commit'] or 'unknown')[:12]}; {ours}", f"Python {found['python']}", note]
    )
    lines = [
        f"Measured {found['at'][:10]} on {found['cores']} cores (Linux {found['kernel']}), Redis {found['redis']}, "
        f"{found['settings']['rounds']} rounds of {found['settings']['seconds']} s: client, worker, server and Redis "
        f"together. One write kept on its disk took {disk['p50']} ms (p50), {disk['p99']} ms (p99).",
        f"Processes that ran or waited on the machine before it began: {found['load_average']:.1f}"
        + (", so these figures are disturbed." if found["load_average"] > _QUIET_LOAD else "."),
        "",
        _table(["contender", "versions", "runtime", "its worker"], rows, "---"),
    ]
    if found["not_run"]:
        lines += ["", "Not run:", *(f"- {name}: {why}" for name, why in found["not_run"].items())]
    if found["problems"]:
        lines += ["", "Failed meanwhile:", *(f"- {problem.splitlines()[0]}" for problem in found["problems"])]
    return "\n".join(lines)


def _rates(found: Found, durability: str) -> str:
    rows = []
    for name in _contenders(found):
        values = [_values(found, name, measure, durability) for measure in _MEASURES]
        if any(values):
            rows.append([name, *(_spread(each) for each in values)])
    return _table(["contender", *_MEASURES.values()], rows)


def _latencies(found: Found) -> str:
    rows = []
    for name in _contenders(found):
        samples = _samples(found, name, "latency", "always")
        if samples:
            cells = [_spread([sample["latency_ms"][share] for sample in samples]) for share in _SHARES]
            rows.append([name, *cells, f"{statistics.median(sample['rate'] for sample in samples):.3g}"])
    return _table(["contender", *(f"{share}, ms" for share in _SHARES), "jobs/s sent"], rows)


def _cpu(found: Found) -> str:
    columns = {
        "enqueue": ("client", "gateway", "redis"),
        "process": ("worker", "gateway", "redis"),
    }
    rows = []
    for name in _contenders(found):
        cells = []
        for measure, processes in columns.items():
            used = [sample["cpu_seconds_per_1000"] for sample in _samples(found, name, measure, "always")]
            for process in processes:
                values = [each[process] for each in used if process in each]
                cells.append(f"{statistics.median(values):.3f}" if values else "")
        rows.append([name, *cells])
    headings = [f"{measure}: {process}" for measure, processes in columns.items() for process in processes]
    return _table(["contender", *headings], rows)


def _scaling(found: Found) -> str:
    curves = {name: _curve(found, name) for name in SCALED}
    rows = [[name, *(_spell(curve.get(at)) for at in CONCURRENCIES)] for name, curve in curves.items() if curve]
    return _table(["contender", *map(str, CONCURRENCIES)], rows)


def _goals(found: Found) -> str:
    """The goals that name a peer, each ratio taken within its round."""
    arq = _paired(max, _rounds(found, "arq", "process"), _rounds(found, "arq, tuned", "process"))
    bullmq = _rounds(found, "BullMQ", "process")
    one, batched = _rounds(found, GATEWAY, "process"), _rounds(found, _BATCHED, "process")
    stored = _rounds(found, GATEWAY, "enqueue_100")
    whole = _paired(lambda storing, working: 1 / (1 / storing + 1 / working), stored, batched)
    latency = [sample["latency_ms"] for sample in _samples(found, GATEWAY, "latency", "always")]
    lines = [
        ("one task per request, `next`, against the better arq", _ratios(one, arq), "at least", 8),
        ("one task per request, `next`, against BullMQ", _ratios(one, bullmq), "at least", 0.9),
        ("batches of 100, processing alone, against BullMQ", _ratios(batched, bullmq), "at least", 2),
        (
            "batches of 100, enqueue and processing added, against BullMQ's processing",
            _ratios(whole, bullmq),
            "at least",
            2,
        ),
        ("enqueue of 100 against `addBulk`", _ratios(stored, _rounds(found, "BullMQ", "enqueue_100")), "at least", 2),
        ("dispatch latency when idle, p50, ms", [each["p50"] for each in latency], "at most", 1.5),
        ("dispatch latency when idle, p99, ms", [each["p99"] for each in latency], "at most", 5),
    ]
    rows = []
    for what, values, direction, bound in lines:
        if values:
            median = statistics.median(values)
            reached = median >= bound if direction == "at least" else median <= bound
            rows.append([what, _spread(values), f"{direction} {bound}", "yes" if reached else "**no**"])
    return _table(["what", "found", "goal", "reached"], rows)


def _losses(found: Found) -> str:
    """Every figure in which a contender's median is better than the gateway's with one task per request."""
    lines = []
    for measure, title in _MEASURES.items():
        medians = _medians(found, measure)
        own = medians.get(GATEWAY)
        better = {name: rate for name, rate in medians.items() if own and rate > own and name not in _OURS}
        lines += [f"- {title}: {name} {_spell(rate)} against {_spell(own)} a second" for name, rate in better.items()]
    for measure in ("enqueue", "process"):
        used = {name: _cpu_total(found, name, measure) for name in _contenders(found)}
        own = used.get(GATEWAY)
        better = {name: each for name, each in used.items() if own and each and each < own and name not in _OURS}
        lines += [
            f"- CPU seconds of 1,000 x {measure}, all processes: {name} {each:.3f} against {own:.3f}"
            for name, each in better.items()
        ]
    own_latency = _latency(found, GATEWAY)
    for share in ("p50", "p99"):
        for name in _contenders(found):
            took = _latency(found, name)
            if own_latency and took and name != GATEWAY and took[share] < own_latency[share]:
                lines.append(f"- latency, {share}: {name} {took[share]:.2f} against {own_latency[share]:.2f} ms")
    return "\n".join(lines) or "In no row above."


def _samples(found: Found, name: str, measure: str, durability: str) -> list[Found]:
    wanted = (name, measure, durability)
    return [each for each in found["samples"] if (each["contender"], each["measure"], each["durability"]) == wanted]


def _values(found: Found, name: str, measure: str, durability: str) -> list[float]:
    return [sample["per_second"] for sample in _samples(found, name, measure, durability)]


def _rounds(found: Found, name: str, measure: str) -> dict[int, float]:
    return {sample["round"]: sample["per_second"] for sample in _samples(found, name, measure, "always")}


def _paired(
    combine: Callable[[float, float], float], one: dict[int, float], other: dict[int, float]
) -> dict[int, float]:
    """Of the rounds in which both were measured."""
    return {number: combine(one[number], other[number]) for number in one.keys() & other.keys()}


def _ratios(upper: dict[int, float], lower: dict[int, float]) -> list[float]:
    return list(_paired(operator.truediv, upper, lower).values())


def _medians(found: Found, measure: str) -> dict[str, float]:
    values = {name: _values(found, name, measure, "always") for name in _contenders(found)}
    return {name: statistics.median(each) for name, each in values.items() if each}


def _latency(found: Found, name: str) -> dict[str, float]:
    samples = [sample["latency_ms"] for sample in _samples(found, name, "latency", "always")]
    return {share: statistics.median(each[share] for each in samples) for share in samples[0]} if samples else {}


def _curve(found: Found, name: str) -> dict[int, float]:
    samples = _samples(found, name, "scaling", "always")
    at = {each: [sample["per_second"] for sample in samples if sample["concurrency"] == each] for each in CONCURRENCIES}
    return {each: statistics.median(values) for each, values in at.items() if values}


def _cpu_total(found: Found, name: str, measure: str) -> float | None:
    """Of all processes together; None where the server's own is not known."""
    used = [sum(sample["cpu_seconds_per_1000"].values()) for sample in _samples(found, name, measure, "always")]
    return statistics.median(used) if used and not found["contenders"].get(name, {}).get("remote") else None


def _contenders(found: Found) -> list[str]:
    seen = {sample["contender"] for sample in found["samples"]}
    return [name for name in [*_OURS, *found["contenders"]] if name in seen]


def _names(found: Found, measure: str, durability: str) -> set[str]:
    return {
        each["contender"] for each in found["samples"] if (each["measure"], each["durability"]) == (measure, durability)
    }


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return _spell(values[0])
    return f"{_spell(statistics.median(values))} ({_spell(min(values))} .. {_spell(max(values))})"


def _spell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(headings: list[str], rows: Iterable[list[str]], align: str = "---:") -> str:
    lines = [headings, ["---", *[align] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
