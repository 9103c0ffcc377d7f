"""A lane over a cluster: a lane and a link for each node, and what to do when a slot is not where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from gateway.errors import StoreUnavailable
from gateway.store.batching import Entry, Lane, Link, Verb
from gateway.store.cluster import Slots
from gateway.store.keys import QueueKeys
from gateway.store.location import Address
from gateway.store.scripts import Script

_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_REDIRECTS = (MovedError, AskError, TryAgainError, ClusterDownError)


class ClusterLane:
    """Requests to a cluster that share calls, node by node: a node that fails holds up its own queues only.

    A request whose slot moves, or is served by nobody, waits up to two seconds for that to end: none of them ran.
    call_seconds: the deadline of one call to a node; the rest as for `Lane`.
    """

    def __init__(
        self,
        slots: Slots,
        call_seconds: float,
        scripts: dict[str, Script],
        observe: Callable[[str, float, int], None],
        *,
        replicas: int = 0,
    ) -> None:
        self._slots = slots
        self._call_seconds = call_seconds
        self._scripts = scripts
        self._observe = observe
        self._replicas = replicas
        self._lanes: dict[Address, Lane] = {}
        self._held: dict[tuple[str, QueueKeys], tuple[Verb, list[Entry]]] = {}
        self._patience: dict[asyncio.Future[Any], float] = {}
        self._holding: asyncio.Task[None] | None = None

    def submit(self, verb: Verb, keys: QueueKeys, item: Any) -> asyncio.Future[Any]:
        """Put a request into its node's next call. The future gives its outcome or raises a Refusal."""
        owner = self._slots.owner(keys.slot)
        if owner is not None:
            return self._lane(owner).submit(verb, keys, item)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._hold(verb, keys, [(item, future)])
        return future

    async def close(self) -> None:
        """Wait for what is under way, then drop the connections."""
        if self._holding is not None:
            await asyncio.wait([self._holding])
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))

    def _lane(self, address: Address) -> Lane:
        lane = self._lanes.get(address)
        if lane is None:
            link = Link(lambda: self._slots.connection(address), self._call_seconds)
            lane = Lane(link, self._scripts, self._observe, replicas=self._replicas, redirect=self._redirect)
            self._lanes[address] = lane
        return lane

    def _redirect(self, verb: Verb, keys: QueueKeys, entries: list[Entry], error: BaseException) -> bool:
        """Take requests back that a node did not serve. False: the error is an answer."""
        if isinstance(error, MovedError):
            self._slots.moved(error.slot_id, (error.host, error.port))
        elif isinstance(error, (StoreUnavailable, *_REDIRECTS)):
            self._slots.doubt()
        if not isinstance(error, _REDIRECTS):
            return False
        self._hold(verb, keys, entries)
        return True

    def _hold(self, verb: Verb, keys: QueueKeys, entries: list[Entry]) -> None:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        for _, future in entries:
            if future not in self._patience:
                self._patience[future] = deadline
                future.add_done_callback(self._forget)
        self._held.setdefault((verb.name, keys), (verb, []))[1].extend(entries)
        if self._holding is None:
            self._holding = asyncio.get_running_loop().create_task(self._send_again())

    def _forget(self, future: asyncio.Future[Any]) -> None:
        self._patience.pop(future, None)

    async def _send_again(self) -> None:
        """Send what is held, again and again, until nothing is or its time is over."""
        try:
            while self._held:
                await asyncio.sleep(_PAUSE_SECONDS)
                if any(self._slots.owner(keys.slot) is None for _, keys in self._held):
                    await self._slots.read()
                now = asyncio.get_running_loop().time()
                held, self._held = self._held, {}
                for (_, keys), (verb, entries) in held.items():
                    left = []
                    for entry in entries:
                        if self._patience.get(entry[1], 0.0) > now:
                            left.append(entry)
                        elif not entry[1].done():
                            entry[1].set_exception(
                                StoreUnavailable(
                                    "this queue's slot of the cluster moves or is served by nobody; repeat"
                                )
                            )
                    if not left:
                        continue
                    owner = self._slots.owner(keys.slot)
                    if owner is None:
                        self._held[verb.name, keys] = (verb, left)
                    else:
                        self._lane(owner).take(verb, keys, left)
        finally:
            self._holding = None
