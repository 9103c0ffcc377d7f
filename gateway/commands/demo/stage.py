"""The demo's processes: a gateway of its own on a free port, with its own Redis and folder, and workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import gateway
from gateway.commands.client import Gateway, Unreachable
from gateway.config import table

_VALUE = TypeVar("_VALUE")
_HERE = Path(__file__).parent
_START_SECONDS = 15.0
# Longer than an embedded Redis is given to end: a gateway that was killed would leave it behind.
_STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.03
_LOG_CHARS = 1000


class StepFailed(Exception):
    """The story did not go as told; the message says where."""


class Worker:
    """A worker process. name: what the gateway knows it by."""

    def __init__(self, name: str, language: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.language = language
        self.process = process
        self.killed = False

    def kill(self) -> None:
        """kill -9: no goodbye."""
        self.killed = True
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Stage:
    """Starts and ends everything that the story needs. Leaves nothing behind."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tasks-gateway-demo-"))
        self.package = Path(gateway.__file__).parent
        # Workers run in this folder: short relative paths need no escapes in any language.
        (self.folder / "package").symlink_to(self.package)
        self.workers: list[Worker] = []
        self._gateway: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "gateway.log"
        self._env = {name: value for name, value in os.environ.items() if name not in _our_variables()}

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove the folder."""
        for worker in self.workers:
            _signal_group(worker.process, signal.SIGTERM)
        if self._gateway is not None and self._gateway.poll() is None:
            self._gateway.terminate()
        for process in [worker.process for worker in self.workers] + ([self._gateway] if self._gateway else []):
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_gateway(self) -> Gateway:
        """Start the gateway and wait until it is ready."""
        env = self._env | {
            "PORT": "0", "DATA_DIR": str(self.folder / "data"), "LOG_FORMAT": "json", "APPENDFSYNC": "everysec",
            "SHUTDOWN_TIMEOUT_SECONDS": "2",
        }  # fmt: skip
        env["PYTHONPATH"] = os.pathsep.join([str(self.package.parent), *filter(None, [env.get("PYTHONPATH")])])
        with self._log.open("ab") as log:
            self._gateway = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"], cwd=self.folder, env=env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, process_group=0,
            )  # fmt: skip
        url = self.wait_for(self._url, _START_SECONDS, "the gateway did not start")
        found = Gateway(url, anonymous=True)
        self.wait_for(lambda: _is_ready(found), _START_SECONDS, "the gateway did not become ready")
        return found

    def start_worker(self, url: str, language: str, job_type: str) -> Worker:
        """Start a worker for one queue."""
        name = f"{language}-{sum(worker.language == language for worker in self.workers) + 1}"
        env = self._env | {"GATEWAY_URL": url, "WORKER_ID": name, "TASK_TYPE": job_type, "NO_PROXY": "127.0.0.1"}
        env["no_proxy"] = env["NO_PROXY"]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - a script of ours and its interpreter
                [languages()[language], str(_HERE / _SCRIPTS[language])], cwd=self.folder, env=env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0,
            )  # fmt: skip
        worker = Worker(name, language, process)
        self.workers.append(worker)
        return worker

    def wait_for(self, condition: Callable[[], _VALUE | None], seconds: float, complaint: str) -> _VALUE:
        """Ask again and again until there is an answer. Raises StepFailed."""
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            for name in self._ended():
                raise StepFailed(f"{name} ended: {self._log_of(name) or 'without a word'}")
            if time.monotonic() > deadline:
                raise StepFailed(f"{complaint} within {seconds:.0f} s: {self.last_words()}")
            time.sleep(_LOOK_SECONDS)

    def last_words(self) -> str:
        """What the processes complained of."""
        names = ["gateway", *(worker.name for worker in self.workers)]
        found = [f"{name} says {text}" for name in names if (text := self._log_of(name))]
        return "; ".join(found) or "their logs are empty"

    def _log_of(self, name: str) -> str:
        try:
            lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return " | ".join(line for line in lines if '"level":"info"' not in line)[-_LOG_CHARS:]

    def _ended(self) -> Iterator[str]:
        if self._gateway is not None and self._gateway.poll() is not None:
            yield "gateway"
        yield from (one.name for one in self.workers if not one.killed and one.process.poll() is not None)

    def _url(self) -> str | None:
        for line in self._log.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if "url" in record:
                return str(record["url"])
        return None


_SCRIPTS = {"python": "worker.py", "bash": "worker.sh", "node": "worker.mjs"}


def languages() -> dict[str, str]:
    """The languages that this machine has, with their interpreters."""
    found = {"python": sys.executable}
    bash, node = shutil.which("bash"), shutil.which("node")
    if bash and all(shutil.which(tool) for tool in ("curl", "sha256sum", "wc", "cat")):
        found["bash"] = bash
    if node and _major_version(node) >= 18:
        found["node"] = node
    return found


def _major_version(node: str) -> int:
    try:
        text = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603 - found on PATH
    except (OSError, subprocess.SubprocessError):
        return 0
    digits = text.strip().removeprefix("v").partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def _our_variables() -> set[str]:
    """Settings of the user's own gateway, which the demo's must not take."""
    return {name for row in table() for name in row.variables} | {
        "GATEWAY_URL", "GATEWAY_TOKEN", "GATEWAY_TOKEN_FILE",
    }  # fmt: skip


def _is_ready(found: Gateway) -> bool:
    try:
        return found.request("GET", "/health/ready").status == 200
    except Unreachable:
        return False


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)
