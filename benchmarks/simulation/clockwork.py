"""Simulated time: what is to happen, in order. Nothing here reads the machine's clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clockwork:
    """Runs events in order of their time; of one time, in order of their making. now_s: simulated seconds since 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    def after(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        """Call `act(*arguments)` in so many seconds."""
        self._made += 1
        heapq.heappush(self._events, (self.now_s + seconds, self._made, act, arguments))

    def run(self, until_s: float) -> None:
        """Let everything happen that is due before `until_s`."""
        events = self._events
        while events and events[0][0] < until_s:
            self.now_s, _, act, arguments = heapq.heappop(events)
            act(*arguments)
        self.now_s = until_s
