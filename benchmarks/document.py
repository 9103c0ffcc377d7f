"""Makes the tables of a run and writes them, with their pictures, into docs/performance.md between two markers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import pictures, report
from benchmarks.figures import Goal
from benchmarks.sections import BENCH
from benchmarks.tables import markdown, spread, without_folders

Found = dict[str, Any]  # a results file

_MOST_WORDS = 300  # characters of what went wrong; the raw figures have all of it
_OWN = "tasks-gateway"
_TITLES = {
    "post": "Enqueue, one task per request",
    "life": "Processing, one task per request",
    "batch": "Batches",
    "latency": "Dispatch latency when idle",
    "loaded": "Dispatch latency under load",
    "claim": "A claim beside many waiting and running tasks",
    "million": "A million waiting tasks",
    "job-types": "Many job types",
    "processes": "Two gateway processes",
    "heartbeats": "Heartbeats of 10,000 leases",
    "recovery": "Recovery of 100,000 leases",
    "hold": "10,000 open polls",
    "idle": "A hundred idle queues",
    "start": "Start-up",
    "secured": "Identity, rate limits and quotas",
    "neighbours": "A quiet tenant beside a noisy one",
    "tenants": "Memory by tenants",
    "servers": "HTTP servers",
}
# The bars of the picture of rates: where each one's row stands, benchmark and key.
PANELS = {
    "POST, one task per request": {_OWN: ("post", "post"), "starlette's echo": ("post", "echo")},
    "process, one task per request": {
        f"{_OWN}, with next": ("life", "with next"),
        f"{_OWN}, two requests": ("life", "poll, then complete"),
        "arq's worker, defaults": ("life", "arq, defaults"),
        "arq's worker, tuned": ("life", "arq, tuned"),
    },
    "enqueue and process, in batches": {
        f"{_OWN}, 10": ("batch", "whole/10"),
        f"{_OWN}, 100": ("batch", "whole/100"),
        "raw Redis, 10": ("batch", "raw/10"),
        "raw Redis, 100": ("batch", "raw/100"),
    },
}
_PER_TASK = ("post", "life", "batch", "job-types", "processes", "secured")  # whose CPU seconds are told per task
_CPU_COLUMNS = {"client": "load", "gateway or echo": "gateway", "Redis": "redis"}


def write(docs: Path, found: Found) -> None:
    """Replace what stands between the markers of docs/performance.md, and draw the pictures beside it."""
    BENCH.write(docs / "performance.md", section(found))
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    for name, drawn in _pictures(found).items():
        (folder / name).write_text(drawn)


def section(found: Found) -> str:
    """The whole generated part, as Markdown."""
    drawn = _pictures(found)
    parts = [report.surroundings_in_words(found)]
    for words, name in (
        ("Tasks per second, by contender", "rates.svg"),
        ("Dispatch latency, by percentile", "dispatch.svg"),
        ("Cost of a claim against the tasks that wait", "claims.svg"),
        ("Tasks per second against job types", "job-types.svg"),
        ("Memory of a task against the tasks that wait", "memory.svg"),
    ):
        if name in drawn:
            parts.append(f"![{words}](performance/{name})")
    for case, findings in found["benchmarks"].items():
        if findings["rows"]:
            parts.append(f"### {_TITLES.get(case, case)} (`{case}`)\n\n{_rows(findings['rows'])}")
    if cpu := list(_cpu(found)):
        parts.append(
            "### CPU seconds for 1,000 tasks\n\nMedians. The client is the load client, in Go.\n\n"
            + markdown(["benchmark", "what", *_CPU_COLUMNS], cpu)
        )
    if troubles := [
        f"- `{case}`: {without_folders(problem)[:_MOST_WORDS]}"
        for case, findings in found["benchmarks"].items()
        for problem in findings["problems"]
    ]:
        parts.append("### Went wrong meanwhile\n\n" + "\n".join(troubles))
    return "\n\n".join(parts)


def values(found: Found, case: str, key: str) -> list[float]:
    """One row's values, one per round; none when it was not measured."""
    rows = found["benchmarks"].get(case, {"rows": []})["rows"]
    return next((list(row["values"]) for row in rows if row["key"] == key), [])


