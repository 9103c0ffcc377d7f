"""`python -m benchmarks [name ...]`: run benchmarks, print their table, keep their raw figures.

Exits 1 when one failed to run. A goal that was not reached is no failure.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks import disk, document, report
from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.figures import Findings
from benchmarks.http_server import ROOT
from benchmarks.load_client import LoadClient
from benchmarks.processes import allow_many_files, end_in_order_on_sigterm
from benchmarks.redis_server import find_binary

_BY_NAME_ONLY = ("servers",)  # takes as long as all others together, and compares what the gateway could run under
_RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Parse the command line and run. Returns the exit code."""
    options = _parser().parse_args()
    end_in_order_on_sigterm()
    failed = False
    if options.read:
        found = json.loads(options.read.read_text())
    else:
        found, failed = _measure(options)
    if options.write_docs:
        document.write(ROOT / "docs", found)
    return 1 if failed else 0


def _measure(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Run what was asked for. Returns what was found, and whether a benchmark failed to run."""
    allow_many_files()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    all_findings: dict[str, Findings] = {}
    failed = False
    path = report.file(options.results)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        gateway_command = [sys.executable, "-m", "gateway", "serve"]
        bench = Bench(
            directory=Path(name),
            load=LoadClient(Path(name)),
            redis_binary=options.redis_server or find_binary(),
            gateway_command=shlex.split(options.gateway) if options.gateway else gateway_command,
            appendfsync=options.appendfsync,
            rounds=options.rounds,
            seconds=options.seconds,
            quick=options.quick,
            results=options.results,
        )
        with bench.redis() as redis:
            settings = {key: str(value) for key, value in vars(options).items()}
            about = report.surroundings(redis.version(), settings)
        about["disk_sync_ms"] = disk.sync_ms(bench.directory)
        found = report.whole(about, all_findings)
        for case in options.names or [name for name in CASES if name not in _BY_NAME_ONLY]:
            print(f"{case}: {bench.rounds} rounds", file=sys.stderr, flush=True)
            begun = time.monotonic()
            bench.findings = all_findings[case] = Findings()
            try:
                bench.findings.rows = CASES[case](bench)
            except Exception:
                failed = True
                bench.note("failed to run")
                traceback.print_exc()
            bench.findings.took_seconds = round(time.monotonic() - begun, 1)
            # After each: a long run that is cut off leaves what it measured.
            found = report.whole(about, all_findings)
            path.write_text(json.dumps(found, indent=1))
    print(report.table(all_findings))
    if complaints := report.problems(all_findings):
        print(f"\nProblems:\n{complaints}")
    print(f"\nDisk, one write kept (ms): {about['disk_sync_ms']}\nRaw figures: {path}")
    return found, failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the gateway on this machine.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"which, all but {', '.join(_BY_NAME_ONLY)} unless given: {', '.join(CASES)}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is measured (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each time (3)")
    parser.add_argument(
        "--quick", action="store_true", help="one round of a second with small sizes, to see that all runs"
    )
    parser.add_argument(
        "--appendfsync",
        choices=["always", "everysec", "no"],
        default="always",
        help="Redis's, for every contender (always)",
    )
    parser.add_argument("--redis-server", help="the redis-server binary (the one on PATH)")
    parser.add_argument(
        "--gateway", metavar="COMMAND", help="how to start the gateway; HOST, PORT and REDIS_URL are in its environment"
    )
    parser.add_argument(
        "--directory", type=Path, help="where the servers' files go; its disk is what appendfsync waits for"
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where the raw figures go (benchmarks/results)")
    parser.add_argument("--read", type=Path, metavar="JSON", help="measure nothing: take these raw figures")
    parser.add_argument("--write-docs", action="store_true", help="write tables and pictures into docs/performance.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
