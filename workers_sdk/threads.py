"""Threads for plain handlers.

Not a ThreadPoolExecutor: the interpreter waits for that one's threads at its end, so that one handler which never
returns would keep a stopped worker alive for ever. These are daemons.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

_JOIN_SECONDS = 1.0
_Work = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Threads:
    """As many threads as there is work at once; idle ones are used again. name: what they are called."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._busy: set[threading.Thread] = set()

    def run(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Start `function` in a thread. Await what comes back for its result; cancelling that does not stop the
        thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.add(thread)
                thread.start()
        self._work.put((loop, future, function, arguments))
        return future

    def close(self) -> int:
        """End the idle threads. Returns how many still run a handler; those end when it returns."""
        with self._lock:
            threads, busy = list(self._threads), set(self._busy)
        for _ in threads:
            self._work.put(None)
        for thread in threads:
            if thread not in busy:
                thread.join(_JOIN_SECONDS)
        return len(busy)

    def _serve(self) -> None:
        me = threading.current_thread()
        while (work := self._work.get()) is not None:
            with self._lock:
                self._busy.add(me)
            loop, future, function, arguments = work
            del work
            result: Any = None
            failure: BaseException | None = None
            try:
                result = function(*arguments)
            except BaseException as error:  # handed over as it is to who awaits the future
                failure = error
            with self._lock:
                self._busy.discard(me)
                self._idle += 1
            try:
                loop.call_soon_threadsafe(_settle, future, result, failure)
            except RuntimeError:
                # The loop is closed: the worker ended without waiting for this handler.
                pass
            del loop, future, function, arguments, result, failure
        with self._lock:
            self._threads.discard(me)


def _settle(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.cancelled():
        return
    if failure is None:
        future.set_result(result)
    elif isinstance(failure, StopIteration):
        # A future refuses it.
        future.set_exception(RuntimeError("the handler raised StopIteration"))
    else:
        future.set_exception(failure)
