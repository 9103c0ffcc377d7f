"""What a running handler is given beside its payload."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from workers_sdk.signals import Interrupted, Reason
from workers_sdk.tasks import LeasedTask

_MAX_LINE_CHARS = 8192
_MAX_LINES = 200  # the gateway keeps no more of a task
_encode = msgspec.json.Encoder().encode


class Context:
    """The task in hand, and the way to tell of it. Every method may be called from any thread.

    task: the task as claimed. worker_id: whose hands it is in.
    """

    def __init__(self, task: LeasedTask, worker_id: str, on_news: Callable[[], None] = lambda: None) -> None:
        self.task = task
        self.worker_id = worker_id
        self._on_news = on_news
        self._interrupt = threading.Event()
        self._reason: Reason | None = None
        self._progress: bytes | None = None
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._lock = threading.Lock()

    @property
    def interrupted(self) -> Reason | None:
        """Why the handler has to stop, or None while it may go on."""
        return self._reason

    def check(self) -> None:
        """Raise Interrupted if the handler has to stop. Call it often in a plain function; an async one is
        cancelled."""
        if self._reason is not None:
            raise Interrupted(self._reason)

    def sleep(self, seconds: float) -> None:
        """Sleep in a plain function. Raises Interrupted as soon as it has to stop."""
        self._interrupt.wait(seconds)
        self.check()

    def progress(self, value: Any) -> None:
        """Tell how far it is: any JSON value; the latest is sent within about a second.

        Raises TypeError where the value has no JSON form.
        """
        encoded = _encode(value)
        with self._lock:
            self._progress = encoded
        self._on_news()

    def log(self, line: str) -> None:
        """Add a line to the task's log, for people. Cut at 8,192 characters; the last 200 lines are kept."""
        with self._lock:
            self._lines.append(line[:_MAX_LINE_CHARS])
        self._on_news()

    @property
    def latest_progress(self) -> Any:
        """What `progress` was last told and is not sent yet. For tests of handlers."""
        return None if self._progress is None else msgspec.json.decode(self._progress)

    @property
    def lines(self) -> list[str]:
        """Log lines that are not sent yet. For tests of handlers."""
        return list(self._lines)

    def interrupt(self, reason: Reason) -> None:
        """Make `check` and `sleep` raise from now on. The worker's part; and for tests of handlers."""
        self._reason = reason
        self._interrupt.set()

    def take_news(self, max_lines: int) -> tuple[bytes | None, list[str]]:
        """Take out what is to be sent. The worker's part."""
        with self._lock:
            progress, self._progress = self._progress, None
            lines = [self._lines.popleft() for _ in range(min(max_lines, len(self._lines)))]
        return progress, lines

    def put_news_back(self, progress: bytes | None, lines: list[str]) -> None:
        """What was taken out could not be sent. The worker's part."""
        with self._lock:
            if self._progress is None:
                self._progress = progress
            self._lines.extendleft(reversed(lines[: _MAX_LINES - len(self._lines)]))

    @property
    def has_news(self) -> bool:
        """Whether anything is to be sent. The worker's part."""
        return self._progress is not None or bool(self._lines)


def waker(loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> Callable[[], None]:
    """Call `wake` in its loop, from whichever thread; in vain once the loop is closed."""

    def call() -> None:
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:
            # The worker ended while a thread of a handler went on: there is nobody left to tell.
            pass

    return call
