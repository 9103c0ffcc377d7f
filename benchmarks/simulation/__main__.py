"""`python -m benchmarks.simulation [costs | check | alarms]`: simulate, measure costs, or compare with the real thing.

Without a word: simulates everything and prints the tables; with --write-docs also docs/scaling/, from where
docs/scaling.md shows them. Needs nothing but Python. costs, check, alarms: on a Redis of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import sys
import tempfile
from pathlib import Path

from benchmarks.simulation import alarms, scenarios, sweeps
from benchmarks.simulation.world import Setting, simulate

_DOCS = Path(__file__).resolve().parents[2] / "docs" / "scaling"


def main() -> int:
    """Parse the command line and run. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "costs", "check", "alarms"), default="all")
    parser.add_argument("--quick", action="store_true", help="small sizes: does all run?")
    parser.add_argument("--rate", type=float, default=60.0, help="of check: tasks a second (60)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of check and alarms: how long each run counts (10)"
    )
    parser.add_argument("--write-docs", action="store_true", help="write docs/scaling/")
    options = parser.parse_args()
    if options.what == "costs":
        _costs()
    elif options.what == "check":
        _check(options.rate, options.seconds)
    elif options.what == "alarms":
        asyncio.run(_alarms(options.seconds))
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


async def _alarms(seconds: float) -> None:
    from benchmarks.simulation import real_alarms  # as above

    print("| gateways | due a second | queues | | sweeps a second | looks | commands |\n|---|---|---|---|---|---|---|")
    for gateways, queues, due in ((1, 1, 10.0), (2, 1, 10.0), (4, 1, 10.0), (8, 1, 10.0), (1, 1, 0.0), (1, 1000, 0.0)):
        found = await real_alarms.calls_per_second(gateways, queues, due, seconds)
        row = f"| {gateways} | {due:g} | {queues} |"
        print(f"{row} real | {found['sweeps']:.1f} | {found['looks']:.1f} | {found['commands']:.0f} |", flush=True)
        if due:
            modelled = alarms.simulate(gateways, due, random.Random(1), seconds=100.0)
            print(f"{row} simulated | {modelled.sweeps:.1f} | {modelled.looks:.1f} | |")
    print("\n| queues | gateways left | | median s | p99 s | worst s |\n|---|---|---|---|---|---|")
    for queues in (200, 1000):
        for left in (1, 4):
            for noted in (True, False):
                late_s = sweeps.shares(await real_alarms.lapses_late_s(queues, left, noted=noted))
                late = " | ".join(f"{value:.2f}" for value in late_s)
                print(f"| {queues} | {left} | {'noted' if noted else 'not noted'} | {late} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
