"""Task, TaskSpec, Status and the transition table. No I/O.

A task is one job of one queue (tenant and job_type). Its public id is `<job_type>~<ulid>`; a task that a plain arq
producer made is `<job_type>~~<base64url of arq's job id>`. In a further partition of its queue the number of that and
a point stand in front: `<job_type>~3.<ulid>`. Clients do not parse it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from enum import StrEnum
from typing import Literal

import msgspec

from gateway.retries import DEFAULT_RETRY, RetryPolicy

# Each name's form, and the same in words for whoever got it wrong.
JOB_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
JOB_TYPE_RULE = "a job_type is 1 to 128 letters, digits and . _ : - and begins with a letter or digit"
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TENANT_RULE = "a tenant is 1 to 64 letters, digits and . _ - and begins with a letter or digit"
WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
WORKER_ID_RULE = "a worker_id is 1 to 128 letters, digits and . _ : @ / + - and begins with a letter or digit"
ID = re.compile(r"[A-Za-z0-9._:~-]{1,200}")
ID_RULE = "an id is 1 to 200 letters, digits and . _ : ~ -"
DEFAULT_TENANT = "default"
DEFAULT_JOB_TYPE = "default"
PRIORITIES = ("critical", "high", "normal", "low")
MAX_ID_CHARS = 200
ULID_CHARS = 26
MAX_PARTITIONS = 32


class Status(StrEnum):
    """Where a task stands. The comment says who moves it on."""

    SCHEDULED = "scheduled"  # waits for its run_at; the sweep moves it on
    PENDING = "pending"  # ready; a poll takes it
    PROCESSING = "processing"  # leased to a worker; its report, or the end of its lease, moves it on
    RETRYING = "retrying"  # failed once at least, waits for its next attempt; the sweep moves it on
    COMPLETED = "completed"  # final
    FAILED = "failed"  # final; an operator may send it back
    CANCELLED = "cancelled"  # final; an operator may send it back


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
_WAITING = (Status.SCHEDULED, Status.PENDING, Status.RETRYING)

# verb -> state before -> states after. What is not here is refused and changes nothing.
TRANSITIONS: dict[str, dict[Status, frozenset[Status]]] = {
    "promote": {Status.SCHEDULED: frozenset({Status.PENDING}), Status.RETRYING: frozenset({Status.PENDING})},
    "claim": {Status.PENDING: frozenset({Status.PROCESSING, Status.FAILED})},
    "heartbeat": {Status.PROCESSING: frozenset({Status.PROCESSING})},
    "complete": {Status.PROCESSING: frozenset({Status.COMPLETED})},
    "fail": {
        Status.PROCESSING: frozenset({Status.RETRYING, Status.PENDING, Status.FAILED, Status.CANCELLED}),
    },
    "release": {Status.PROCESSING: frozenset({Status.PENDING, Status.SCHEDULED, Status.RETRYING, Status.CANCELLED})},
    "expire": {
        Status.PROCESSING: frozenset({Status.PENDING, Status.FAILED, Status.CANCELLED}),
        Status.SCHEDULED: frozenset({Status.FAILED, Status.PENDING}),
        Status.PENDING: frozenset({Status.FAILED}),
        Status.RETRYING: frozenset({Status.PENDING, Status.FAILED}),
    },
    "cancel": {
        **{state: frozenset({Status.CANCELLED}) for state in _WAITING},
        Status.PROCESSING: frozenset({Status.PROCESSING}),
    },
    "retry": {Status.FAILED: frozenset({Status.PENDING}), Status.CANCELLED: frozenset({Status.PENDING})},
}


class Unique(msgspec.Struct, frozen=True):
    """At most one task of its queue holds `key`, until it is started or finished, or for so many ms from its enqueue.

    on_conflict: what a second one meets: `return` the first, `reject`, or `replace` the first while it waits.
    """

    key: str
    until: Literal["started", "finished"] = "finished"
    for_ms: int = 0
    on_conflict: Literal["return", "reject", "replace"] = "return"


class TaskSpec(msgspec.Struct, frozen=True):
    """A task as a producer asked for it, checked. Durations in ms; `run_at_ms` is unix time.

    Exactly one of delay_ms (from the store's now) and run_at_ms counts; both 0: at once.
    timeout_ms, expires_in_ms: 0 means none. failed_retention_ms: how long a failed one stays.
    concurrency_key: as many tasks with the same one run at a time as the queue's settings say. unsaid: which members
    the producer left out (bits of `Unsaid`, queue_settings.py), so that the queue's defaults can take their place.
    """

    job_type: str
    payload: bytes = b"null"
    title: str | None = None
    description: str | None = None
    priority: int = 2
    tags: dict[str, str] = {}
    delay_ms: int = 0
    run_at_ms: int = 0
    max_attempts: int = 25
    retry: RetryPolicy = DEFAULT_RETRY
    lease_ms: int = 30_000
    timeout_ms: int = 0
    expires_in_ms: int = 0
    retention_ms: int = 86_400_000
    failed_retention_ms: int = 2_592_000_000
    traceparent: str | None = None
    tracestate: str | None = None
    unique: Unique | None = None
    concurrency_key: str | None = None
    unsaid: int = 0


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a task's history. Times are unix ms; error is raw JSON. outcome: failed, lapsed, timeout, .."""

    attempt: int
    worker_id: str
    started_at_ms: int
    finished_at_ms: int
    outcome: str
    error: bytes | None = None


class LogLine(msgspec.Struct, frozen=True):
    """One log line that a worker sent with a heartbeat. `at_ms`: when it arrived."""

    at_ms: int
    attempt: int
    line: str


class Task(msgspec.Struct, frozen=True):
    """A task as it stands at one moment. Times are unix ms (0: not yet); payload, progress, result, error are raw JSON.

    spec holds what the producer asked; for tasks of plain arq producers it is arq's call as a payload.
    """

    id: str
    status: Status
    spec: TaskSpec
    created_at_ms: int
    run_at_ms: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    attempt: int = 0
    worker_id: str | None = None
    progress: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    cancel_requested: bool = False
    attempts: tuple[Attempt, ...] = ()
    log: tuple[LogLine, ...] = ()
    gone_at_ms: int = 0


class LeasedTask(msgspec.Struct, frozen=True):
    """A task handed to a worker. token: fences its reports; lease_ms: how long the worker may be silent from now."""

    task: Task
    token: str
    lease_ms: int


class Lease(msgspec.Struct, frozen=True):
    """Who holds a task."""

    task_id: str
    token: str
    worker_id: str
    started_at_ms: int
    ends_at_ms: int


class Queue(msgspec.Struct, frozen=True):
    """A tenant's queue: every job_type is one. partition: 0 is the queue itself; a hot one has further ones."""

    tenant: str
    job_type: str
    partition: int = 0

    def part(self, number: int) -> Queue:
        """One partition of the queue that this is a partition of; 0: the first."""
        return Queue(self.tenant, self.job_type, number)

    @property
    def whole(self) -> Queue:
        """The queue that this is a partition of."""
        return Queue(self.tenant, self.job_type) if self.partition else self


_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)


