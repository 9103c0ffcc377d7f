"""The gateway's application under other servers: uvicorn plain, with h11, without uvloop, and granian, beside ours.

The figures to compare are CPU seconds of the server's processes: they hardly move with what else the machine does. The
guard against slow and oversized clients, and everything else that is ours, is in the price of ours only.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench import PAYLOAD_BYTES, Bench, interleaved
from benchmarks.figures import Row, ratios
from benchmarks.http_server import ROOT, HttpServer
from benchmarks.processes import CpuClock
from benchmarks.redis_server import RedisServer
from benchmarks.served import SERVERS

_CONNECTIONS = 64
_BATCH, _BATCH_CONNECTIONS = 100, 8
_WARMUP_REQUESTS = 2_000
_REQUESTS_PER_SECOND = 4_000
_LATENCY = {"rate": 200, "pollers": 16, "connections": 4}
_POLLS, _HELD_ROUNDS = 10_000, 2
_HELD_SECONDS, _RENEWED_WAIT_SECONDS = 5.0, 25
Found = dict[str, dict[str, list[float]]]  # by what was measured, by server


def run(bench: Bench) -> list[Row]:
    """Measure every server, round by round; the open polls in the first two rounds only."""
    found: Found = {}
    with _granian(bench) as python_path:
        servers = [name for name in SERVERS if python_path is not None or not name.startswith("granian")]
        for round_number in range(bench.rounds):
            for name in interleaved(round_number, servers):
                _tasks(bench, name, round_number, python_path or {}, found)
                _echo(bench, name, round_number, python_path or {}, found)
                if round_number < _HELD_ROUNDS:
                    _polls(bench, name, round_number, python_path or {}, found)
    rows = [Row(f"{what}, {name}", unit, found[what][name]) for what, unit in _UNITS.items() for name in servers]
    for what in ("POST /tasks, CPU", "life with next, CPU"):
        rows += [
            Row(f"{what}, {name} against ours", "", ratios(found[what][name], found[what]["ours"]))
            for name in servers[1:]
        ]
    return rows


_UNITS = {
    "POST /tasks, CPU": "us/request",
    "POST /tasks": "requests/s",
    "life with next, CPU": "us/task",
    "life with next": "tasks/s",
    "batches of 100, CPU": "us/task",
    "POST to worker, p50": "ms",
    "POST to worker, p99": "ms",
    "POST to worker, CPU": "us/task",
    "echo, CPU": "us/request",
    "echo": "requests/s",
    "memory per open poll": "KiB",
    "polls waiting, CPU": "% of a core",
    f"polls renewed every {_RENEWED_WAIT_SECONDS} s, CPU": "% of a core",
}


@contextlib.contextmanager
def _granian(bench: Bench) -> Iterator[Mapping[str, str] | None]:
    """What a server's environment needs to find granian: installed here, or for the while of the run. None: nowhere."""
    if importlib.util.find_spec("granian") is not None:
        bench.findings.raw.append({"contender": "granian", "version": importlib.metadata.version("granian")})
        yield {}
        return
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--target", directory, "granian"], capture_output=True, text=True)
        if done.returncode != 0:
            bench.note(f"granian is left out, it could not be installed: {done.stderr.strip()[-300:]}")
            yield None
            return
        version = next(Path(directory).glob("granian-*.dist-info")).name.split("-")[1].removesuffix(".dist")
        bench.findings.raw.append({"contender": "granian", "version": version})
        yield {"PYTHONPATH": f"{ROOT}{os.pathsep}{directory}"}


@contextlib.contextmanager
def _served(
    bench: Bench, name: str, app: str, python_path: Mapping[str, str], settings: Mapping[str, str]
) -> Iterator[HttpServer]:
    command = [sys.executable, "-m", "benchmarks.served", name, app]
    path = "/ready" if app == "echo" else "/health/ready"
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        server = HttpServer(
            "server", command, directory=Path(directory), settings={**settings, **python_path}, ready_path=path
        )
        try:
            yield server
        finally:
            server.stop()
            for complaint in server.complaints()[:1]:
                bench.note(f"{name} logged an error: {complaint[:300]}")


@contextlib.contextmanager
def _gateway(bench: Bench, name: str, python_path: Mapping[str, str]) -> Iterator[tuple[RedisServer, HttpServer]]:
    with bench.redis() as redis:
        settings = {"REDIS_URL": redis.url, "TASK_QUEUE_SIZE": "10000000", "TENANT_MAX_QUEUES": "1000000"}
        with _served(bench, name, "gateway", python_path, settings) as server:
            yield redis, server


