"""`python -m benchmarks [name ...]`: run benchmarks, print their table, keep their raw figures.

Exits 1 when one failed to run. A goal that was not reached is no failure.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks import disk, report
from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.figures import Findings
from benchmarks.load_client import LoadClient
from benchmarks.processes import allow_many_files
from benchmarks.redis_server import find_binary

_RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Parse the command line and run. Returns the exit code."""
    options = _parser().parse_args()
    allow_many_files()
    all_findings: dict[str, Findings] = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        gateway_command = [sys.executable, "-m", "gateway", "serve"]
        bench = Bench(
            directory=Path(name),
            load=LoadClient(Path(name)),
            redis_binary=options.redis_server or find_binary(),
            gateway_command=shlex.split(options.gateway) if options.gateway else gateway_command,
            appendfsync=options.appendfsync,
            rounds=1 if options.quick else options.rounds,
            seconds=1.0 if options.quick else options.seconds,
            quick=options.quick,
            results=options.results,
        )
        with bench.redis() as redis:
            settings = {key: str(value) for key, value in vars(options).items()}
            about = report.surroundings(redis.version(), settings)
        about["disk_sync_ms"] = disk.sync_ms(bench.directory)
        for case in options.names or CASES:
            print(f"{case}: {bench.rounds} rounds", file=sys.stderr, flush=True)
            bench.findings = all_findings[case] = Findings()
            try:
                bench.findings.rows = CASES[case](bench)
            except Exception:
                failed = True
                bench.note("failed to run")
                traceback.print_exc()
    path = report.write(options.results, about, all_findings)
    print(report.table(all_findings))
    if complaints := report.problems(all_findings):
        print(f"\nProblems:\n{complaints}")
    print(f"\nDisk, one write kept (ms): {about['disk_sync_ms']}\nRaw figures: {path}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the gateway on this machine.")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"which benchmarks, all unless given: {', '.join(CASES)}"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is measured (5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each time (5)")
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
    return parser


if __name__ == "__main__":
    sys.exit(main())
