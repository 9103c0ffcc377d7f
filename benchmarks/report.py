"""What comes of a run: a Markdown table that reads well in a terminal, and a JSON file with every raw figure."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.figures import Findings

_HEADINGS = ["benchmark", "what", "median", "range", "goal", "reached"]
_QUIET_LOAD = 0.5
_PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "redis", "hiredis", "arq", "msgspec")


def table(all_findings: dict[str, Findings]) -> str:
    """A Markdown table of all rows, padded to equal widths."""
    lines = [_HEADINGS]
    for name, findings in all_findings.items():
        lines.extend([name, *row.cells()] for row in findings.rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def problems(all_findings: dict[str, Findings]) -> str:
    """What went wrong, one line each; empty when nothing did."""
    return "\n".join(f"{name}: {problem}" for name, findings in all_findings.items() for problem in findings.problems)


def surroundings(redis_version: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the figures needs to know of the machine and the versions."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "redis": redis_version,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "load_average": os.getloadavg()[0],
        "settings": settings,
    }


def surroundings_in_words(found: dict[str, Any]) -> str:
    """The same for a page: when and on what it was measured, how long, and whether something else ran."""
    settings, disk, load = found["settings"], found["disk_sync_ms"], found["load_average"]
    lines = [
        f"Measured {found['at'][:10]} at commit {(found['commit'] or 'unknown')[:12]} on {found['cores']} cores (Linux "
        f"{found['kernel']}), Python {found['python']}, Redis {found['redis']}, {settings['rounds']} rounds of "
        f"{settings['seconds']} s: clients, servers and Redis together. One write kept on its disk took "
        f"{disk['p50']} ms (p50), {disk['p99']} ms (p99).",
        f"Processes that ran or waited on the machine before it began: {load:.1f}"
        + (", so these figures are disturbed." if load > _QUIET_LOAD else "."),
    ]
    if settings["quick"] == "True":
        lines.append("**A quick run with short spans and small sizes: its figures mean nothing.**")
    return "\n".join(lines)


def file(directory: Path, prefix: str = "") -> Path:
    """Where a run that begins now keeps its figures: `<directory>/<prefix><time>.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{prefix}{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"


def whole(about: dict[str, Any], all_findings: dict[str, Findings]) -> dict[str, Any]:
    """Everything about a run, as its file holds it."""
    return about | {"benchmarks": {name: asdict(findings) for name, findings in all_findings.items()}}
