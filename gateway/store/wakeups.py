"""Hears rings: one subscription per process, however many polls it holds."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.store.keys import Keys
from gateway.tasks import Queue

log = logging.getLogger("gateway.store")
_SILENCE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 1.0


class Bells(Protocol):
    """Who is rung."""

    def ready(self, queue: Queue, tasks: int) -> None:
        """So many tasks of a queue are ready for this gateway."""

    def final(self, arq_id: bytes) -> None:
        """A watched task is final."""

    def heard(self, queue: Queue) -> None:
        """A queue's rings are heard from now on; some before may have been missed."""

    def directives_changed(self) -> None:
        """Some worker's directive changed."""

    def resumed(self) -> None:
        """Rings may have been missed: look everywhere once."""


class Hearing:
    """Understands what is rung."""

    def __init__(self, keys: Keys, bells: Bells) -> None:
        self._keys = keys
        self._bells = bells
        self._actions: dict[bytes, Callable[[bytes], None]] = {b"ready": self._ready, b"final": self._final}

    def ring(self, data: bytes) -> None:
        """Ring the bells for one message of a script."""
        word, _, rest = data.partition(b" ")
        action = self._actions.get(word)
        if action is None:
            log.warning("heard an unknown ring", extra={"word": word[:20].decode(errors="replace")})
            return
        action(rest)

    def _ready(self, rest: bytes) -> None:
        number, _, tag = rest.partition(b" ")
        queue = self._keys.queue_of(tag.decode())
        if queue is not None:
            self._bells.ready(queue, int(number))

    def _final(self, rest: bytes) -> None:
        self._bells.final(rest)


class Wakeups:
    """Listens on this gateway's channel and rings `bells`; reconnects by itself."""

    def __init__(self, redis: Redis, keys: Keys, gateway: str, bells: Bells) -> None:
        self._redis = redis
        self._keys = keys
        self._channel = keys.ring_channel(gateway)
        self._bells = bells
        self._hearing = Hearing(keys, bells)

    def expect(self, queue: Queue) -> None:
        """Hear this queue's rings. One channel has them all."""

    async def run(self) -> None:
        """Listen for ever. Cancel it to stop."""
        pause, told = 0.05, False
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel, self._keys.directive_channel)
                    pause, told = 0.05, False
                    self._bells.resumed()
                    while True:
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=_SILENCE_SECONDS)
                        if message is None:
                            # Silence may mean a dead connection: a ping that fails breaks the loop.
                            await pubsub.ping()
                        elif message["type"] == "message":
                            self._hear(message["channel"], message["data"])
            except (RedisError, OSError, TimeoutError) as error:
                if not told:
                    # Once per outage; a gateway may also start before its Redis.
                    log.warning("no wake-up connection to Redis; trying again", extra={"error": str(error)[:200]})
                    told = True
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _hear(self, channel: bytes, data: bytes) -> None:
        if channel == self._keys.directive_channel.encode():
            self._bells.directives_changed()
        else:
            self._hearing.ring(data)
