"""What every part of the store needs to run scripts: the clock, this process's name, the keys, and the way to Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gateway.errors import StoreUnavailable
from gateway.store.batching import Argument, Verb
from gateway.store.calls import Listener, Nobody
from gateway.store.keys import Keys, QueueKeys
from gateway.store.verbs import VERBS
from gateway.tasks import Queue


class Lane(Protocol):
    """Where requests go that share calls to Redis."""

    def submit(self, verb: Verb, keys: QueueKeys, item: Any) -> asyncio.Future[Any]:
        """Put a request into the next call."""

    async def close(self) -> None:
        """Wait for what is under way, then drop the connections."""


class Caller:
    """Runs scripts, many requests a call.

    clock: unix ms for scripts, or None for Redis's own (tests hand in a time). gateway: this process's name.
    """

    def __init__(
        self,
        keys: Keys,
        lanes: Mapping[str, Lane],
        gateway: str,
        queue_limit: int,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.keys = keys
        self.gateway = gateway
        self.queue_limit = queue_limit
        self._lanes = lanes
        self._clock = clock
        self._ahead_ms = 0.0
        # Why nothing of what is stored may be touched, or ''.
        self.refusal = ""
        self.listener: Listener = Nobody()
        # Told how many partitions of a queue may hold tasks.
        self.heard_spread: Callable[[Queue, int], None] = lambda queue, spread: None
        self._verbs = {verb.name: verb(self) for verb in VERBS}

    def now_ms(self) -> int:
        """The store's clock, as far as the last reply told it."""
        return self._clock() if self._clock else int(time.time() * 1000 + self._ahead_ms)

    def given_now(self) -> Argument:
        """What scripts get for the time: '' lets them read Redis's clock."""
        return self._clock() if self._clock else b""

    def heard_now(self, now_ms: int) -> None:
        """Note the store's clock from a reply."""
        self._ahead_ms = now_ms - time.time() * 1000

    def submit(self, lane: str, verb: str, keys: QueueKeys, item: Any) -> asyncio.Future[Any]:
        """Put a request into a lane's next call. Raises StoreUnavailable while nothing may be touched."""
        if self.refusal:
            raise StoreUnavailable(self.refusal)
        return self._lanes[lane].submit(self._verbs[verb], keys, item)

    def submit_read(self, verb: str, queue: Queue, item: Any) -> asyncio.Future[Any]:
        """Put a read into the read lane."""
        return self.submit("read", verb, self.keys.of(queue), item)

    async def close(self) -> None:
        """Finish what is under way and drop the connections."""
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))
