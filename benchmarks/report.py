"""What comes of a run: a Markdown table that reads well in a terminal, and a JSON file with every raw figure."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.figures import Findings

_HEADINGS = ["benchmark", "what", "median", "range", "goal", "reached"]
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
        "settings": settings,
    }


def write(directory: Path, about: dict[str, Any], all_findings: dict[str, Findings]) -> Path:
    """Write everything to `<directory>/<time>.json` and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"
    found = {name: asdict(findings) for name, findings in all_findings.items()}
    path.write_text(json.dumps(about | {"benchmarks": found}, indent=1))
    return path
