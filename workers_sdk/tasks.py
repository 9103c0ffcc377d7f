"""Tasks as the gateway tells of them. Members that this version does not know are ignored.

What their states mean: docs/protocol.md, Life of a task.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Required, TypedDict, TypeVar

import msgspec
from msgspec import Raw

Priority = Literal["low", "normal", "high", "critical"]
FINAL = frozenset({"completed", "failed", "cancelled"})
_NULL = Raw(b"null")
_Type = TypeVar("_Type")


class TaskError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt failed. details_json: the bytes as they were sent; `details` decodes them."""

    type: str = ""
    message: str = ""
    stack: str | None = None
    details_json: Raw = msgspec.field(name="details", default=_NULL)

    @property
    def details(self) -> Any:
        """What else the worker told of it."""
        return msgspec.json.decode(self.details_json)


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that is over. outcome: completed, failed, lapsed, ..."""

    attempt: int
    worker_id: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: str = ""
    error: TaskError | None = None


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line that a worker wrote."""

    at: datetime
    attempt: int
    line: str


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it stood when the gateway answered.

    status: `completed`, `failed` and `cancelled` are final. attempt: claims so far that were not released.
    payload_json, result_json, progress_json: the bytes as they were sent; `payload`, `result` and `progress` decode
    them.
    """

    id: str
    job_type: str
    status: str
    payload_json: Raw = msgspec.field(name="payload", default=_NULL)
    result_json: Raw = msgspec.field(name="result", default=_NULL)
    progress_json: Raw = msgspec.field(name="progress", default=_NULL)
    attempt: int = 0
    max_attempts: int = 0
    title: str | None = None
    description: str | None = None
    priority: str = "normal"
    tags: dict[str, str] | None = None
    concurrency_key: str | None = None
    unique_key: str | None = None
    retry: RetryRule | None = None
    created_at: datetime | None = None
    run_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: TaskError | None = None
    worker_id: str | None = None
    cancel_requested: bool = False
    attempts: list[Attempt] | None = None
    log: list[LogLine] | None = None
    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def payload(self) -> Any:
        """What the producer sent."""
        return msgspec.json.decode(self.payload_json)

    @property
    def result(self) -> Any:
        """What the worker completed with; None before that."""
        return msgspec.json.decode(self.result_json)

    @property
    def progress(self) -> Any:
        """What the worker said last of how far it is."""
        return msgspec.json.decode(self.progress_json)

    @property
    def final(self) -> bool:
        """Whether only an operator's or producer's `retry` moves it on."""
        return self.status in FINAL

    def result_as(self, type: type[_Type]) -> _Type:
        """Decode the result as a msgspec Struct, dataclass, TypedDict, ... Raises msgspec.ValidationError."""
        return msgspec.json.decode(self.result_json, type=type)


class LeasedTask(Task, frozen=True, kw_only=True):
    """A task in a worker's hands."""

    lease_token: str
    lease_seconds: float
    heartbeat_seconds: float = 0.0

    def __repr__(self) -> str:
        """Without the token, which must not end up in a log."""
        return f"LeasedTask(id={self.id!r}, job_type={self.job_type!r}, attempt={self.attempt})"


class RetryRule(TypedDict, total=False):
    """How long to wait between attempts. delays_seconds wins; its last entry is repeated."""

    backoff: Literal["exponential", "linear", "fixed"]
    base_seconds: float
    factor: float
    max_seconds: float
    jitter: bool
    delays_seconds: list[float]


class TaskOptions(TypedDict, total=False):
    """The members of a new task beside its type and payload. Meanings and defaults: docs/protocol.md, NewTask."""

    title: str
    description: str
    priority: Priority
    delay_seconds: float
    run_at: datetime | str
    max_attempts: int
    retry: RetryRule
    lease_seconds: float
    timeout_seconds: float
    expires_in_seconds: float
    retention_seconds: float
    concurrency_key: str
    unique_key: str
    unique_until: Literal["started", "finished"] | float
    on_conflict: Literal["return", "reject", "replace"]
    tags: dict[str, str]


class NewTask(TaskOptions, total=False):
    """A task for `enqueue_many`."""

    job_type: Required[str]
    payload: Any