def _rows(rows: Iterable[Found]) -> str:
    lines = []
    for row in rows:
        goal = Goal(**row["goal"]) if row["goal"] else None
        reached = "" if goal is None else "yes" if goal.reached_by(statistics.median(row["values"])) else "**no**"
        lines.append([row["what"], spread(row["values"]), row["unit"], str(goal or ""), reached])
    return markdown(["what", "median (range)", "unit", "goal", "reached"], lines)


def _cpu(found: Found) -> Iterable[list[str]]:
    for case in _PER_TASK:
        used: dict[str, list[dict[str, float]]] = {}
        for sample in found["benchmarks"].get(case, {"raw": []})["raw"]:
            tasks = sample["report"]["tasks"]
            # What is no run of the load client counts its warm-up into its CPU seconds.
            if tasks and "requests" in sample["report"]:
                per_thousand = {name: 1000 * seconds / tasks for name, seconds in sample["cpu_seconds"].items()}
                per_thousand.setdefault("gateway", per_thousand.get("echo", 0.0))
                used.setdefault(sample["contender"], []).append(per_thousand)
        for contender, each in used.items():
            cells = []
            for process in _CPU_COLUMNS.values():
                seconds = [one[process] for one in each if process in one]
                cells.append(f"{statistics.median(seconds):.3f}" if seconds else "")
            yield [f"`{case}`", contender, *cells]


def _pictures(found: Found) -> dict[str, str]:
    """Those that the run has figures for, by file name."""
    drawn = {}
    panels = {heading: values for heading, values in _rates(found).items() if values}
    if panels:
        drawn["rates.svg"] = pictures.bars("Per second, appendfsync always", panels, _OWN)
    if lines := _percentiles(found):
        drawn["dispatch.svg"] = pictures.percentiles("Dispatch latency, ms: POST to a waiting worker", lines)
    script, poll = _curve(found, "million", "script/"), _curve(found, "million", "poll/")
    if script and poll:
        lines_us = {"poll over HTTP, p50": {at: 1000 * ms for at, ms in poll.items()}, "the script in Redis": script}
        drawn["claims.svg"] = pictures.curves("Cost of a claim", "tasks waiting", "microseconds", lines_us)
    posts, lives = _curve(found, "job-types", "post/"), _curve(found, "job-types", "life/")
    if posts and lives:
        lines_rate = {"POST /tasks": posts, "life with next": lives}
        drawn["job-types.svg"] = pictures.curves("Tasks per second, by job types", "job types", "tasks/s", lines_rate)
    if memory := _curve(found, "million", "memory/"):
        title = "Redis memory of a waiting task, 100-byte payload"
        drawn["memory.svg"] = pictures.curves(title, "tasks waiting", "bytes", {"a waiting task": memory})
    return drawn


def _rates(found: Found) -> dict[str, dict[str, float]]:
    return {
        heading: {
            name: statistics.median(measured) for name, place in bars.items() if (measured := values(found, *place))
        }
        for heading, bars in PANELS.items()
    }


def _percentiles(found: Found) -> dict[str, dict[str, float]]:
    """Medians of the rounds, at each percentile: idle, and at the shares of the capacity."""
    lines = {}
    for name, case, contender in (
        ("idle", "latency", "gateway"),
        ("at 50 %", "loaded", "50 %"),
        ("at 80 %", "loaded", "80 %"),
    ):
        raw = found["benchmarks"].get(case, {"raw": []})["raw"]
        shares = [one["report"]["latency_ms"]["dispatch"] for one in raw if one["contender"] == contender]
        if shares:
            places = [place for place in shares[0] if place[0] == "p"]
            lines[name] = {place: statistics.median(each[place] for each in shares) for place in places}
    return lines


def _curve(found: Found, case: str, prefix: str) -> dict[int, float]:
    """The medians of the rows whose keys are the prefix and a number."""
    rows = found["benchmarks"].get(case, {"rows": []})["rows"]
    return {
        int(row["key"].removeprefix(prefix)): statistics.median(row["values"])
        for row in rows
        if row["key"].startswith(prefix)
    }
