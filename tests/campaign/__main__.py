"""python -m tests.campaign: run campaigns and say what came of them. Exit code 1: a promise was broken."""

from __future__ import annotations

import argparse
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
from tests.campaign.campaign import Plan, Report, run
from tests.campaign.network import Network, enter
from tests.campaign.seeds import KEPT

_ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run the campaign that the arguments describe, once per seed."""
    known = f"{', '.join(faults.SETS)}, or some of {', '.join(faults.FAULTS)}"
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of load and faults, per seed")
    parser.add_argument("--seed", type=int, default=1, help="of the first campaign")
    parser.add_argument("--seeds", type=int, default=1, help="how many campaigns")
    parser.add_argument("--faults", help=f"one of {known}; default: usual, with --cluster: cluster")
    parser.add_argument("--cluster", action="store_true", help="over a Redis Cluster of three primaries and replicas")
    parser.add_argument(
        "--durability",
        choices=("replicated", "local"),
        help="of the gateways; default: local, with --cluster: replicated",
    )
    parser.add_argument("--gateways", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes of workers")
    parser.add_argument("--clients", type=int, default=12, help="clients per process")
    parser.add_argument("--pause", type=float, nargs=2, default=(0.2, 1.2), help="between two faults of one hand")
    parser.add_argument("--queue-size", type=int, default=400, help="TASK_QUEUE_SIZE")
    parser.add_argument("--source", type=Path, default=_ROOT, help="the tree whose gateway is tested")
    parser.add_argument("--keep", type=Path, help="where histories of failed campaigns go")
    parser.add_argument("--json", type=Path, help="append a line of figures per campaign")
    parser.add_argument("--kept", action="store_true", help="the seeds that once found a defect, instead")
    given = parser.parse_args()
    given.faults = given.faults or ("cluster" if given.cluster else "usual")
    runs = [(seed, given.faults, given.cluster) for seed in range(given.seed, given.seed + given.seeds)]
    if given.kept:
        runs = sorted({(kept.seed, kept.faults, kept.cluster) for kept in KEPT})
    for _, text, cluster in runs:
        wrong = {*_names(text)} - {*faults.CLUSTER} if cluster else {*_names(text)} & {*faults.NEED_CLUSTER}
        if wrong:
            sys.exit(f"{'not' if cluster else 'only'} with --cluster: {', '.join(sorted(wrong))}")
    asked = {name for _, text, _ in runs for name in _names(text)}
    network = enter() if asked.intersection(faults.NEED_NETWORK) else Network()
    # Whoever ends us ends all that we started, too: `run` tidies up on its way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = 0
    for seed, text, cluster in runs:
        names = _names(text)
        folder = Path(tempfile.mkdtemp(prefix=f"campaign-{seed}-")) / "run"
        size = Size(gateways=given.gateways, workers=given.workers, clients=given.clients, queue_size=given.queue_size)
        plan = Plan(
            seconds=given.seconds, seed=seed, source=given.source.resolve(), folder=folder, faults=names, size=size,
            network=network, pause_seconds=tuple(given.pause), cluster=cluster,
            durability=given.durability or ("replicated" if cluster else "local"),
        )  # fmt: skip
        report = asyncio.run(run(plan))
        print(_told(report), flush=True)
        if given.json:
            with given.json.open("ab") as file:
                file.write(msgspec.json.encode({"asked": text, **msgspec.to_builtins(report)}) + b"\n")
        if report.verdict.violations:
            failed += 1
            if given.keep:
                shutil.copytree(folder, given.keep / f"seed-{seed}", ignore=shutil.ignore_patterns("data*"))
        shutil.rmtree(folder.parent, ignore_errors=True)
    return 1 if failed else 0


def _names(text: str) -> tuple[str, ...]:
    if text in faults.SETS:
        return faults.SETS[text]
    names = tuple(text.replace("usual", ",".join(faults.USUAL)).split(","))
    unknown = [name for name in names if name not in faults.FAULTS]
    if unknown:
        sys.exit(f"unknown faults: {', '.join(unknown)}; known: {', '.join(faults.FAULTS)}")
    return names


def _told(report: Report) -> str:
    verdict = report.verdict
    lines = [
        f"seed {report.seed}: {verdict.operations} operations in {verdict.requests} requests, {report.seconds:.0f} s, "
        f"{verdict.unanswered} without an answer, {verdict.acknowledged} tasks acknowledged, "
        f"{verdict.hand_outs} handed out ({verdict.repeated_per_million:.0f} per million again), "
        f"{verdict.accepted} reports accepted, {verdict.judged_for_order} judged for order, "
        f"longest answer {verdict.longest_seconds:.1f} s",
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
