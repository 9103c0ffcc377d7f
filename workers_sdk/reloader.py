"""Development: run a command and start it again whenever a Python file changes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

log = logging.getLogger("workers_sdk")
_LOOK_SECONDS = 0.5
_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


def run(command: Sequence[str], folder: Path, stop_seconds: float = 40.0) -> int:
    """Run `command` until SIGTERM or SIGINT, and again after each change of a `.py` file below `folder`.

    A worker that ended by itself is started again at the next change. Returns its last exit code.
    """
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while True:
            seen = _times(folder)
            # A session of its own: an interrupt from the terminal reaches us, and we tell the worker.
            child = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - the command is our own
            while not told and _times(folder) == seen:
                time.sleep(_LOOK_SECONDS)
            code = _end(child, stop_seconds)
            if told:
                return code
            log.info("reloads after a change", extra={"folder": str(folder)})
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(child: subprocess.Popen[bytes], stop_seconds: float) -> int:
    child.terminate()
    try:
        return child.wait(stop_seconds)
    except subprocess.TimeoutExpired:
        log.warning("killed a worker that did not stop", extra={"pid": child.pid})
        child.kill()
        return child.wait()


def _times(folder: Path) -> dict[str, int]:
    return dict(_walk(str(folder)))


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith(".") and entry.name not in _SKIPPED:
                        yield from _walk(entry.path)
                elif entry.name.endswith(".py"):
                    yield entry.path, entry.stat().st_mtime_ns
    except OSError:
        # A file or folder went away while we looked: the next look tells.
        return
