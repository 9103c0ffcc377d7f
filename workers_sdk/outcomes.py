"""How an attempt ended, as the gateway is told: docs/protocol.md, POST /outcomes."""

from __future__ import annotations

import traceback
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from workers_sdk.signals import GiveUp, Interrupted, InvalidPayload, Release, Retry

_MAX_TYPE_CHARS = 256
_MAX_MESSAGE_CHARS = 16_000
_MAX_STACK_CHARS = 60_000
_encode = msgspec.json.Encoder().encode


class Failure(msgspec.Struct, omit_defaults=True):
    """Why an attempt failed."""

    type: str
    message: str
    stack: str | None = None


class Outcome(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One report. Which task it is about is filled in when it is sent."""

    id: str = ""
    lease_token: str = ""
    outcome: Literal["complete", "fail", "release"]
    result: Raw | UnsetType = UNSET
    error: Failure | None = None
    retryable: bool | None = None
    retry_in_seconds: float | None = None
    pause_queue_seconds: float | None = None
    delay_seconds: float | None = None


def completed(result: Any) -> Outcome:
    """The handler returned. A result without a JSON form fails the task: it would have none the next time either."""
    if result is None:
        return Outcome(outcome="complete")
    try:
        return Outcome(outcome="complete", result=Raw(_encode(result)))
    except (TypeError, ValueError, RecursionError) as error:
        return failed_for_good("InvalidResult", f"the result has no JSON form: {error}")


def failed_for_good(type: str, message: str) -> Outcome:
    """Another attempt would fail the same way."""
    return Outcome(
        outcome="fail", error=Failure(_cut(type, _MAX_TYPE_CHARS), _cut(message, _MAX_MESSAGE_CHARS)), retryable=False
    )


def failed(error: BaseException, timeout_seconds: float | None = None) -> Outcome:
    """The handler raised `error`. timeout_seconds: its limit, for the message when that was the reason."""
    match error:
        case Release():
            return Outcome(outcome="release", delay_seconds=error.in_seconds or None)
        case Interrupted(reason="stopping"):
            return Outcome(outcome="release")
        case Interrupted(reason="cancelled"):
            return failed_for_good("Cancelled", "stopped on request")
        case Interrupted(reason="timeout"):
            return Outcome(outcome="fail", error=Failure("Timeout", f"took longer than {timeout_seconds:g} s"))
        case Retry():
            return Outcome(
                outcome="fail",
                error=Failure("Retry", _message(error)),
                retry_in_seconds=error.in_seconds,
                pause_queue_seconds=error.pause_queue_seconds,
            )
        case GiveUp() | InvalidPayload():
            return failed_for_good(type(error).__name__, str(error))
    stack = "".join(traceback.format_exception(error))[-_MAX_STACK_CHARS:]
    name = _cut(type(error).__qualname__, _MAX_TYPE_CHARS)
    return Outcome(outcome="fail", error=Failure(name, _message(error), _sane(stack)))


def _message(error: BaseException) -> str:
    try:
        return _cut(str(error), _MAX_MESSAGE_CHARS)
    except Exception as broken:  # an exception's own __str__ may do anything
        return f"(its message could not be made: {type(broken).__name__})"


def _cut(text: str, chars: int) -> str:
    return _sane(text[:chars])


def _sane(text: str) -> str:
    """Without lone surrogates, which have no UTF-8 form."""
    return text.encode(errors="replace").decode()
