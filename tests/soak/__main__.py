"""python -m tests.soak: mixed load for some minutes.

Exit code 1: something grew, was lost, or was left behind; 2: nothing did, but ten minutes or more were asked for and
were too little load to tell.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.soak.flat import Series
from tests.soak.report import markdown
from tests.soak.soak import Plan, run

_ROOT = Path(__file__).parents[2]
# Shorter runs try the load; nobody expects a verdict of them.
_TELLING_MINUTES = 10


def main() -> int:
    """Run the soak that the arguments describe, and tell of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=100, help="tasks a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--source", type=Path, default=_ROOT, help="the tree whose gateway is tested")
    parser.add_argument("--json", type=Path, help="where the samples go")
    parser.add_argument("--markdown", type=Path, help="where the report goes, besides the screen")
    parser.add_argument("--keep", type=Path, help="where logs go when a promise was broken")
    given = parser.parse_args()
    # Whoever ends us ends all that we started, too: `run` tidies up on its way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    plan = Plan(
        seconds=given.minutes * 60, rate=given.rate, folder=folder / "run", source=given.source.resolve(),
        seed=given.seed, gateways=given.gateways,
    )  # fmt: skip
    try:
        outcome = asyncio.run(run(plan))
        text = markdown(plan, outcome)
        print(text, flush=True)
        if given.json:
            given.json.write_bytes(msgspec.json.encode(outcome))
        if given.markdown:
            given.markdown.write_text(text)
        grown = [one.name for one in outcome.series if one.verdict == "grows"]
        if (outcome.violations or grown) and given.keep:
            shutil.copytree(plan.folder, given.keep, ignore=shutil.ignore_patterns("data*"), dirs_exist_ok=True)
        code, why = verdict(given.minutes, outcome.violations, outcome.series)
        print(why, file=sys.stderr, flush=True)
        return code
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verdict(minutes: float, violations: list[str], series: list[Series]) -> tuple[int, str]:
    """Say how a run that was asked to last so long ended: its exit code, and why."""
    grown = [one.name for one in series if one.verdict == "grows"]
    short = [one.name for one in series if one.verdict == "too short to tell"]
    if violations or grown:
        return 1, f"{len(violations)} violations; grew: {', '.join(grown) or 'nothing'}"
    if minutes >= _TELLING_MINUTES and (short or not series):
        return 2, f"too short to tell of: {', '.join(short) or 'anything'}"
    return 0, f"nothing grew, nothing was lost; too short to tell of: {', '.join(short) or 'nothing'}"


if __name__ == "__main__":
    sys.exit(main())
