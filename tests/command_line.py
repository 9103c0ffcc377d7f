"""The `gateway` command as a process of its own: with pipes, as scripts have it, or on a terminal, as people do."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

from gateway.config import table
from tests.harness import wait_until

ROOT = Path(__file__).parents[1]
ESCAPE = "\x1b"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07]*\x07")
_NOT_OURS = {name for row in table() for name in row.variables} | {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}


class Ended:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err
        self.lines = out.splitlines()


def environment(url: str | None, **env: str) -> dict[str, str]:
    """This process's environment without anybody's settings."""
    clean = {
        name: value for name, value in os.environ.items() if name not in _NOT_OURS and not name.startswith("GATEWAY_")
    }
    return clean | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | ({"GATEWAY_URL": url} if url else {}) | env


async def run(url: str | None, *arguments: str, stdin: str = "", folder: Path | None = None, **env: str) -> Ended:
    """Run `gateway` to its end, with pipes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *arguments, env=environment(url, **env), cwd=folder,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def raw(self) -> str:
        """Everything it wrote so far."""
        return bytes(self._written).decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without escape codes."""
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    @property
    def frames(self) -> list[str]:
        """What a live view drew so far, a screen each, without the one that may still be under way."""
        return [_ESCAPES.sub("", part).replace("\r\n", "\n") for part in self.raw.split("\x1b[H")[1:-1]]

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Make the window another size."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    async def until(self, *words: str) -> None:
        """Wait until it wrote all of these."""
        try:
            await wait_until(lambda: all(word in self.text for word in words), 20)
        except AssertionError:
            raise AssertionError(f"not all of {words} in {self.text[-3000:]!r}") from None

    async def ended(self) -> int:
        """Wait for its end. Returns its exit code."""
        code = await asyncio.to_thread(self.process.wait, 20)
        await asyncio.to_thread(self._reader.join, 5)
        return code

    def _read(self) -> None:
        while True:
            try:
                read = os.read(self._terminal, 65_536)
            except OSError:
                return  # the last one that had it open ended
            if not read:
                return
            self._written += read


@contextlib.contextmanager
def terminal(url: str | None, *arguments: str, columns: int = 100, lines: int = 30, **env: str) -> Iterator[Terminal]:
    """Run `gateway` on a terminal of this size. It must not outlive the block."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments], env=environment(url, **env), stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    one = Terminal(process, ours)
    try:
        yield one
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        one._reader.join(5)
        os.close(ours)
