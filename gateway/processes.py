"""Several processes on one port: the parent binds the socket, hands it down, and keeps its children running.

A child finds the listening socket by number in `GATEWAY_LISTEN_FD`, in `GATEWAY_PARENT_FD` the read end of a pipe that
ends with the parent, and its place, from 0, in `GATEWAY_PROCESS_INDEX`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence

LISTEN_FD = "GATEWAY_LISTEN_FD"
PARENT_FD = "GATEWAY_PARENT_FD"
PROCESS_INDEX = "GATEWAY_PROCESS_INDEX"
BACKLOG = 2048
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# A child that lived this long had a good start: its death is an accident, and the next restart is quick again.
SETTLED_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 10.0
# How much later than its own deadline a child may be before it is killed.
CHILD_GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)


class CannotListen(OSError):
    """The address cannot be listened on; the message says which and what to do."""

    def __init__(self, host: str, port: int, cause: OSError) -> None:
        if cause.errno == errno.EADDRINUSE:
            advice = "another program listens there: stop it or choose another port"
        elif cause.errno == errno.EACCES:
            advice = "this user may not listen there: choose a port above 1023"
        else:
            advice = f"{cause.strerror or cause}: choose another host or port"
        super().__init__(cause.errno, f"cannot listen on {host} port {port}: {advice}")

    def __str__(self) -> str:
        return str(self.strerror)


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen. port: 0 lets the system choose. Raises CannotListen."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        # asyncio sets it only where the protocol is named. Without it a body waits 40 ms for the ACK of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise CannotListen(host, port, error) from error


def inherited_socket() -> socket.socket | None:
    """Take over the listening socket handed down by `run_processes`, once; None if there is none."""
    number = os.environ.pop(LISTEN_FD, None)
    if number is None:
        return None
    listener = socket.socket(fileno=int(number))
    listener.set_inheritable(False)
    return listener


@contextlib.contextmanager
def parent_watched(stop: Callable[[], object]) -> Generator[None, None, None]:
    """Call `stop` when the process that started this one by `run_processes` ends without a word."""
    number = os.environ.pop(PARENT_FD, None)
    if number is None:
        yield
        return
    parent = int(number)
    os.set_inheritable(parent, False)
    loop = asyncio.get_running_loop()

    def orphaned() -> None:
        loop.remove_reader(parent)
        log.warning("stopping: the parent process is gone")
        stop()

    loop.add_reader(parent, orphaned)
    try:
        yield
    finally:
        loop.remove_reader(parent)
        os.close(parent)


def run_processes(
    count: int,
    argv: Sequence[str],
    *,
    host: str,
    port: int,
    env: Mapping[str, str] | None = None,
    shutdown_seconds: float,
) -> int:
    """Run `argv` in `count` processes on one listening socket until a signal. Call it in the main thread.

    env: added to this process's environment. Each child finds its number from 0 in `GATEWAY_PROCESS_INDEX`.
    The first SIGINT or SIGTERM is passed on as SIGTERM; a second kills the children. A child that dies is started
    again, after 0.1 s doubling to 10 s while it keeps dying young; but one that exits by itself within 5 s of the
    very first start, before a signal, ends everything, as one process would.
    Returns 0 after a graceful stop, else the first failed child's exit status (128 + number for a death by signal).
    Raises CannotListen.
    """
    with listen(host, port) as listener:
        children = _Children(count, argv, listener, {**os.environ, **(env or {})}, shutdown_seconds)
        return children.run()


class _Child:
    """One place among the children: the process in it, or when to start the next one."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.early_deaths = 0
        self.first = True


