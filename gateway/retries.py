"""How long a failed task waits before its next attempt. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

import msgspec

Backoff = Literal["exponential", "linear", "fixed"]
# Of any wait: a leap year.
MAX_DELAY_SECONDS = 31_622_400


class RetryPolicy(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One task's rule for the wait before attempt n+1.

    exponential: base * factor^(n-1); linear: base * n; fixed: base. Never above max_seconds.
    delays_seconds: explicit waits, one per failed attempt; the last one is repeated. Wins over the backoff.
    jitter: take a random share of the backoff between none and all of it ("full jitter"); explicit delays have none.
    """

    backoff: Backoff = "exponential"
    base_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 3600.0
    jitter: bool = True
    delays_seconds: tuple[float, ...] = ()


DEFAULT_RETRY = RetryPolicy()


def delay_ms(policy: RetryPolicy, attempt: int, rand: Callable[[], float] = random.random) -> int:
    """Say how long to wait (ms) after failed attempt number `attempt` (1, 2, ..).

    rand: a number in [0, 1). A jittered wait is never below a tenth of the base (at most 100 ms), so that no task
    comes back in a hot loop.
    """
    if policy.delays_seconds:
        return round(policy.delays_seconds[min(attempt, len(policy.delays_seconds)) - 1] * 1000)
    base = policy.base_seconds
    if policy.backoff == "fixed":
        wait = base
    elif policy.backoff == "linear":
        wait = base * attempt
    else:
        try:
            wait = base * policy.factor ** (attempt - 1)
        except OverflowError:
            wait = policy.max_seconds
    wait = min(wait, policy.max_seconds)
    if policy.jitter:
        wait = max(wait * rand(), min(base / 10, 0.1, wait))
    return round(wait * 1000)
