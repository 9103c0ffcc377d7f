"""Makes the tables of a run and writes them, with their pictures, into docs/performance.md between two markers."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks import pictures, report
from benchmarks.peers import samples
from benchmarks.peers.contenders import GATEWAY
from benchmarks.peers.rounds import CONCURRENCIES, SCALED
from benchmarks.peers.samples import Found
from benchmarks.sections import PEERS
from benchmarks.tables import markdown, spell, spread, without_folders

_MEASURES = {"enqueue": "enqueue, one per call", "enqueue_100": "enqueue, 100 per call", "process": "process"}
_SHARES = ("p50", "p90", "p99", "max")


def write(docs: Path, found: Found) -> None:
    """Replace what stands between the markers of docs/performance.md, and draw the pictures beside it."""
    PEERS.write(docs / "performance.md", section(found))
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    panels = {title: samples.medians(found, measure) for measure, title in _MEASURES.items()}
    (folder / "throughput.svg").write_text(pictures.bars("Jobs per second, appendfsync always", panels, GATEWAY))
    spans = {name: samples.latency(found, name) for name in samples.contenders(found) if samples.latency(found, name)}
    (folder / "latency.svg").write_text(pictures.spans("Dispatch latency when idle, ms", spans, GATEWAY))
    curves = {name: _curve(found, name) for name in SCALED if _curve(found, name)}
    if curves:
        title = "Jobs processed per second by one worker, by its concurrency"
        drawn = pictures.curves(title, "concurrency of the worker", "jobs/s", curves)
        (folder / "scaling.svg").write_text(drawn)


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
    if memory := _memory(found):
        parts.append(
            "### Redis memory of a waiting job\n\nOf the queue that its worker was given; payloads of 100 bytes.\n\n"
            + memory
        )
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
    parts.append("### Where the gateway is behind\n\n" + _losses(found))
    return "\n\n".join(parts)


def _about(found: Found) -> str:
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
        report.surroundings_in_words(found),
        "",
        markdown(["contender", "versions", "runtime", "its worker"], rows, "---"),
    ]
    if found["not_run"]:
        lines += ["", "Not run:", *(f"- {name}: {without_folders(why)}" for name, why in found["not_run"].items())]
    if found["problems"]:
        lines += [
            "",
            "Failed meanwhile:",
            *(f"- {without_folders(problem.splitlines()[0])}" for problem in found["problems"]),
        ]
    return "\n".join(lines)


def _rates(found: Found, durability: str) -> str:
    rows = []
    for name in samples.contenders(found):
        values = [samples.rates(found, name, measure, durability) for measure in _MEASURES]
        if any(values):
            rows.append([name, *(spread(each) for each in values)])
    return markdown(["contender", *_MEASURES.values()], rows)


def _latencies(found: Found) -> str:
    rows = []
    for name in samples.contenders(found):
        own = samples.of(found, name, "latency")
        if own:
            cells = [spread([sample["latency_ms"][share] for sample in own]) for share in _SHARES]
            rows.append([name, *cells, f"{statistics.median(sample['rate'] for sample in own):.3g}"])
    return markdown(["contender", *(f"{share}, ms" for share in _SHARES), "jobs/s sent"], rows)


def _cpu(found: Found) -> str:
    columns = {
        "enqueue": ("client", "gateway", "redis"),
        "process": ("worker", "gateway", "redis"),
    }
    rows = []
    for name in samples.contenders(found):
        cells = []
        for measure, processes in columns.items():
            used = [sample["cpu_seconds_per_1000"] for sample in samples.of(found, name, measure)]
            for process in processes:
                values = [each[process] for each in used if process in each]
                cells.append(f"{statistics.median(values):.3f}" if values else "")
        rows.append([name, *cells])
    headings = [f"{measure}: {process}" for measure, processes in columns.items() for process in processes]
    return markdown(["contender", *headings], rows)


def _memory(found: Found) -> str:
    """The bytes of each whose Redis was ours; '' for a run that did not count them."""
    rows = []
    for name in samples.contenders(found):
        weighed = [one["bytes_per_job"] for one in samples.of(found, name, "process") if "bytes_per_job" in one]
        if weighed:
            rows.append([name, spread(weighed)])
    return markdown(["contender", "bytes"], rows) if rows else ""


def _scaling(found: Found) -> str:
    curves = {name: _curve(found, name) for name in SCALED}
    rows = [[name, *(spell(curve.get(at)) for at in CONCURRENCIES)] for name, curve in curves.items() if curve]
    return markdown(["contender", *map(str, CONCURRENCIES)], rows)


def _losses(found: Found) -> str:
    """Every figure in which a contender's median is better than the gateway's with one task per request."""
    lines = []
    for measure, title in _MEASURES.items():
        medians = samples.medians(found, measure)
        own = medians.get(GATEWAY)
        better = {name: rate for name, rate in medians.items() if own and rate > own and name not in samples.OURS}
        lines += [f"- {title}: {name} {spell(rate)} against {spell(own)} a second" for name, rate in better.items()]
    for measure in ("enqueue", "process"):
        used = {name: _cpu_total(found, name, measure) for name in samples.contenders(found)}
        own = used.get(GATEWAY)
        better = {name: each for name, each in used.items() if own and each and each < own and name not in samples.OURS}
        lines += [
            f"- CPU seconds of 1,000 x {measure}, all processes: {name} {each:.3f} against {own:.3f}"
            for name, each in better.items()
        ]
    own_latency = samples.latency(found, GATEWAY)
    for share in ("p50", "p99"):
        for name in samples.contenders(found):
            took = samples.latency(found, name)
            if own_latency and took and name != GATEWAY and took[share] < own_latency[share]:
                lines.append(f"- latency, {share}: {name} {took[share]:.2f} against {own_latency[share]:.2f} ms")
    return "\n".join(lines) or "In no row above."


def _curve(found: Found, name: str) -> dict[int, float]:
    own = samples.of(found, name, "scaling")
    at = {each: [sample["per_second"] for sample in own if sample["concurrency"] == each] for each in CONCURRENCIES}
    return {each: statistics.median(values) for each, values in at.items() if values}


def _cpu_total(found: Found, name: str, measure: str) -> float | None:
    """Of all processes together; None where the server's own is not known."""
    used = [sum(sample["cpu_seconds_per_1000"].values()) for sample in samples.of(found, name, measure)]
    return statistics.median(used) if used and not found["contenders"].get(name, {}).get("remote") else None


def _names(found: Found, measure: str, durability: str) -> set[str]:
    return {
        each["contender"] for each in found["samples"] if (each["measure"], each["durability"]) == (measure, durability)
    }
