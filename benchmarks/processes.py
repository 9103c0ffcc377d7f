"""Child processes of a benchmark: started with their own log, watched through /proc (Linux), ended by their id."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessFailed(Exception):
    """A child process ended, or did not get ready in time. The message ends with the last lines of its log."""

    def __init__(self, name: str, what: str, log: Path) -> None:
        super().__init__(f"{name} {what}; its log ends:\n{tail(log)}")


class Process:
    """A running child process.

    name: what figures and messages call it.
    log: the file that takes its stdout and stderr.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], *, directory: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                arguments,
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._child.pid

    def ended(self) -> bool:
        """Whether it is over."""
        return self._child.poll() is not None

    def cpu_seconds(self) -> float:
        """User and system time so far, of it and its descendants, those included that ended and were waited for."""
        return sum(_cpu_ticks(pid) for pid in _family(self.pid)) / _TICKS_PER_SECOND

    def rss_bytes(self) -> int:
        """Resident memory, of it and its living descendants."""
        return sum(_rss_pages(pid) for pid in _family(self.pid)) * _PAGE_BYTES

    def stop(self, timeout_seconds: float = 15.0) -> int:
        """End it with SIGTERM, and with SIGKILL when that takes longer than `timeout_seconds`.

        Returns its exit code, negative for the signal that ended it.
        """
        if not self.ended():
            self._child.send_signal(signal.SIGTERM)
        try:
            return self._child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()


class CpuClock:
    """Counts the CPU seconds that processes use from here on."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._begun = [(process, process.cpu_seconds()) for process in processes]

    def seconds(self) -> dict[str, float]:
        """CPU seconds since then, by process name."""
        return {process.name: round(process.cpu_seconds() - begun, 2) for process, begun in self._begun}


def allow_many_files() -> None:
    """Raise this process's and its children's bound of open files as far as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def end_in_order_on_sigterm() -> None:
    """Let SIGTERM end this process as an exit does, which ends the servers that it started."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _family(pid: int) -> list[int]:
    members = [pid]
    for member in members:
        for listing in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                members.extend(int(child) for child in listing.read_text().split())
            except OSError:
                continue
    return members


def _cpu_ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()  # the command's name before it may hold spaces
    return sum(int(field) for field in fields[11:15])  # its own and its ended children's, user and system


def _rss_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
