"""What a command line asks campaigns for: its arguments, and the names of faults."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.campaign import faults
from tests.campaign.seeds import KEPT

_ROOT = Path(__file__).parents[2]


def parser() -> argparse.ArgumentParser:
    """Make the parser of `python -m tests.campaign`. It exits with 2 on what it does not know."""
    known = f"{', '.join(faults.SETS)}, or some of {', '.join(faults.FAULTS)}"
    found = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description="Run campaigns and say what came of them. Exit code 1: a promise was broken.",
    )
    found.add_argument("--seconds", type=float, help="of load and faults, per seed; default: 60")
    found.add_argument("--seed", type=int, default=1, help="of the first campaign")
    found.add_argument("--seeds", type=int, default=1, help="how many campaigns")
    found.add_argument("--faults", help=f"one of {known}; default: usual, with --cluster: cluster")
    found.add_argument("--cluster", action="store_true", help="over a Redis Cluster of three primaries and replicas")
    found.add_argument(
        "--durability",
        choices=("replicated", "local"),
        help="of the gateways; default: local, with --cluster: replicated",
    )
    found.add_argument("--gateways", type=int, default=3)
    found.add_argument("--workers", type=int, default=2, help="processes of workers")
    found.add_argument("--clients", type=int, default=12, help="clients per process")
    found.add_argument("--pause", type=float, nargs=2, default=[0.2, 1.2], help="between two faults of one hand")
    found.add_argument("--queue-size", type=int, default=400, help="TASK_QUEUE_SIZE")
    found.add_argument("--source", type=Path, default=_ROOT, help="the tree whose gateway is tested")
    found.add_argument("--keep", type=Path, help="where histories of failed campaigns go")
    found.add_argument("--json", type=Path, help="append a line of figures per campaign")
    found.add_argument(
        "--kept", action="store_true", help="the campaigns that once found something, instead; --seconds shortens them"
    )
    return found


def campaigns(given: argparse.Namespace) -> list[argparse.Namespace]:
    """Take apart what was asked for: one campaign each. Raises ValueError for faults that are not, or not there."""
    if given.kept:
        asked = [parser().parse_args(kept.arguments.split()) for kept in KEPT]
        for one in asked:
            one.source = given.source
            one.seconds = given.seconds or one.seconds
    else:
        asked = [argparse.Namespace(**vars(given)) for _ in range(given.seeds)]
        for number, one in enumerate(asked):
            one.seed += number
            one.seconds = one.seconds or 60.0
    for one in asked:
        one.faults = one.faults or ("cluster" if one.cluster else "usual")
        one.durability = one.durability or ("replicated" if one.cluster else "local")
        one.names = names_of(one.faults)
        wrong = {*one.names} - {*faults.CLUSTER} if one.cluster else {*one.names} & {*faults.NEED_CLUSTER}
        if wrong:
            raise ValueError(f"{'not' if one.cluster else 'only'} with --cluster: {', '.join(sorted(wrong))}")
    return asked


def names_of(text: str) -> tuple[str, ...]:
    """Spell out faults: a set's name, or names with commas, of which one may be `usual`. Raises ValueError."""
    if text in faults.SETS:
        return faults.SETS[text]
    names = tuple(text.replace("usual", ",".join(faults.USUAL)).split(","))
    unknown = [name for name in names if name not in faults.FAULTS]
    if unknown:
        raise ValueError(f"unknown faults: {', '.join(unknown)}; known: {', '.join(faults.FAULTS)}")
    return names


def spelled(one: argparse.Namespace) -> str:
    """Spell all arguments that fix a campaign, the names of faults as they are today."""
    low, high = one.pause
    return (
        f"{'--cluster ' if one.cluster else ''}--durability {one.durability} --seed {one.seed} "
        f"--faults {','.join(one.names) or 'none'} --seconds {one.seconds:g} --pause {low:g} {high:g} "
        f"--gateways {one.gateways} --workers {one.workers} --clients {one.clients} --queue-size {one.queue_size}"
    )
