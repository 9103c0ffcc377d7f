"""What a handler raises to say how its attempt ends, and what is raised in it when it has to stop."""

from __future__ import annotations

from typing import Literal

Reason = Literal["cancelled", "timeout", "lease_lost", "stopping"]


class Retry(Exception):
    """Fail this attempt and try again. in_seconds: when; otherwise by the task's own retry rule.

    pause_queue_seconds: hand out nothing of this queue for so long, to no worker: whoever the handler calls said
    that it is too much (a 429 with its Retry-After).
    """

    def __init__(
        self,
        in_seconds: float | None = None,
        message: str = "asked for another attempt",
        *,
        pause_queue_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.in_seconds = in_seconds
        self.pause_queue_seconds = pause_queue_seconds


class GiveUp(Exception):
    """Fail the task for good: another attempt would fail the same way."""

    def __init__(self, message: str = "gave up") -> None:
        super().__init__(message)


class Release(Exception):
    """Give the task back, this attempt uncounted: a wrong machine, a missing dependency. in_seconds: not before
    then."""

    def __init__(self, in_seconds: float = 0.0) -> None:
        super().__init__("released")
        self.in_seconds = in_seconds


class Interrupted(BaseException):
    """Raised by `Context.check` and `Context.sleep` in a plain function that has to stop. Let it pass.

    reason: `cancelled` (somebody cancelled the task), `timeout` (its handler's limit), `lease_lost` (the gateway may
    have given the task to another worker: change nothing any more), `stopping` (the worker ends; the task is given
    back). A BaseException, as asyncio.CancelledError is, so that `except Exception` does not swallow it.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidPayload(Exception):
    """The payload does not fit the handler's annotation. The task fails without another attempt."""
