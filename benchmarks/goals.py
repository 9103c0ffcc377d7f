"""`python -m benchmarks.goals`: hold the newest runs of both benchmarks against the project's goals.

What concerns the gateway alone comes from `python -m benchmarks`, what names another queue from
`python -m benchmarks.peers`. Every figure is worked out from their results files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import document, report
from benchmarks.document import Found
from benchmarks.figures import Goal, at_least, at_most
from benchmarks.http_server import ROOT
from benchmarks.peers import document as peers_document
from benchmarks.peers import samples
from benchmarks.peers.contenders import GATEWAY, SERVERS
from benchmarks.sections import GOALS
from benchmarks.tables import markdown, spread, without_folders

_RESULTS = Path(__file__).resolve().parent / "results"
_ON_REDIS = (SERVERS["lmstfy"].name, SERVERS["ocypod"].name)  # the peers that speak HTTP

Measured = Callable[[Found, Found], list[float]]  # of both files, one value a round


@dataclass(frozen=True)
class OwnRow:
    """A row of `python -m benchmarks`, by its benchmark and key."""

    case: str
    key: str

    def __call__(self, ours: Found, theirs: Found) -> list[float]:
        """Its values."""
        return document.values(ours, self.case, self.key)


def beside(measure: str, own: str, peer_measure: str, *peers: str) -> Measured:
    """Our rate against a peer's, or against the better of several, round by round."""

    def measured(_: Found, theirs: Found) -> list[float]:
        best: samples.Rounds = {}
        for peer in peers:
            found = samples.rounds(theirs, peer, peer_measure)
            best = samples.paired(max, best, found) if best else found
        return samples.ratios(samples.rounds(theirs, own, measure), best)

    return measured


def whole_in_batches(_: Found, theirs: Found) -> list[float]:
    """Enqueueing and processing in batches of 100, both times added, against BullMQ's processing alone."""
    stored, worked = (samples.rounds(theirs, name, measure) for name, measure in _BATCHED_LIFE)
    whole = samples.paired(lambda storing, working: 1 / (1 / storing + 1 / working), stored, worked)
    return samples.ratios(whole, samples.rounds(theirs, "BullMQ", "process"))


_BATCHED_LIFE = ((GATEWAY, "enqueue_100"), (samples.BATCHED, "process"))
_ARQ = ("arq", "arq, tuned")

LINES: tuple[tuple[str, Goal, Measured], ...] = (
    ("`POST /tasks`, 64 connections, against starlette's echo", at_least(0.75), OwnRow("post", "against echo")),
    (
        "life, one task per request with `next`, against native arq's worker (the better of two settings)",
        at_least(8),
        beside("process", GATEWAY, "process", *_ARQ),
    ),
    ("the same, in the run of `make bench`", at_least(8), OwnRow("life", "against arq")),
    (
        "life, one task per request with `next`, against BullMQ's native processing",
        at_least(0.9),
        beside("process", GATEWAY, "process", "BullMQ"),
    ),
    (
        "whole life in batches of 100 against raw Redis (the three scripts alone, same batch)",
        at_least(0.8),
        OwnRow("batch", "against raw/100"),
    ),
    (
        "the same against the time that Redis itself counts for the scripts, without network and disk",
        at_least(0.8),
        OwnRow("batch", "against own count/100"),
    ),
    (
        "life in batches of 100 (poll, report) against BullMQ's native processing",
        at_least(2),
        beside("process", samples.BATCHED, "process", "BullMQ"),
    ),
    ("the same with enqueueing in batches of 100 added to ours, not to BullMQ's", at_least(2), whole_in_batches),
    (
        "enqueue in batches of 100 against BullMQ's `addBulk`",
        at_least(2),
        beside("enqueue_100", GATEWAY, "enqueue_100", "BullMQ"),
    ),
    ("dispatch latency when idle, p50, ms", at_most(1.5), OwnRow("latency", "p50")),
    ("dispatch latency when idle, p99, ms", at_most(5), OwnRow("latency", "p99")),
    ("dispatch latency at 80 % of capacity, p99, ms", at_most(25), OwnRow("loaded", "80 %/p99")),
    ("10,000 open polls: the gateway's memory for each, KiB", at_most(20), OwnRow("hold", "memory")),
    ("10,000 open polls: CPU of gateway and Redis together, % of a core", at_most(2), OwnRow("hold", "together")),
    ("10,000 open polls: Redis commands a second", at_most(20), OwnRow("hold", "commands")),
    ("claim with 1,000,000 waiting against 1,000: the script", at_most(1.3), OwnRow("million", "script against")),
    ("claim with 1,000,000 waiting against 1,000: the poll", at_most(1.3), OwnRow("million", "poll against")),
    (
        "Redis memory of a waiting task with a 100-byte payload, bytes",
        at_most(700),
        OwnRow("million", "memory/1000000"),
    ),
    ("page of 50 of 1,000,000 tasks: the newest, p99, ms", at_most(20), OwnRow("million", "page of 50, the newest")),
    (
        "page of 50 of 1,000,000 tasks: page after page, p99, ms",
        at_most(20),
        OwnRow("million", "page of 50, page after page"),
    ),
    (
        "page of 50 of 1,000,000 tasks: pending ones, p99, ms",
        at_most(20),
        OwnRow("million", "page of 50, pending ones"),
    ),
    (
        "page of 50 of 1,000,000 tasks: of all queues, p99, ms",
        at_most(20),
        OwnRow("million", "page of 50, of all queues"),
    ),
)


