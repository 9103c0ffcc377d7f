"""python -m tests.campaign: run campaigns and say what came of them. Exit code 1: a promise was broken."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import msgspec

from tests.campaign import faults
from tests.campaign.arena import Size
from tests.campaign.asked import campaigns, parser, spelled
from tests.campaign.campaign import Plan, Report, run
from tests.campaign.network import Network, enter


def main() -> int:
    """Run the campaign that the arguments describe, once per seed."""
    given = parser().parse_args()
    try:
        asked = campaigns(given)
    except ValueError as error:
        sys.exit(str(error))
    network = enter() if any({*one.names} & {*faults.NEED_NETWORK} for one in asked) else Network()
    # Whoever ends us ends all that we started, too: `run` tidies up on its way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = 0
    for one in asked:
        folder = Path(tempfile.mkdtemp(prefix=f"campaign-{one.seed}-")) / "run"
        size = Size(gateways=one.gateways, workers=one.workers, clients=one.clients, queue_size=one.queue_size)
        plan = Plan(
            seconds=one.seconds, seed=one.seed, source=one.source.resolve(), folder=folder, faults=one.names,
            size=size, network=network, pause_seconds=tuple(one.pause), cluster=one.cluster,
            durability=one.durability,
        )  # fmt: skip
        report = asyncio.run(run(plan))
        print(_told(report), flush=True)
        if given.json:
            with given.json.open("ab") as file:
                told = {"asked": spelled(one), **msgspec.to_builtins(report)}
                file.write(msgspec.json.encode(told) + b"\n")
        if report.verdict.violations:
            failed += 1
            if given.keep:
                # Several campaigns may have one seed.
                shutil.copytree(folder, given.keep / folder.parent.name, ignore=shutil.ignore_patterns("data*"))
        shutil.rmtree(folder.parent, ignore_errors=True)
    return 1 if failed else 0


def _told(report: Report) -> str:
    verdict = report.verdict
    lines = [
        f"seed {report.seed}: {verdict.operations} operations in {verdict.requests} requests, {report.seconds:.0f} s, "
        f"{verdict.unanswered} without an answer, {verdict.acknowledged} tasks acknowledged, "
        f"{verdict.hand_outs} handed out ({verdict.repeated_per_million:.0f} per million again), "
        f"{verdict.accepted} reports accepted, {verdict.judged_for_order} judged for order, "
        f"longest answer {verdict.longest_seconds:.1f} s",
        f"  at most {verdict.most_waiting} waited in a queue for certain, {verdict.doubted:.0f} in doubt at a time; "
        f"{verdict.lapses} lapses in calm moments noticed after {verdict.lapse_median_seconds:.3f} s, worst "
        f"{verdict.lapse_worst_seconds:.3f} s",
        f"  faults: {report.faults}",
        f"  answers: {verdict.statuses}",
        f"  violations: {len(verdict.violations)}",
    ]
    lines += [f"    {one.kind}: {one.task} {one.detail}" for one in verdict.violations[:30]]
    if report.outages:
        told = ", ".join(f"{name} {replaced:.2f} + {served:.2f} s" for name, replaced, served in report.outages)
        lines.append(f"  replaced after, stored again after: {told}")
    if report.unpromised:
        kinds = Counter(one.kind for one in report.unpromised)
        lines.append(f"  taken by failovers, and not promised: {dict(kinds)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
