"""What goes into the store's calls and what comes back, beyond the model itself."""

from __future__ import annotations

import base64
import secrets
from typing import Protocol

import msgspec

from gateway.tasks import LeasedTask, Queue, Status

_SEEDS_AT_ONCE = 128
_SEED_BYTES, _STRIDE_CHARS, _SEED_CHARS = 18, 24, 22
_seeds: list[str] = []


def _seed() -> str:
    """Make 132 random bits as text. A system call for each would cost ten times as much."""
    if not _seeds:
        text = base64.urlsafe_b64encode(secrets.token_bytes(_SEED_BYTES * _SEEDS_AT_ONCE)).decode()
        _seeds.extend(text[at : at + _SEED_CHARS] for at in range(0, len(text), _STRIDE_CHARS))
    return _seeds.pop()


class Claim(msgspec.Struct, frozen=True):
    """What one poll asks of one queue. lease_ms 0: each task's own. Its tokens start with `seed`, 132 random bits."""

    worker_id: str
    max: int
    lease_ms: int = 0
    poll_id: str = ""
    seed: str = msgspec.field(default_factory=_seed)


def anew(claim: Claim) -> Claim:
    """The same, with a seed of its own: after a call of which nobody knows what it gave out."""
    return msgspec.structs.replace(claim, seed=_seed())


class Claimed(msgspec.Struct, frozen=True):
    """What a call of `claim` gave: per poll its tasks; ready tasks left; whether this gateway stands registered.

    corrupt: tasks that nobody can be given, and why; `TaskStore.claim` ends them. fresh: of a claim of none,
    whether its poll_id was not heard of here before.
    """

    tasks: list[list[LeasedTask]]
    ready_left: int
    registered: bool
    corrupt: tuple[tuple[LeasedTask, str], ...] = ()
    fresh: bool = False


class Swept(msgspec.Struct, frozen=True):
    """What one sweep of a queue did. next_alarm_ms: when the queue needs one again (unix ms, 0: not by itself)."""

    next_alarm_ms: int
    lapsed: int
    timed_out: int
    expired: int
    promoted: int
    purged: int


class Reported(msgspec.Struct, frozen=True):
    """A report that was accepted. due_ms: when the task is due again (unix ms, 0: it is not waiting for a time)."""

    status: Status
    worker_id: str = ""
    due_ms: int = 0


class Held(msgspec.Struct, frozen=True):
    """The task that holds the unique key that another one asked for."""

    task_id: str


class Granted(msgspec.Struct, frozen=True):
    """What a rate limit says to one request. stored: further requests that this process may let in by itself.

    left: in the bucket; wait_ms: when to ask again; full_ms: until the bucket is full.
    """

    ok: bool
    stored: int
    left: int
    wait_ms: int
    full_ms: int


class StaleSettings(Exception):
    """The queue's settings changed since this process read them. Nothing was done; read them and try again.

    version: of what stands there (0: not told).
    """

    def __init__(self, version: int = 0) -> None:
        super().__init__(version)
        self.version = version


class Kept(msgspec.Struct, frozen=True):
    """A lease that goes on for lease_ms."""

    lease_ms: int
    cancel_requested: bool
    worker_id: str


class Listener(Protocol):
    """Who wants to hear what the store's replies tell in passing."""

    def ready(self, queue: Queue, tasks: int) -> None:
        """So many tasks became ready that this gateway should claim."""

    def alarm(self, queue: Queue, at_ms: int) -> None:
        """The queue will need a sweep then (unix ms, the store's clock)."""

    def spread(self, queue: Queue, partitions: list[Queue]) -> None:
        """The queue may have tasks in these partitions, more than were known."""

    def count(self, name: str, number: int) -> None:
        """An outcome to add to the metrics."""

    def dispatched(self, waited_ms: int) -> None:
        """A task was handed out so long after it became ready."""


class Nobody:
    """A listener that does not care."""

    def ready(self, queue: Queue, tasks: int) -> None: ...

    def alarm(self, queue: Queue, at_ms: int) -> None: ...

    def spread(self, queue: Queue, partitions: list[Queue]) -> None: ...

    def count(self, name: str, number: int) -> None: ...

    def dispatched(self, waited_ms: int) -> None: ...