def section(ours: Found, theirs: Found) -> str:
    """The table, as Markdown. Either file may be empty: its rows say so then."""
    rows = [_row(what, goal, measured(ours, theirs)) for what, goal, measured in LINES]
    rows += _against_http_peers(theirs)
    parts = []
    for name, found in (("make bench", ours), ("make bench-peers", theirs)):
        words = report.surroundings_in_words(found) if found["settings"] else "No run is at hand."
        parts.append(f"**`{name}`**: {words}")
    missed = sum(row[3] == "**no**" for row in rows)
    unknown = sum(not row[3] for row in rows)
    parts.append(
        f"{len(rows) - missed - unknown} of {len(rows)} rows reached, {missed} not reached, {unknown} not measured. "
        "Median of the rounds, and the least and greatest; a ratio is taken within its round."
    )
    parts.append(markdown(["what", "goal", "measured", "reached"], rows))
    return "\n\n".join(parts)


def _row(what: str, goal: Goal, values: list[float]) -> list[str]:
    if not values:
        return [what, str(goal), "not measured", ""]
    return [what, str(goal), spread(values), "yes" if goal.reached_by(statistics.median(values)) else "**no**"]


def _against_http_peers(theirs: Found) -> Iterator[list[str]]:
    """Ahead of every HTTP peer on Redis: each of their figures against ours, greater or shorter times."""
    for peer in _ON_REDIS:
        if peer not in samples.contenders(theirs):
            why = without_folders(theirs["not_run"].get(peer, "not in this run"))
            yield [f"ahead of {peer} on every row", "", f"not measured: {why}", ""]
            continue
        for words, measure in (("enqueue, one per call", "enqueue"), ("process, one per call", "process")):
            yield _row(f"{words}, against {peer}", at_least(1), beside(measure, GATEWAY, measure, peer)({}, theirs))
        for share in ("p50", "p99"):
            taken = (samples.latency_rounds(theirs, name, share) for name in (GATEWAY, peer))
            yield _row(f"dispatch latency when idle, {share}, against {peer}'s", at_most(1), samples.ratios(*taken))


def _newest(pattern: str) -> Path | None:
    """The latest results file of a run that was neither quick nor of some parts only."""
    for path in sorted(_RESULTS.glob(pattern), reverse=True):
        settings = json.loads(path.read_text())["settings"]
        if (settings["quick"], settings["names"]) == ("False", "[]"):
            return path
    return None


def main() -> int:
    """Parse the command line, print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.goals", description="Hold the figures against the goals."
    )
    parser.add_argument("--bench", type=Path, metavar="JSON", help="of `python -m benchmarks` (the newest)")
    parser.add_argument("--peers", type=Path, metavar="JSON", help="of `python -m benchmarks.peers` (the newest)")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="write it into docs/performance.md, and both runs' tables and pictures",
    )
    options = parser.parse_args()
    ours: Found = {"settings": {}, "benchmarks": {}}
    theirs: Found = {"settings": {}, "samples": [], "contenders": {}, "not_run": {}}
    if path := options.bench or _newest("[0-9]*.json"):
        ours = json.loads(path.read_text())
    if path := options.peers or _newest("peers-*.json"):
        theirs = json.loads(path.read_text())
    table = section(ours, theirs)
    print(table)
    if options.write_docs:
        docs = ROOT / "docs"
        GOALS.write(docs / "performance.md", table)
        if ours["benchmarks"]:
            document.write(docs, ours)
        if theirs["samples"]:
            peers_document.write(docs, theirs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
