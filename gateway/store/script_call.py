"""How a script is called with many requests at once, and how its reply is read.

Items, arguments and replies are those of the header of the script's Lua file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.store.batching import Argument
from gateway.store.calls import Listener
from gateway.store.keys import Keys
from gateway.tasks import Queue


class Context(Protocol):
    """What calls need of the store they belong to."""

    keys: Keys
    gateway: str
    queue_limit: int
    listener: Listener

    def given_now(self) -> Argument:
        """The time to hand in."""

    def heard_now(self, now_ms: int) -> None:
        """The store's clock, from a reply."""

    def heard_spread(self, queue: Queue, spread: int) -> None:
        """How many partitions of a queue may hold tasks, from a reply."""


class ScriptCall:
    """One script's call and reply. Items and replies are those of its Lua header."""

    # promises: its reply says that something is so from now on. What only reads, sweeps or rings promises nothing.
    name = ""
    repeat = True
    batch = 500
    promises = True

    def __init__(self, store: Context) -> None:
        self.store = store

    def weight(self, item: Any) -> int:
        return 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        raise NotImplementedError

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        raise NotImplementedError

    def start(self) -> list[Argument]:
        return [self.store.given_now()]

    def hear(self, reply: list[Any], queue: Queue | None = None, mine: int = 0) -> None:
        self.store.heard_now(reply[1])
        if mine and queue is not None:
            self.store.listener.ready(queue, mine)
