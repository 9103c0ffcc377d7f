"""Partitions of a hot queue: which there are, as this process last heard, and where new tasks go.

A queue that is spread over partitions is several queues to Redis, each with a hash tag, a line and leases of its own.
Its first partition is the queue as it was before. Tasks that have a key (unique, concurrency) stand in the first one,
so that a key means what it says; all others are dealt out in turn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from gateway.queue_settings import QueueSettings
from gateway.tasks import Queue, TaskSpec

_MOST_KNOWN = 10_000


class Name(msgspec.Struct, frozen=True):
    """A task's place to be: its partition, and its name there. Spelled `<ulid>`, or `<partition>.<ulid>`."""

    partition: int
    ulid: str

    def __str__(self) -> str:
        return f"{self.partition}.{self.ulid}" if self.partition else self.ulid


def read_name(text: str) -> Name:
    """Read a name as it is spelled."""
    partition, mark, ulid = text.partition(".")
    return Name(int(partition), ulid) if mark else Name(0, text)


class Partitions:
    """What this process knows of each queue's partitions. Queues given and kept are whole ones."""

    def __init__(self) -> None:
        self._spread: dict[Queue, int] = {}
        self._noted: dict[Queue, int] = {}
        self._turn: dict[Queue, int] = {}

    def knows(self, queue: Queue) -> bool:
        """Whether anything was heard of this queue."""
        return queue in self._spread

    def heard(self, queue: Queue, spread: int) -> bool:
        """Note how many partitions may hold tasks. Returns whether these are more than were known."""
        if spread == self._spread.get(queue, 0):
            return False
        before = self._count(queue)
        if len(self._spread) >= _MOST_KNOWN:
            self._spread.clear()
            self._turn.clear()
        self._spread[queue] = spread
        return self._count(queue) > before

    def noted(self, every: Sequence[Queue]) -> list[Queue]:
        """Hear what is noted of all queues: partitions that their settings may have forgotten, and yet hold tasks.

        every: each partition that is noted. Returns the queues with more partitions than were known.
        """
        noted: dict[Queue, int] = {}
        for part in every:
            if part.partition:
                noted[part.whole] = max(noted.get(part.whole, 1), part.partition + 1)
        more = [queue for queue, spread in noted.items() if spread > self._count(queue)]
        self._noted = noted
        return more

    def _count(self, queue: Queue) -> int:
        return max(self._spread.get(queue, 1), self._noted.get(queue, 1))

    def all_of(self, queue: Queue) -> list[Queue]:
        """List the partitions that may hold tasks, in their order."""
        spread = self._count(queue)
        if spread == 1:
            return [queue]
        return [queue.part(number) for number in range(spread)]

    def in_turn(self, queue: Queue) -> list[Queue]:
        """List the partitions that may hold tasks, from any one on: whoever asks begins elsewhere."""
        parts = self.all_of(queue)
        if len(parts) == 1:
            return parts
        first = random.randrange(len(parts))
        return parts[first:] + parts[:first]

    def deal(self, queue: Queue, specs: Sequence[TaskSpec], known: QueueSettings, *, together: bool) -> list[int]:
        """Choose each new task's partition. Those of one call that have no key go to the same one.

        together: all stand or fall together, so one partition has them all.
        """
        if known.partitions == 1:
            return [0] * len(specs)
        keyed = [spec.unique is not None or spec.concurrency_key is not None for spec in specs]
        if all(keyed) or (together and any(keyed)):
            return [0] * len(specs)
        turn = self._turn.get(queue)
        turn = random.randrange(known.partitions) if turn is None else (turn + 1) % known.partitions
        self._turn[queue] = turn
        return [0 if has_key else turn for has_key in keyed]
