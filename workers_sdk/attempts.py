"""One attempt: hooks around a handler, its limit, and what becomes of it when it has to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from workers_sdk.context import Context
from workers_sdk.handlers import Handler
from workers_sdk.lease import Lease
from workers_sdk.outcomes import Outcome, completed, failed
from workers_sdk.signals import GiveUp, Interrupted, InvalidPayload, Release, Retry
from workers_sdk.threads import Threads

log = logging.getLogger("workers_sdk")
_EXPECTED = (Interrupted, Retry, GiveUp, Release, InvalidPayload)
_WORDS = {"complete": "completed", "fail": "failed", "release": "released"}

OnStart = Callable[[Context], Awaitable[None]]
OnEnd = Callable[[Context, str], Awaitable[None]]


class Attempts:
    """Runs handlers. on_start, on_end: called around each attempt. on_free: told when its slot is free again.

    interrupt_seconds: how long an interrupted thread has to notice, before its task is reported without it.
    """

    def __init__(
        self,
        threads: Threads,
        interrupt_seconds: float,
        on_free: Callable[[], None],
        on_start: OnStart | None,
        on_end: OnEnd | None,
    ) -> None:
        self._threads = threads
        self._interrupt_seconds = interrupt_seconds
        self._on_free = on_free
        self._on_start = on_start
        self._on_end = on_end

    async def run(self, handler: Handler, lease: Lease) -> Outcome:
        """Run the handler to its end, or to the end of our patience with it. Call it in a task of its own.

        A thread that does not end keeps its slot until it does.
        """
        this = asyncio.current_task()
        assert this is not None
        timer = None
        future: asyncio.Future[Any] | None = None
        try:
            arguments = handler.arguments(lease.task.payload_json, lease.context)
            if self._on_start is not None:
                await self._on_start(lease.context)
            if handler.timeout_seconds is not None:
                timer = asyncio.get_running_loop().call_later(handler.timeout_seconds, lease.interrupt, "timeout")
            if handler.in_thread:
                future = self._threads.run(handler, arguments)
                outcome = completed(await self._thread(future, lease))
            else:
                lease.handle(lambda: _cancel(this))
                outcome = completed(await handler(arguments))
        except asyncio.CancelledError:
            if lease.reason is None:
                # Nobody but the handler itself did that.
                outcome = failed(asyncio.CancelledError("the handler cancelled itself"))
            else:
                this.uncancel()
                outcome = failed(Interrupted(lease.reason), handler.timeout_seconds)
        except _EXPECTED as error:
            outcome = failed(error, handler.timeout_seconds)
        except (Exception, SystemExit) as error:
            log.warning("handler raised", extra={"task_id": lease.task.id}, exc_info=error)
            outcome = failed(error)
        finally:
            lease.handled()
            if timer is not None:
                timer.cancel()
            if future is None or future.done():
                self._on_free()
            else:
                log.warning("left a handler running that did not stop", extra={"task_id": lease.task.id})
                future.add_done_callback(self._thread_ended)
        await self._tell_end(lease, outcome)
        return outcome

    async def _thread(self, future: asyncio.Future[Any], lease: Lease) -> Any:
        """Wait for a thread. Once it is interrupted it has a while to notice; then it is left alone."""
        loop = asyncio.get_running_loop()
        patience = loop.create_future()
        timers: list[asyncio.TimerHandle] = []
        lease.handle(lambda: timers.append(loop.call_later(self._interrupt_seconds, patience.set_result, None)))
        try:
            await asyncio.wait({future, patience}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for timer in timers:
                timer.cancel()
        if future.done():
            return future.result()
        assert lease.reason is not None
        raise Interrupted(lease.reason)

    async def _tell_end(self, lease: Lease, outcome: Outcome) -> None:
        if self._on_end is None:
            return
        try:
            await self._on_end(lease.context, "lost" if lease.lost else _WORDS[outcome.outcome])
        except Exception:
            log.exception("hook raised", extra={"task_id": lease.task.id})

    def _thread_ended(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # nobody waits for it any more
        self._on_free()


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
