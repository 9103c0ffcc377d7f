"""`python -m benchmarks.peers`: measure the gateway beside its peers, keep the raw figures, write them into docs/.

Exits 1 when a measurement failed. A contender that could not be had is no failure: the report names it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import disk, report
from benchmarks.bench import Bench
from benchmarks.http_server import ROOT
from benchmarks.load_client import LoadClient
from benchmarks.peers import document
from benchmarks.peers.contenders import GATEWAY, LIBRARIES, SERVERS, Contender
from benchmarks.peers.measures import DURABILITIES
from benchmarks.peers.rounds import Rounds
from benchmarks.peers.tools import InstallFailed, Tools
from benchmarks.processes import allow_many_files, end_in_order_on_sigterm
from benchmarks.redis_server import find_binary

_RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> int:
    """Parse the command line and run. Returns the exit code."""
    options = _parser().parse_args()
    end_in_order_on_sigterm()
    found = json.loads(options.read.read_text()) if options.read else _measure(options)
    print(document.section(found))
    if options.write_docs:
        document.write(ROOT / "docs", found)
    for problem in found["problems"]:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if found["problems"] else 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    allow_many_files()
    path = report.file(options.results, "peers-")
    tools = Tools(options.tools)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        bench = Bench(
            directory=Path(name),
            load=LoadClient(Path(name)),
            redis_binary=options.redis_server or find_binary(),
            gateway_command=shlex.split(options.gateway or f"{sys.executable} -m gateway serve"),
            appendfsync="always",
            rounds=options.rounds,
            seconds=options.seconds,
            quick=options.quick,
            results=options.results,
        )
        with bench.redis() as redis:
            found = report.surroundings(redis.version(), {key: str(value) for key, value in vars(options).items()})
        found["disk_sync_ms"] = disk.sync_ms(bench.directory)
        contenders, found["contenders"], found["not_run"] = _prepare(tools, options)
        rounds = Rounds(bench, tools, contenders, with_gateway=_chosen(GATEWAY, options))
        shorter = replace(bench, seconds=min(options.seconds, options.other_seconds))

        def keep() -> None:
            """Write what there is: a long run that is cut off leaves its rounds."""
            measured = {"samples": rounds.samples, "problems": [*rounds.problems, *bench.findings.problems]}
            found.update(measured)
            path.write_text(json.dumps(found, indent=1))

        for durability in options.durability:
            count = options.rounds if durability == "always" else min(options.rounds, options.other_rounds)
            rounds.bench = bench if durability == "always" else shorter
            for number in range(count):
                rounds.measure(number, durability)
                keep()
        rounds.bench = shorter
        for number in range(min(options.rounds, options.scaling_rounds)):
            rounds.measure_scaling(number)
            keep()
    print(f"raw figures: {path}", file=sys.stderr)
    return found


def _prepare(tools: Tools, options: argparse.Namespace) -> tuple[list[Contender], dict[str, Any], dict[str, str]]:
    """Install the chosen. Returns those that can run, what the report says of them, and why the others cannot."""
    candidates = list(LIBRARIES)
    missing = {}
    for option, server in SERVERS.items():
        if url := getattr(options, option):
            candidates.append(replace(server, url=url))
        elif _chosen(server.name, options):
            missing[server.name] = f"no running server was named (--{option} URL)"
    contenders, described = [], {}
    for contender in candidates:
        if not _chosen(contender.name, options):
            continue
        print(f"installing {contender.name}", file=sys.stderr, flush=True)
        try:
            versions = tools.install(contender)
        except InstallFailed as error:
            missing[contender.name] = str(error)
            continue
        contenders.append(contender)
        described[contender.name] = {"versions": versions, "note": contender.note, "remote": bool(contender.url)}
    return contenders, described, missing


def _chosen(name: str, options: argparse.Namespace) -> bool:
    return not options.names or name.lower() in {chosen.lower() for chosen in options.names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Measure the gateway and its peers."
    )
    everyone = [GATEWAY, *(each.name for each in LIBRARIES), *(each.name for each in SERVERS.values())]
    parser.add_argument("names", nargs="*", metavar="name", help=f"whom, all unless given: {', '.join(everyone)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured with appendfsync always (5)")
    parser.add_argument("--other-rounds", type=int, default=1, help="how often with the other durabilities (1)")
    parser.add_argument("--scaling-rounds", type=int, default=2, help="how often at each concurrency, 0 for never (2)")
    parser.add_argument("--seconds", type=float, default=2.5, help="how long each measurement lasts (2.5)")
    parser.add_argument(
        "--other-seconds", type=float, default=1.5, help="how long with the other durabilities and concurrencies (1.5)"
    )
    parser.add_argument("--quick", action="store_true", help="short warm-ups, to see that all runs")
    parser.add_argument(
        "--durability",
        nargs="+",
        choices=DURABILITIES,
        default=list(DURABILITIES),
        help="Redis's, for every contender (all, one after the other)",
    )
    for option, server in SERVERS.items():
        parser.add_argument(f"--{option}", metavar="URL", default="", help=f"where a {server.name} server runs already")
    parser.add_argument("--redis-server", help="the redis-server binary (the one on PATH)")
    parser.add_argument("--gateway", metavar="COMMAND", help="how to start the gateway")
    parser.add_argument("--directory", type=Path, help="where the servers' files go, whose disk counts")
    parser.add_argument(
        "--tools", type=Path, default=_RESULTS / "peers", help="where contenders are installed, and stay"
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where the raw figures go (benchmarks/results)")
    parser.add_argument("--read", type=Path, metavar="JSON", help="measure nothing: show these raw figures")
    parser.add_argument("--write-docs", action="store_true", help="write tables and pictures into docs/performance.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
