"""Hears rings in a cluster: sharded pub/sub, one subscription for each queue that this gateway waits on.

A ring is published by the queue's script, so its channel has the queue's tag and belongs to the queue's node; that
node knows whether anybody hears it. A subscription begins after the first claim asked for it: what was rung before
it stood is made up for by one look at the queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MovedError, RedisError, ResponseError

from gateway.store.cluster import Slots
from gateway.store.keys import Keys
from gateway.store.location import Address
from gateway.store.wakeups import Bells, Hearing
from gateway.tasks import Queue

log = logging.getLogger("gateway.store")
_LOOK_SECONDS = 1.0
_SILENCE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0
_FORGET_SECONDS = 900.0


class _Wanted(msgspec.Struct):
    """A queue whose rings are wanted: its channel and slot, when it was last asked for, and where it is subscribed."""

    queue: Queue
    channel: bytes
    slot: int
    used_at: float
    node: Address | None = None


class ShardWakeups:
    """Listens on a channel for each queue and rings `bells`; follows slots from node to node by itself."""

    def __init__(self, slots: Slots, keys: Keys, gateway: str, bells: Bells) -> None:
        self._slots = slots
        self._keys = keys
        self._gateway = gateway
        self._bells = bells
        self._hearing = Hearing(keys, bells)
        self._wanted: dict[Queue, _Wanted] = {}
        self._by_channel: dict[bytes, _Wanted] = {}
        self._connections: dict[Address, AbstractConnection] = {}
        self._changed = asyncio.Event()
        slots.on_change.append(self._changed.set)

    def expect(self, queue: Queue) -> None:
        """Hear this queue's rings from now on."""
        wanted = self._wanted.get(queue)
        now = asyncio.get_running_loop().time()
        if wanted is not None:
            wanted.used_at = now
            return
        keys = self._keys.of(queue)
        channel = self._keys.ring_channel(self._gateway, keys.tag).encode()
        wanted = self._wanted[queue] = self._by_channel[channel] = _Wanted(queue, channel, keys.slot, now)
        self._changed.set()

    async def run(self) -> None:
        """Listen for ever. Cancel it to stop."""
        listening: dict[Address, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                if not self._slots.nodes:
                    await self._slots.read()
                for node in self._slots.nodes - listening.keys():
                    listening[node] = asyncio.create_task(self._listen(node))
                for node in listening.keys() - self._slots.nodes:
                    listening.pop(node).cancel()
                await self._subscribe()
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            for task in listening.values():
                task.cancel()
            await asyncio.gather(*listening.values(), return_exceptions=True)

    async def _subscribe(self) -> None:
        """Subscribe each queue where its slot is now; let go of those that nobody asked for in a long time."""
        now = asyncio.get_running_loop().time()
        for wanted in list(self._wanted.values()):
            node = self._slots.owner(wanted.slot)
            if wanted.used_at < now - _FORGET_SECONDS:
                del self._wanted[wanted.queue], self._by_channel[wanted.channel]
                await self._send(wanted.node, b"SUNSUBSCRIBE", wanted.channel)
            elif node != wanted.node:
                await self._send(wanted.node, b"SUNSUBSCRIBE", wanted.channel)
                wanted.node = node if await self._send(node, b"SSUBSCRIBE", wanted.channel) else None

    async def _send(self, node: Address | None, *words: bytes) -> bool:
        connection = self._connections.get(node) if node is not None else None
        if connection is None:
            return False
        try:
            await connection.send_command(*words, check_health=False)
        except (RedisError, OSError):
            return False
        return True

    async def _listen(self, node: Address) -> None:
        pause, told = _FIRST_PAUSE_SECONDS, False
        while True:
            connection = self._slots.connection(node)
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
                    await connection.send_command("SUBSCRIBE", self._keys.directive_channel)
                self._connections[node] = connection
                pause, told = _FIRST_PAUSE_SECONDS, False
                self._bells.resumed()
                self._changed.set()
                await self._hear(node, connection)
            except (RedisError, OSError, TimeoutError) as error:
                if not told:
                    log.warning("no wake-up connection to a node; trying again", extra={"error": str(error)[:200]})
                    told = True
            finally:
                self._connections.pop(node, None)
                for wanted in self._wanted.values():
                    if wanted.node == node:
                        wanted.node = None
                await connection.disconnect(nowait=True)
            self._slots.doubt()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _hear(self, node: Address, connection: AbstractConnection) -> None:
        """Read until the connection breaks, or is silent although it was pinged."""
        pinged = False
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    kind, *rest = await connection.read_response(disable_decoding=True)
            except TimeoutError:
                if pinged:
                    raise
                await connection.send_command("PING", check_health=False)
                pinged = True
                continue
            except MovedError as error:
                self._lose(error.slot_id, node)
                self._slots.moved(error.slot_id, (error.host, error.port))
                continue
            except ResponseError as error:
                # CLUSTERDOWN, or a right that is missing: which channel it was about is not said.
                log.warning("a subscription was refused", extra={"error": str(error)[:200]})
                raise
            pinged = False
            self._understand(node, kind, rest)

    def _understand(self, node: Address, kind: bytes, rest: list[Any]) -> None:
        if kind == b"smessage":
            self._hearing.ring(rest[1])
        elif kind == b"message":
            self._bells.directives_changed()
        elif kind == b"ssubscribe":
            wanted = self._by_channel.get(rest[0])
            if wanted is not None:
                self._bells.heard(wanted.queue)
        elif kind == b"sunsubscribe":
            # We asked for it, or the slot went away.
            wanted = self._by_channel.get(rest[0])
            if wanted is not None and wanted.node == node:
                self._lose(wanted.slot, node)
                self._slots.doubt()

    def _lose(self, slot: int, node: Address) -> None:
        for wanted in self._wanted.values():
            if wanted.slot == slot and wanted.node == node:
                wanted.node = None