class _Children:
    def __init__(
        self,
        count: int,
        argv: Sequence[str],
        listener: socket.socket,
        env: dict[str, str],
        shutdown_seconds: float,
    ) -> None:
        self._argv = list(argv)
        self._listener = listener
        self._env = env
        self._shutdown_seconds = shutdown_seconds
        self._children = [_Child(index) for index in range(count)]
        self._status = 0
        self._kill_at: float | None = None  # set once they are told to stop

    def run(self) -> int:
        # Signals arrive as bytes in a socket, so that waiting for them and for time is one `select`.
        bell, wakeup = socket.socketpair()
        with bell, wakeup:
            bell.setblocking(False)
            wakeup.setblocking(False)
            before = {number: signal.signal(number, _ring) for number in (*STOP_SIGNALS, signal.SIGCHLD)}
            old_wakeup = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
            parent, pipe = os.pipe()
            try:
                self._supervise(bell, parent)
            finally:
                for child in self._children:
                    if child.process is not None:
                        child.process.kill()
                        child.process.wait()
                signal.set_wakeup_fd(old_wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)
                os.close(parent)
                os.close(pipe)
        return self._status

    def _supervise(self, bell: socket.socket, parent: int) -> None:
        while True:
            now = time.monotonic()
            for child in self._children:
                if child.process is None:
                    if self._kill_at is None and now >= child.start_at:
                        self._start(child, parent)
                elif child.process.poll() is not None:
                    self._bury(child, child.process.returncode)
            if self._kill_at is not None:
                if not any(child.process for child in self._children):
                    return
                if now >= self._kill_at:
                    log.error("killed the processes that did not stop in time")
                    self._send(signal.SIGKILL)
            select.select([bell], [], [], self._wait_seconds(now))
            with contextlib.suppress(BlockingIOError):
                for number in bell.recv(1024):
                    if number in STOP_SIGNALS:
                        self._take_signal(number)

    def _wait_seconds(self, now: float) -> float | None:
        times = [child.start_at for child in self._children if child.process is None and self._kill_at is None]
        if self._kill_at is not None:
            times.append(self._kill_at)
        return max(0.0, min(times) - now) if times else None

    def _start(self, child: _Child, parent: int) -> None:
        names = {
            LISTEN_FD: str(self._listener.fileno()),
            PARENT_FD: str(parent),
            PROCESS_INDEX: str(child.index),
        }
        child.started_at = time.monotonic()
        child.process = subprocess.Popen(  # noqa: S603  # the caller's own command line
            self._argv,
            env={**self._env, **names},
            pass_fds=(self._listener.fileno(), parent),
            # A group of its own: Ctrl+C must reach it once, through us; a second signal would force it.
            process_group=0,
        )
        log.info("started a process", extra={"pid": child.process.pid, "index": child.index})

    def _bury(self, child: _Child, returncode: int) -> None:
        child.process = None
        status = returncode if returncode >= 0 else 128 - returncode
        now = time.monotonic()
        if self._kill_at is not None:
            # Our own SIGTERM took one that was still starting: that is no failure.
            self._status = self._status or (0 if status == 128 + signal.SIGTERM else status)
            return
        settled = now - child.started_at >= SETTLED_SECONDS
        if child.first and not settled and returncode > 0:
            log.error("a process failed to start", extra={"index": child.index, "status": status})
            self._status = status
            self._stop()
            return
        child.first = False
        child.early_deaths = 0 if settled else child.early_deaths + 1
        pause = min(FIRST_BACKOFF_SECONDS * 2 ** min(child.early_deaths, 10), LONGEST_BACKOFF_SECONDS)
        child.start_at = now + pause
        log.error("a process died", extra={"index": child.index, "status": status, "restart_in_seconds": pause})

    def _take_signal(self, number: int) -> None:
        if self._kill_at is None:
            self._stop()
        else:
            self._status = 128 + number
            self._send(signal.SIGKILL)

    def _stop(self) -> None:
        # The children hold it too: with the last one that stops to listen, clients are refused instead of left waiting.
        self._listener.close()
        self._kill_at = time.monotonic() + self._shutdown_seconds + CHILD_GRACE_SECONDS
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.send_signal(number)


def _ring(number: int, frame: object) -> None:
    """Do nothing: a handler must be there for the signal to reach the wakeup socket."""
