"""`python -m benchmarks.simulation [costs | check]`: simulate, measure Redis's costs, or compare with the real thing.

Without a word: simulates everything and prints the tables; with --write-docs also docs/scaling/, from where
docs/scaling.md shows them. Needs nothing but Python. costs, check: on a Redis of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import tempfile
from pathlib import Path

from benchmarks.simulation import scenarios
from benchmarks.simulation.world import Setting, simulate

_DOCS = Path(__file__).resolve().parents[2] / "docs" / "scaling"


def main() -> int:
    """Parse the command line and run. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "costs", "check"), default="all")
    parser.add_argument("--quick", action="store_true", help="small sizes: does all run?")
    parser.add_argument("--rate", type=float, default=60.0, help="of check: tasks a second (60)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of check: how long each run counts (10)")
    parser.add_argument("--write-docs", action="store_true", help="write docs/scaling/")
    options = parser.parse_args()
    if options.what == "costs":
        _costs()
    elif options.what == "check":
        _check(options.rate, options.seconds)
    else:
        _all(quick=options.quick, write=options.write_docs)
    return 0


def _all(*, quick: bool, write: bool) -> None:
    report = scenarios.Report()
    scenarios.run(report, lambda part: print(part, file=sys.stderr), quick=quick)
    print(report.markdown())
    if write:
        _DOCS.mkdir(exist_ok=True)
        (_DOCS / "tables.md").write_text("# Simulated\n\n" + report.markdown())
        for name, picture in report.pictures.items():
            (_DOCS / name).write_text(picture)


def _costs() -> None:
    from benchmarks.simulation import unit_costs  # the gateway and its packages: the rest needs none

    print("| script | us of Redis's CPU, 1 task a call | 100 tasks a call |\n|---|---|---|")
    for script, costs in asyncio.run(unit_costs.measure()).items():
        print(f"| {script} | {costs[1]:.0f} | {f'{costs[100]:.0f}' if 100 in costs else ''} |")


def _check(rate: float, seconds: float) -> None:
    from benchmarks.redis_server import find_binary  # as above
    from benchmarks.simulation import real

    names = ("tasks", "claims_per_task", "rings_per_task", "pass_ons_per_task", "p50_ms", "p99_ms", "fairness")
    print("| gateways | busy | | " + " | ".join(names) + " |\n|---|---|---|" + "---|" * len(names))
    for gateways in (1, 2, 4):
        for busy in (0.2, 0.5, 0.8):
            setting = Setting(gateways=gateways, busy=busy, tasks_per_second=rate, seconds=seconds, warm_s=4.0)
            with tempfile.TemporaryDirectory() as directory:
                measured = asyncio.run(real.run(setting, find_binary(), Path(directory))).rounded()
            modelled = simulate(dataclasses.replace(setting, seconds=seconds * 10)).rounded()
            for kind, found in (("real", measured), ("simulated", modelled)):
                print(
                    f"| {gateways} | {busy:.0%} | {kind} | " + " | ".join(f"{found[name]:g}" for name in names) + " |"
                )


if __name__ == "__main__":
    sys.exit(main())
