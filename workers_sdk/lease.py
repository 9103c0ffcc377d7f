"""A task in hand, from its claim until its outcome is accepted or the lease is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from workers_sdk.context import Context
from workers_sdk.signals import Reason
from workers_sdk.tasks import LeasedTask

_LEAST_BEAT_SECONDS = 0.5


class Lease:
    """What the worker holds for one task. Times are the event loop's.

    ends_at: the gateway may give the task to another worker from then on. beat_at: when the next heartbeat is due.
    reason: why its handler was interrupted, None if it was not.
    """

    __slots__ = (
        "_ended", "_lapse", "_loop", "_settled", "_stop", "beat_at", "begun_at", "context", "ends_at", "reason", "task",
    )  # fmt: skip

    def __init__(self, task: LeasedTask, context: Context) -> None:
        self.task = task
        self.context = context
        self.reason: Reason | None = None
        self._loop = asyncio.get_running_loop()
        self._stop: Callable[[], None] | None = None
        self._ended = False
        self._settled = False
        self.begun_at = self._loop.time()
        # The claim happened while the poll was held: the reply's arrival is what the duration counts from.
        self.ends_at = self.begun_at + task.lease_seconds
        self.beat_at = self.begun_at + (task.heartbeat_seconds or task.lease_seconds / 3)
        self._lapse = self._loop.call_at(self.ends_at, self.lose)

    @property
    def lost(self) -> bool:
        """Whether the gateway took it away, or may have."""
        return self.reason == "lease_lost"

    @property
    def over(self) -> bool:
        """Whether its time has passed."""
        return self._loop.time() >= self.ends_at

    def handle(self, stop: Callable[[], None]) -> None:
        """From now on `stop` interrupts the handler."""
        self._stop = stop
        if self.reason is not None:
            stop()

    def handled(self) -> None:
        """The handler has ended: there is nothing to interrupt any more."""
        self._stop = None
        self._ended = True

    def extend(self, since: float, lease_seconds: float) -> None:
        """A heartbeat sent at `since` was accepted."""
        if self._settled:
            return
        self.ends_at = since + lease_seconds
        self.beat_at = since + max(lease_seconds / 3, _LEAST_BEAT_SECONDS)
        self._lapse.cancel()
        self._lapse = self._loop.call_at(self.ends_at, self.lose)

    def interrupt(self, reason: Reason) -> None:
        """Tell the handler to stop. The first reason stands, but that a lost lease outdoes all."""
        if self._ended or (self.reason is not None and reason != "lease_lost"):
            return
        first = self.reason is None
        self.reason = reason
        self.context.interrupt(reason)
        if first and self._stop is not None:
            self._stop()

    def lose(self) -> None:
        """The lease is over, or another worker has it."""
        self._lapse.cancel()
        self.interrupt("lease_lost")

    def settle(self) -> None:
        """Nothing is left to do for it."""
        self._settled = True
        self._lapse.cancel()