class Ulids:
    """Makes ULIDs: 48 bits of unix ms and 80 random ones, in Crockford's base32, lower case, 26 characters.

    Ids of one object rise strictly, also inside one ms, so that lists keep the order of a batch.
    Source: github.com/ulid/spec.
    """

    def __init__(self) -> None:
        self._last_ms = 0
        self._tail = 0
        self._start = _spell(0, 40)
        self._steps: list[int] = []

    def make(self, now_ms: int | None = None) -> str:
        """Make the next id. now_ms: the store's clock, as far as it is known."""
        at_ms = int(time.time() * 1000) if now_ms is None else now_ms
        if at_ms > self._last_ms:
            self._last_ms = at_ms
            self._tail = int.from_bytes(os.urandom(10)) & ((1 << 79) - 1)
            self._start = _spell(at_ms, 40)
        else:
            if not self._steps:
                # A system call for each id would cost as much as all the rest of it.
                self._steps = list(memoryview(os.urandom(1024)).cast("I"))
            self._tail += 1 + self._steps.pop()
        return self._start + _spell(self._tail, 70)


def _spell(number: int, shift: int) -> str:
    pairs = _PAIRS
    return "".join([pairs[(number >> at) & 1023] for at in range(shift, -1, -10)])


class IdParts(msgspec.Struct, frozen=True):
    """A public id read: rest is a ULID, or arq's job id where `plain`."""

    job_type: str
    rest: str
    plain: bool = False
    partition: int = 0


_PARTITION_OF_TAG = re.compile(r"/([0-9]+)\}")
_PARTITION_OF_ID = re.compile(r"([1-9][0-9]?)\.")


def public_id(job_type: str, arq_id: str, tag: str) -> str:
    """Spell the id that clients see. tag: the hash tag of the queue's partition; ids made here are it and a ULID."""
    part = ""
    if "/" in tag and (found := _PARTITION_OF_TAG.fullmatch(tag, tag.rindex("/"))):
        part = f"{found[1]}."
    if len(arq_id) == len(tag) + ULID_CHARS and arq_id.startswith(tag):
        name = arq_id[len(tag) :]
        # A plain arq producer may have put anything of that length there.
        if name.isascii() and name.isalnum():
            return f"{job_type}~{part}{name}"
    encoded = base64.urlsafe_b64encode(arq_id.encode("utf-8", "surrogateescape")).decode().rstrip("=")
    return f"{job_type}~{part}~{encoded}"


def split_id(task_id: str) -> IdParts | None:
    """Read a public id. None: no task can have it."""
    job_type, mark, rest = task_id.partition("~")
    if not mark or not JOB_TYPE.fullmatch(job_type):
        return None
    partition = 0
    if "." in rest and (found := _PARTITION_OF_ID.match(rest)):
        partition, rest = int(found[1]), rest[found.end() :]
    if not rest or partition >= MAX_PARTITIONS:
        return None
    if not rest.startswith("~"):
        return IdParts(job_type, rest, False, partition) if "~" not in rest else None
    try:
        decoded = base64.b64decode(rest[1:] + "=" * (-len(rest[1:]) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if not decoded or base64.urlsafe_b64encode(decoded).decode().rstrip("=") != rest[1:]:
        return None
    return IdParts(job_type, decoded.decode("utf-8", "surrogateescape"), True, partition)


def is_final(status: Status) -> bool:
    """Whether nothing but an operator's retry moves this state on."""
    return status in FINAL
