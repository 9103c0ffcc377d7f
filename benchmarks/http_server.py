"""The HTTP servers that are measured, as subprocesses: the gateway and the echo it is compared with."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.processes import Process, ProcessFailed

ROOT = Path(__file__).resolve().parent.parent
_READY_SECONDS = 30.0
# Only these reach a server: a setting that happens to stand in the caller's environment would change what is measured.
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")


class HttpServer:
    """A server on a free port of 127.0.0.1 that answered `ready_path` with 200.

    settings: further environment variables. HOST and PORT are set here.
    start_seconds: how long it took from its spawn to its first 200.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], *, directory: Path, settings: Mapping[str, str], ready_path: str
    ) -> None:
        host, port = "127.0.0.1", _free_port()
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        environment |= {"PYTHONPATH": str(ROOT), "HOST": host, "PORT": str(port)} | dict(settings)
        self.url = f"http://{host}:{port}"
        begun = time.monotonic()
        self.process = Process(
            name,
            arguments,
            directory=directory,
            environment=environment,
            log=directory / f"{name}.log",
        )
        try:
            self._wait_until_ready(host, port, ready_path)
        except ProcessFailed:
            self.process.stop()
            raise
        self.start_seconds = time.monotonic() - begun

    def stop(self) -> int:
        """End it. Returns its exit code."""
        return self.process.stop()

    def complaints(self) -> list[str]:
        """Lines of its log that tell of an error."""
        lines = self.process.log.read_text(errors="replace").splitlines()
        return [line for line in lines if "Traceback" in line or "error" in line[:160].lower()]

    def _wait_until_ready(self, host: str, port: int, path: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers(host, port, path):
            if self.process.ended():
                raise ProcessFailed(self.process.name, "ended while it started", self.process.log)
            if time.monotonic() > deadline:
                raise ProcessFailed(self.process.name, f"was not ready within {_READY_SECONDS:.0f} s", self.process.log)
            time.sleep(0.005)


def start_gateway(command: Sequence[str], redis_url: str, directory: Path, settings: Mapping[str, str]) -> HttpServer:
    """Start the gateway over that Redis. command: how to start it, such as `python -m gateway serve`."""
    own = {"REDIS_URL": redis_url, "TASK_QUEUE_SIZE": "10000000", "TENANT_MAX_QUEUES": "1000000"}
    return HttpServer(
        "gateway", command, directory=directory, settings=own | dict(settings), ready_path="/health/ready"
    )


def start_echo(directory: Path) -> HttpServer:
    """Start the echo server of echo.py."""
    command = [sys.executable, "-m", "benchmarks.echo"]
    return HttpServer("echo", command, directory=directory, settings={}, ready_path="/ready")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
