"""What the scripts cost Redis a task, by step and batch size: this tree's, or two trees' by turns.

python -m benchmarks.script_costs [--against TREE] [--sizes 1 8 64] [--rounds 9] [--tasks 1024]

Each tree's store runs in a process of its own over one private redis-server without an append-only file; the figures
are microseconds in scripts (`INFO commandstats`), microseconds of Redis's whole CPU time (which is what a busy machine
disturbs least), and commands run inside the scripts. Trees take turns round by round; medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.redis_server import RedisServer, find_binary

_HERE = Path(__file__).resolve()


class Tree:
    """One tree's store in its own process, and its rounds so far."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self._child = subprocess.Popen(
            [sys.executable, str(_HERE.with_name("script_rounds.py")), url],
            env={**os.environ, "PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        came_from = Path(self._line()).resolve()
        if path.resolve() not in came_from.parents:
            raise AssertionError(f"{came_from} was measured, not {path}")

    def round(self, tasks: int, batch: int) -> dict[str, Any]:
        """Measure once."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{tasks} {batch}\n")
        self._child.stdin.flush()
        return dict(json.loads(self._line()))

    def close(self) -> None:
        """End it."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(10)

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise AssertionError(f"the process of {self.path} ended; see above")
        return line.strip()


def main() -> int:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.script_costs", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="TREE", help="an older tree to measure by turns with this one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 64], help="tasks a call (1 8 64)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each tree and size (9)")
    parser.add_argument("--tasks", type=int, default=1024, help="tasks a round (1024)")
    parser.add_argument("--redis-server", help="the redis-server binary (the one on PATH)")
    options = parser.parse_args()
    paths = [path.resolve() for path in (options.against, _HERE.parents[1]) if path is not None]
    with tempfile.TemporaryDirectory(prefix="script-costs-") as folder:
        server = RedisServer(options.redis_server or find_binary(), Path(folder), "no")
        server.client.config_set("appendonly", "no")
        trees: list[Tree] = []
        try:
            trees += [Tree(path, server.url) for path in paths]
            for size in options.sizes:
                tasks = max(options.tasks // size, 1) * size
                turns = [[tree.round(tasks, size) for tree in trees] for _ in range(options.rounds + 1)][1:]
                print(_table(turns, tasks, size), flush=True)
        finally:
            for tree in trees:
                tree.close()
            server.stop()
    return 0


def _table(turns: list[list[dict[str, Any]]], tasks: int, size: int) -> str:
    """turns: per round what each tree measured, the older one first."""
    trees = range(len(turns[0]))
    marks = ("before", "after") if len(trees) == 2 else ("",)
    head = ["step"]
    for what in ("us in scripts", "us of CPU", "commands"):
        head += [f"{what} {mark}".strip() for mark in marks]
        head += ["ratio"] * (len(trees) == 2 and what != "commands")
    lines = [f"\n{size} a call, for each task:", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for step in turns[0][0]["steps"]:
        costs = [[turn[tree]["steps"][step] for turn in turns] for tree in trees]
        cells = [step]
        for place in (2, 3):
            cells += [f"{statistics.median(cost[place] for cost in rounds) / tasks:.1f}" for rounds in costs]
            if len(trees) == 2:
                ratio = statistics.median(new[place] / old[place] for old, new in zip(*costs, strict=True))
                cells.append(f"{ratio:.2f}")
        cells += [f"{rounds[0][1] / tasks:.2f}" for rounds in costs]
        lines.append("| " + " | ".join(cells) + " |")
    for what in ("waiting_bytes", "leased_bytes"):
        sizes = [statistics.median(turn[tree][what] for turn in turns) for tree in trees]
        lines.append(f"{what.removesuffix('_bytes')} task: " + " -> ".join(f"{one:.0f}" for one in sizes) + " bytes")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
