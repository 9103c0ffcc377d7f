"""How long to wait before asking an absent gateway again."""

from __future__ import annotations

import random


class Backoff:
    """Doubling waits with full jitter, so that a thousand workers do not come back in step."""

    def __init__(self, first_seconds: float = 0.1, most_seconds: float = 10.0) -> None:
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return self._failures

    def failed(self, retry_after_seconds: float | None = None) -> float:
        """Count a failure. Returns the seconds to wait; never less than the gateway asked for."""
        most = min(self._first_seconds * 2 ** min(self._failures, 20), self._most_seconds)
        self._failures += 1
        return random.uniform(most / 2, most) + (retry_after_seconds or 0.0)

    def succeeded(self) -> None:
        """Start over."""
        self._failures = 0
