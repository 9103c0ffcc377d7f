"""The parts of the model: a task and its place, a lease, an ending, what a poll got, a gateway that waits."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from gateway.tasks import Attempt, LogLine, Status, TaskSpec, Unique

Rank = tuple[int, int]


@dataclass
class HeldLease:
    """Who holds a task, and until when. deadline_ms 0: the attempt has none. expires_at_ms: by when it had to start."""

    token: str
    worker_id: str
    started_at_ms: int
    lease_ms: int
    rank: Rank
    attempt: int
    deadline_ms: int
    ends_at_ms: int
    cancel_requested: bool = False
    spoke: bool = False
    expires_at_ms: int | None = None


@dataclass
class Ending:
    """How a task ended. started 0: it never did."""

    status: Status
    token: str
    attempt: int
    worker_id: str
    started_at_ms: int
    finished_at_ms: int
    code: str
    result: bytes | None
    error: bytes | None
    record_until_ms: int


@dataclass
class ModelTask:
    """A task. It stands in exactly one place: `rank` (ready), `due_ms` (waits for its time), `lease`, or `ending`.

    held: ready, but its concurrency key was found used up.
    """

    id: str
    ulid: str
    spec: TaskSpec
    created_at_ms: int
    rank: Rank | None = None
    held: bool = False
    due_ms: int | None = None
    lease: HeldLease | None = None
    ending: Ending | None = None
    attempts: int = 0
    expires_at_ms: int | None = None
    history: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    progress: bytes | None = None
    error: bytes | None = None
    last: tuple[str, str, str, int, str] | None = None
    told_due_ms: int | None = None
    log: list[LogLine] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether it is ready or waits for its time."""
        return self.rank is not None or self.due_ms is not None

    @property
    def keyed(self) -> str | None:
        """The unique key that it lets go of itself, rather than time."""
        unique = self.spec.unique
        return unique.key if unique is not None and not unique.for_ms else None

    @property
    def has_trail(self) -> bool:
        """Whether anything happened to it beyond the straight way."""
        return bool(self.history or self.progress or self.error or self.last or self.told_due_ms is not None)

    def to(
        self,
        *,
        rank: Rank | None = None,
        due_ms: int | None = None,
        lease: HeldLease | None = None,
        ending: Ending | None = None,
    ) -> None:
        """Move it to its new and only place."""
        self.held = False
        self.rank, self.due_ms, self.lease, self.ending = rank, due_ms, lease, ending

    def status(self, now_ms: int) -> Status:
        """Where it stands."""
        if self.ending is not None:
            return self.ending.status
        if self.lease is not None:
            return Status.PROCESSING
        if self.due_ms is not None and self.due_ms > now_ms:
            return Status.RETRYING if self.attempts else Status.SCHEDULED
        return Status.PENDING


@dataclass
class GivenToPoll:
    """What a poll_id got."""

    leases: list[tuple[str, str]]
    until_ms: int
    recalled: bool = False


@dataclass
class Registration:
    """A gateway that has polls waiting."""

    waits_since_ms: int
    polls: int
    at_ms: int


def normal(spec: TaskSpec) -> TaskSpec:
    """A spec as it is read back: what a key's end by time leaves is Redis's business, a conflict is over."""
    spec = msgspec.structs.replace(spec, unsaid=0)
    if spec.unique is None:
        return spec
    unique = Unique(spec.unique.key, for_ms=1) if spec.unique.for_ms else Unique(spec.unique.key, spec.unique.until)
    return msgspec.structs.replace(spec, unique=unique)


def words(kind: str, message: str) -> bytes:
    """The error that a script writes itself."""
    return b'{"type":"%s","message":"%s"}' % (kind.encode(), message.encode())
