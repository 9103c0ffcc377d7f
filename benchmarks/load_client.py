"""The compiled load client of `load/`: built on first use, run per measurement, its JSON read back."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).resolve().parent / "load"

Report = dict[str, Any]  # what load/report.go prints


class LoadFailed(Exception):
    """The load client could not be built or run. The message tells why."""


class LoadClient:
    """The built client. directory: where its binary goes; Go's own cache makes a second build quick."""

    def __init__(self, directory: Path) -> None:
        go = shutil.which("go")
        if go is None:
            raise LoadFailed("the load client is written in Go: install Go 1.23 or later")
        self._binary = directory / "load"
        built = subprocess.run([go, "build", "-o", str(self._binary), "."], cwd=_SOURCE, capture_output=True, text=True)
        if built.returncode != 0:
            raise LoadFailed(f"go build: {built.stderr}")

    def run(self, command: str, url: str, **flags: object) -> Report:
        """Run one command to its end and return its report.

        flags: the command's flags, `_` for `-`; numbers of seconds are spelled `"5s"`.
        Raises LoadFailed when the server could not be reached or not one request succeeded.
        """
        report = self.warm_up(command, url, **flags)
        if report["requests"] == 0:
            raise LoadFailed(
                f"load {command}: no request succeeded: {report['errors']} {report.get('first_problem', '')}"
            )
        return report

    def warm_up(self, command: str, url: str, **flags: object) -> Report:
        """Run one command like `run`, where a span too short for a single success is no failure."""
        done = subprocess.run(self._arguments(command, url, flags), capture_output=True, text=True)
        if done.returncode != 0:
            raise LoadFailed(done.stderr.strip())
        report: Report = json.loads(done.stdout)
        return report

    def start(self, command: str, url: str, **flags: object) -> subprocess.Popen[bytes]:
        """Run one command beside what is measured; its report is thrown away. End it with `kill`."""
        return subprocess.Popen(
            self._arguments(command, url, flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def hold(self, url: str, **flags: object) -> RunningLoad:
        """Open long polls and return when all are open. End them with `release`."""
        return self.launch("hold", url, **flags)

    def launch(self, command: str, url: str, **flags: object) -> RunningLoad:
        """Run one of the commands that announce their beginning (hold, leases, latency); return when it did."""
        return RunningLoad(command, self._arguments(command, url, flags))

    def _arguments(self, command: str, url: str, flags: dict[str, object]) -> list[str]:
        arguments = [str(self._binary), command, "-url", url]
        for name, value in flags.items():
            spelled = str(value).lower() if isinstance(value, bool) else str(value)
            arguments.append(f"-{name.replace('_', '-')}={spelled}")
        return arguments


class RunningLoad:
    """A client that runs until it is told to end. announced: the line in which it said that it had begun."""

    def __init__(self, command: str, arguments: list[str]) -> None:
        self._command = command
        self._child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._child.stderr is not None
        self.announced = self._child.stderr.readline().strip()
        if not self.announced.startswith(("holding", "posting")):
            self._child.kill()
            self._child.wait()
            raise LoadFailed(f"load {command}: {self.announced or 'ended before it had begun'}")

    def release(self) -> Report:
        """End it and return its report."""
        self._child.send_signal(signal.SIGTERM)
        output, errors = self._child.communicate(timeout=60)
        if self._child.returncode != 0:
            raise LoadFailed(errors.strip() or f"load {self._command} ended with {self._child.returncode}")
        report: Report = json.loads(output)
        return report


def problems_of(report: Report) -> list[str]:
    """What a report says went wrong, in words."""
    problems = [f"{count} x {kind}" for kind, count in report["errors"].items()]
    if problems and report.get("first_problem"):
        problems.append(f"first: {report['first_problem']}")
    for name in ("duplicates", "missing"):
        if report[name]:
            problems.append(f"{name}: {report[name]}")
    return problems