class _Meter:
    """Takes the measurements of one server in one round."""

    def __init__(self, bench: Bench, name: str, round_number: int, server: HttpServer, found: Found) -> None:
        self._bench = bench
        self._name = name
        self._round = round_number
        self._server = server
        self._found = found

    def load(self, what: str, command: str, **flags: object) -> tuple[dict[str, Any], float]:
        """Run the load client. Returns its report, and the CPU microseconds of the server for each task."""
        clock = CpuClock([self._server.process])
        report = self._bench.load.run(command, self._server.url, payload_bytes=PAYLOAD_BYTES, **flags)
        cpu_seconds = clock.seconds()["server"]
        self._bench.keep(f"{what}, {self._name}", self._round, report, clock)
        return report, cpu_seconds * 1e6 / report["tasks"]

    def note(self, what: str, value: float) -> None:
        """Keep a figure."""
        self._found.setdefault(what, {}).setdefault(self._name, []).append(value)


def _tasks(bench: Bench, name: str, round_number: int, python_path: Mapping[str, str], found: Found) -> None:
    """A fixed number of requests each, so that the CPU seconds belong to them and to nothing else."""
    tasks = max(int(_REQUESTS_PER_SECOND * bench.seconds), _WARMUP_REQUESTS)
    many = tasks * 4 // _BATCH * _BATCH
    with _gateway(bench, name, python_path) as (_, server):
        meter = _Meter(bench, name, round_number, server, found)
        for command in ("post", "work"):
            bench.load.run(command, server.url, tasks=_WARMUP_REQUESTS, duration="1m", payload_bytes=PAYLOAD_BYTES)
        report, cpu_us = meter.load("post", "post", tasks=tasks, connections=_CONNECTIONS, duration="2m")
        meter.note("POST /tasks, CPU", cpu_us)
        meter.note("POST /tasks", report["requests_per_second"])
        report, cpu_us = meter.load("life", "work", next=True, tasks=tasks, connections=_CONNECTIONS, duration="2m")
        meter.note("life with next, CPU", cpu_us)
        meter.note("life with next", report["tasks_per_second"])
        batches = {"tasks": many, "connections": _BATCH_CONNECTIONS, "duration": "2m"}
        _, posted_us = meter.load("enqueue in batches", "post", batch=_BATCH, **batches)
        _, worked_us = meter.load("work in batches", "work", max=_BATCH, **batches)
        meter.note("batches of 100, CPU", posted_us + worked_us)
        report, cpu_us = meter.load("latency", "latency", warmup="0s", duration=f"{bench.seconds}s", **_LATENCY)
        meter.note("POST to worker, p50", report["latency_ms"]["dispatch"]["p50"])
        meter.note("POST to worker, p99", report["latency_ms"]["dispatch"]["p99"])
        meter.note("POST to worker, CPU", cpu_us)


def _echo(bench: Bench, name: str, round_number: int, python_path: Mapping[str, str], found: Found) -> None:
    flags = {"path": "/echo", "expect": 200, "connections": _CONNECTIONS, "duration": "2m"}
    with _served(bench, name, "echo", python_path, {}) as server:
        bench.load.run("post", server.url, tasks=_WARMUP_REQUESTS, **flags)
        meter = _Meter(bench, name, round_number, server, found)
        tasks = max(int(_REQUESTS_PER_SECOND * bench.seconds), _WARMUP_REQUESTS)
        report, cpu_us = meter.load("echo", "post", tasks=tasks, **flags)
        meter.note("echo, CPU", cpu_us)
        meter.note("echo", report["requests_per_second"])


def _polls(bench: Bench, name: str, round_number: int, python_path: Mapping[str, str], found: Found) -> None:
    """Open polls: first some that only wait, then some that end evenly and come again."""
    polls, seconds = bench.size(_POLLS), 1.0 if bench.quick else _HELD_SECONDS
    with _gateway(bench, name, python_path) as (_, server):
        meter = _Meter(bench, name, round_number, server, found)
        rss_bytes = server.process.rss_bytes()
        for what, flags in (
            ("polls waiting, CPU", {"wait": 55}),
            (f"polls renewed every {_RENEWED_WAIT_SECONDS} s, CPU", {"wait": _RENEWED_WAIT_SECONDS, "stagger": True}),
        ):
            held = bench.load.hold(server.url, polls=polls, duration="10m", **flags)
            if "stagger" not in flags:
                meter.note("memory per open poll", (server.process.rss_bytes() - rss_bytes) / polls / 1024)
            clock, begun = CpuClock([server.process]), time.monotonic()
            time.sleep(seconds)
            meter.note(what, 100 * clock.seconds()["server"] / (time.monotonic() - begun))
            bench.keep(f"{what}, {name}", round_number, held.release(), clock)
