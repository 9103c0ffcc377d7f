"""The bench that every case works on: its settings, and the servers it can be given, each fresh and private."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Findings
from benchmarks.http_server import HttpServer, start_echo, start_gateway
from benchmarks.load_client import LoadClient, Report, problems_of
from benchmarks.processes import CpuClock
from benchmarks.redis_server import RedisServer

PAYLOAD_BYTES = 100
_CLOSED_LOOPS = ("post", "work")


@dataclass
class Bench:
    """What the command line settled, and the way to servers.

    rounds: how often each contender is measured. seconds: how long each time. warmup_seconds: load before that.
    quick: small sizes, to see that all runs; its figures mean nothing.
    gateway_command: how the gateway is started. results: where the log of a gateway that complained is kept.
    """

    directory: Path
    load: LoadClient
    redis_binary: str
    gateway_command: list[str]
    appendfsync: str
    rounds: int
    seconds: float
    quick: bool
    results: Path
    findings: Findings = field(default_factory=Findings)

    @property
    def warmup_seconds(self) -> float:
        return 0.3 if self.quick else 1.0

    def size(self, full: int) -> int:
        """A number of tasks or polls: as given, or a twentieth of it when quick."""
        return max(full // 20, 10) if self.quick else full

    @contextlib.contextmanager
    def redis(self) -> Iterator[RedisServer]:
        """An empty Redis."""
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            server = RedisServer(self.redis_binary, Path(name), self.appendfsync)
            try:
                yield server
            finally:
                server.stop()

    @contextlib.contextmanager
    def gateway(self, redis: RedisServer, **settings: str) -> Iterator[HttpServer]:
        """A gateway over that Redis. settings: further environment variables."""
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            server = start_gateway(self.gateway_command, redis.url, Path(name), settings)
            try:
                yield server
            finally:
                code = server.stop()
                if code != 0:
                    self.note(f"the gateway ended with {code} instead of 0")
                self._note_complaints(server)

    @contextlib.contextmanager
    def echo(self) -> Iterator[HttpServer]:
        """The echo server."""
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            server = start_echo(Path(name))
            try:
                yield server
            finally:
                server.stop()

    def measure(
        self,
        contender: str,
        round_number: int,
        servers: list[HttpServer | RedisServer],
        command: str,
        url: str,
        warmup: str = "",
        **flags: object,
    ) -> Report:
        """Run the load client against a server; keep its report, and the CPU seconds of all, with the findings.

        warmup: load beforehand, for so long. A closed loop's is a run of its own, so that its CPU seconds and its
        tasks count the same span.
        """
        if warmup and command in _CLOSED_LOOPS:
            self.load.warm_up(command, url, payload_bytes=PAYLOAD_BYTES, **flags | {"duration": warmup})
        elif warmup:
            flags["warmup"] = warmup
        clock = CpuClock(server.process for server in servers)
        report = self.load.run(command, url, payload_bytes=PAYLOAD_BYTES, **flags)
        self.keep(contender, round_number, report, clock)
        return report

    def keep(self, contender: str, round_number: int, report: dict[str, Any], clock: CpuClock) -> None:
        """Keep a measurement, and what went wrong in it, with the findings."""
        cpu_seconds = clock.seconds() | {"load": round(report["cpu_seconds"], 2)}
        self.findings.raw.append(
            {"contender": contender, "round": round_number, "cpu_seconds": cpu_seconds, "report": report}
        )
        if "errors" in report:
            self.note(*(f"{contender}, round {round_number}: {problem}" for problem in problems_of(report)))

    def note(self, *problems: str) -> None:
        """Note what went wrong."""
        self.findings.problems.extend(problems)

    def fill(
        self, url: str, tasks: int, job_type: str, token: str = "", *, job_types: int = 1, batch: int = 1000
    ) -> None:
        """Enqueue tasks in batches, unmeasured. job_types: spread the batches over so many."""
        report = self.load.run(
            "post",
            url,
            tasks=tasks,
            batch=min(tasks, batch),
            queues=job_types,
            connections=2,
            duration="10m",
            job_type=job_type,
            payload_bytes=PAYLOAD_BYTES,
            token=token,
        )
        self.note(*(f"filling {job_type}: {problem}" for problem in problems_of(report)))

    def span(self) -> dict[str, str]:
        """The load client's flags for how long to warm up and to measure."""
        return {"warmup": f"{self.warmup_seconds}s", "duration": f"{self.seconds}s"}

    def _note_complaints(self, server: HttpServer) -> None:
        complaints = server.complaints()
        if complaints:
            self.results.mkdir(parents=True, exist_ok=True)
            kept = self.results / f"gateway-{server.process.pid}.log"
            shutil.copy(server.process.log, kept)
            self.note(f"the gateway logged {len(complaints)} errors, first: {complaints[0][:400]}; all in {kept}")


def interleaved(round_number: int, contenders: list[str]) -> list[str]:
    """The order of contenders in a round: forwards, then backwards, so that none always runs after the same other."""
    return contenders if round_number % 2 == 0 else contenders[::-1]
