"""Tasks per second of one SDK worker with empty handlers, from a filled queue, against the compiled load client.

    python -m benchmarks.sdk.worker [--seconds 4] [--rounds 3] [--concurrency 32]

The load client works with as many connections, one task a request and `next`, and with batches as the SDK makes
them. Each measurement has a fresh Redis and gateway. The worker's process is `python -m benchmarks.sdk.worker
--child ...`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.bench import Bench, interleaved
from benchmarks.http_server import ROOT
from benchmarks.load_client import LoadClient
from benchmarks.redis_server import find_binary
from workers_sdk import Worker, logs

_TASKS_PER_SECOND = 16_000  # more than it can do


async def _work(options: argparse.Namespace) -> dict[str, float]:
    done = 0
    worker = Worker(options.child, concurrency=options.concurrency)

    async def empty(payload: Any) -> None:
        nonlocal done
        done += 1

    def plain(payload: Any) -> None:
        nonlocal done
        done += 1

    worker.task("bench")(plain if options.threads else empty)
    working = asyncio.create_task(worker.work())
    await asyncio.sleep(1.0)
    before, cpu, begun = done, time.process_time(), time.perf_counter()
    await asyncio.sleep(options.seconds)
    finished, cpu, took = done - before, time.process_time() - cpu, time.perf_counter() - begun
    worker.stop()
    await working
    return {"tasks_per_second": finished / took, "cpu_us_per_task": cpu / max(finished, 1) * 1e6, "tasks": finished}


def _sdk(bench: Bench, url: str, concurrency: int, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.sdk.worker", "--child", url, "--seconds", str(bench.seconds)]
    done = subprocess.run(
        [*command, "--concurrency", str(concurrency), *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _load(bench: Bench, url: str, connections: int, batch: int) -> dict[str, Any]:
    report = bench.load.run("work", url, connections=connections, max=batch, next=True, **bench.span())
    return {**report, "cpu_us_per_task": report["cpu_seconds"] / max(report["tasks"], 1) * 1e6}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--appendfsync", default="always")
    parser.add_argument("--child", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--threads", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--logging", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        logs.configure("info" if options.logging else "warning")
        logging.getLogger("asyncio").setLevel("WARNING")
        print(json.dumps(uvloop.run(_work(options))))
        return
    many = options.concurrency
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(
            Path(name), LoadClient(Path(name)), find_binary(), [sys.executable, "-m", "gateway", "serve"],
            options.appendfsync, options.rounds, options.seconds, False, Path(name) / "results",
        )  # fmt: skip
        contenders = {
            f"load client, {many} connections, 1 task a request": lambda url: _load(bench, url, many, 1),
            f"load client, 1 connection, {many} tasks a request": lambda url: _load(bench, url, 1, many),
            "SDK, async handler": lambda url: _sdk(bench, url, many),
            "SDK, async handler, each task logged": lambda url: _sdk(bench, url, many, "--logging"),
            "SDK, plain handler": lambda url: _sdk(bench, url, many, "--threads"),
        }
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        for number in range(options.rounds):
            for contender in interleaved(number, list(contenders)):
                with bench.redis() as redis, bench.gateway(redis) as gateway:
                    bench.fill(gateway.url, int(_TASKS_PER_SECOND * (bench.seconds + bench.warmup_seconds)), "bench")
                    found[contender].append(contenders[contender](gateway.url))
    first = [one["tasks_per_second"] for one in found[next(iter(contenders))]]
    print("| contender | tasks/s | against the first | CPU us a task |\n|---|---|---|---|")
    for contender, reports in found.items():
        rates = [one["tasks_per_second"] for one in reports]
        ratio = statistics.median(rate / yardstick for rate, yardstick in zip(rates, first, strict=True))
        cpu = statistics.median(one["cpu_us_per_task"] for one in reports)
        print(f"| {contender} | {statistics.median(rates):,.0f} | {ratio:.2f} | {cpu:,.0f} |")
    for problem in bench.findings.problems:
        print(f"problem: {problem}")


if __name__ == "__main__":
    main()
