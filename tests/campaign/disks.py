"""Disks for the campaign's Redis: a folder, a small one that can be full, one that forgets what was not synced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.campaign.servers import child_environment

_ROOT = Path(__file__).parents[2]
_SMALL_DISK_BYTES = 192 << 20


class Disk:
    """A plain folder."""

    kind = "plain"

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def unmount(self) -> None:
        """Let go of the folder."""


class SmallDisk(Disk):
    """A tmpfs of 192 MiB that can be filled up."""

    kind = "small"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        _run("mount", "-t", "tmpfs", "-o", f"size={_SMALL_DISK_BYTES}", "tmpfs", str(path))
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no room at all."""
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 65536)
            except OSError:
                pass

    def make_room(self) -> None:
        """Take the filler away."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Forget the disk and all that is on it."""
        _run("umount", "-l", str(self.path), check=False)


class ForgetfulDisk(Disk):
    """A FUSE file system that keeps in memory whatever was not synced, as a drive's cache does (`power_fs.py`)."""

    kind = "forgetful"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._backing = path.with_name(f"{path.name}-backing")
        self._backing.mkdir(parents=True, exist_ok=True)
        self._log = path.with_name(f"{path.name}-fuse.log")
        self._process: subprocess.Popen[bytes] | None = None
        self.mount()

    def mount(self) -> None:
        """Start the file system over what reached the backing folder."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.campaign.power_fs", str(self._backing), str(self.path)],
                env=child_environment(_ROOT), stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while not os.path.ismount(self.path):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the file system did not start: {self._log.read_text()[-1000:]}")
            time.sleep(0.01)

    def cut_power(self) -> None:
        """Kill the file system with all that was not synced. The server on it must be killed first, at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.unmount()

    def unmount(self) -> None:
        """Take the mount away."""
        _run("umount", "-l", str(self.path), check=False)
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
