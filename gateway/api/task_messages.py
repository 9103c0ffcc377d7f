"""The wire of tasks: what producers send, and how a task is told."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.messages import (
    NULL,
    AnyJson,
    DelaySeconds,
    ErrorJson,
    GivenPriority,
    JobType,
    LeaseSeconds,
    MaxAttempts,
    Priority,
    ProblemJson,
    Progress,
    Reply,
    Request,
    RetentionSeconds,
    StatusName,
    Time,
    TimeoutSeconds,
    WorkerId,
)
from gateway.retries import MAX_DELAY_SECONDS


class Retry(Request):
    """How long to wait before the next attempt. `delays_seconds` wins over the backoff; its last entry is repeated."""

    backoff: (
        Annotated[Literal["exponential", "linear", "fixed"], Meta(description="Default: `exponential`.")] | None
    ) = None
    base_seconds: Annotated[float, Meta(ge=0, le=86_400, description="The first wait. Default: 1.")] | None = None
    factor: (
        Annotated[
            float, Meta(ge=1, le=100, description="Exponential: each wait is that many times the last. Default: 2.")
        ]
        | None
    ) = None
    max_seconds: (
        Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS, description="No wait is longer. Default: 3600.")] | None
    ) = None
    jitter: (
        Annotated[bool, Meta(description="Spread the waits, so that retries do not come in herds. Default: true.")]
        | None
    ) = None
    delays_seconds: (
        Annotated[list[DelaySeconds], Meta(min_length=1, max_length=1000, description="Exactly these waits.")] | None
    ) = None


Tags = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f:]+\Z")],
        Annotated[str, Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*\Z")],
    ],
    Meta(max_length=16, description="String to string; lists filter on them."),
]


class NewTask(Request):
    """A task to enqueue. `job_type` may be left out when a `title` is given; `type` is another spelling of it."""

    job_type: JobType | None = None
    type: JobType | None = None
    payload: AnyJson = msgspec.field(default_factory=NULL)
    title: (
        Annotated[str, Meta(min_length=1, max_length=512, description="For people: what lists and pages show.")] | None
    ) = None
    description: Annotated[str, Meta(max_length=16_384, description="For people.")] | None = None
    priority: GivenPriority | None = None
    delay_seconds: (
        Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS, description="Not handed out earlier. Not beside `run_at`.")]
        | None
    ) = None
    run_at: (
        Annotated[
            str,
            Meta(
                max_length=64,
                description="Not handed out earlier. RFC 3339, with a zone. Not beside `delay_seconds`.",
                examples=["2030-01-31T08:00:00Z"],
            ),
        ]
        | None
    ) = None
    max_attempts: MaxAttempts | None = None
    retry: Retry | None = None
    lease_seconds: LeaseSeconds | None = None
    timeout_seconds: TimeoutSeconds | None = None
    expires_in_seconds: (
        Annotated[
            float,
            Meta(
                gt=0, le=MAX_DELAY_SECONDS, description="Not started by then: failed, code `expired`. Default: never."
            ),
        ]
        | None
    ) = None
    retention_seconds: RetentionSeconds | None = None
    concurrency_key: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                pattern=r"^[^\x00-\x1f\x7f]+\Z",
                description="Tasks of the queue with the same key run one at a time, or as many as its settings say.",
            ),
        ]
        | None
    ) = None
    tags: Tags | None = None
    unique_key: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=255,
                pattern=r"^[^\x00-\x1f\x7f]+\Z",
                description="At most one task of the queue holds it. Another one meets `on_conflict`.",
            ),
        ]
        | None
    ) = None
    unique_until: (
        Literal["started", "finished"]
        | Annotated[
            float, Meta(ge=0.001, le=MAX_DELAY_SECONDS, description="Seconds from the enqueue, whatever becomes of it.")
        ]
        | None
    ) = None
    on_conflict: (
        Annotated[Literal["return", "reject", "replace"], Meta(description="What a second task with the key meets.")]
        | None
    ) = None


class PatchTask(Request):
    """Changes to a waiting task. Without `run_at` and `delay_seconds` its time stays; `delay_seconds` 0: now."""

    priority: GivenPriority | None = None
    run_at: (
        Annotated[str, Meta(max_length=64, description="RFC 3339, with a zone. Not beside `delay_seconds`.")] | None
    ) = None
    delay_seconds: (
        Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS, description="From now on. Not beside `run_at`.")] | None
    ) = None
    tags: Tags | None = None
    payload: AnyJson | UnsetType = UNSET


class TaskFilter(Request):
    """Which tasks a bulk request means: those for which all of it is true."""

    status: StatusName | Annotated[list[StatusName], Meta(min_length=1, max_length=7)] | None = None
    job_type: JobType | None = None
    tags: Tags | None = None
    worker_id: WorkerId | None = None
    created_after: Annotated[str, Meta(max_length=64)] | None = None
    created_before: Annotated[str, Meta(max_length=64)] | None = None


class Bulk(Request):
    """Do something to many tasks. An empty filter means all of them. `dry_run`: only count."""

    filter: TaskFilter
    dry_run: bool = False


class BulkReply(Reply):
    """How many tasks the filter met, and how many changed. `more`: it met more than could be changed at once."""

    matched: int
    changed: int
    more: bool = False


class TaskError(Reply):
    """Why an attempt failed."""

    type: str = ""
    message: str = ""
    stack: str | None = None
    details: AnyJson | UnsetType = UNSET


class AttemptRecord(Reply):
    """One attempt of a task that is over."""

    attempt: int
    worker_id: str
    started_at: Time
    finished_at: Time
    outcome: Annotated[
        str,
        Meta(
            description="How it ended.", examples=["completed", "failed", "lapsed", "timeout", "released", "cancelled"]
        ),
    ]
    error: ErrorJson | UnsetType = UNSET


class LogRecord(Reply):
    """One log line a worker sent."""

    at: Time
    attempt: int
    line: str


class RetryRule(Reply):
    """The retry rule of a task, as it is in force."""

    backoff: str | None = None
    base_seconds: float | None = None
    factor: float | None = None
    max_seconds: float | None = None
    jitter: bool | None = None
    delays_seconds: list[float] | None = None


class TaskReply(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A task as it stands. Absent facts are left out."""

    id: Annotated[str, Meta(description="Opaque, URL-safe, at most 200 characters.")]
    job_type: str
    status: StatusName
    payload: AnyJson
    job_id: Annotated[str, Meta(description="The id again, under /api/v1/jobs.")] | None = None
    title: str | None = None
    description: str | None = None
    priority: Priority
    tags: dict[str, str] | None = None
    created_at: Time
    run_at: Time | None = None
    started_at: Time | None = None
    finished_at: Time | None = None
    completed_at: Annotated[Time, Meta(description="`finished_at` again, under /api/v1/jobs.")] | None = None
    concurrency_key: str | None = None
    unique_key: str | None = None
    attempt: Annotated[int, Meta(description="Claims so far that were not released.")]
    max_attempts: int
    retry: RetryRule | None = None
    progress: Progress | UnsetType = UNSET
    result: AnyJson | UnsetType = UNSET
    error: ErrorJson | UnsetType = UNSET
    worker_id: str | None = None
    cancel_requested: Annotated[bool, Meta(description="Its worker hears of it in its next heartbeat.")] | None = None
    attempts: list[AttemptRecord] | None = None
    log: list[LogRecord] | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class LeasedTaskReply(TaskReply, omit_defaults=True, kw_only=True):
    """A task in a worker's hands. Durations count from the moment the reply is read."""

    lease_token: Annotated[str, Meta(description="Goes into every report on this attempt. Secret.")]
    lease_seconds: Annotated[float, Meta(description="Without a heartbeat, the task is someone else's after that.")]
    heartbeat_seconds: Annotated[float, Meta(description="How often to send a heartbeat: a third of the lease.")]


class TaskList(Reply):
    """A page of tasks, newest first. No `next_cursor`: the last page."""

    tasks: list[TaskReply]
    next_cursor: str | None = None


class ItemResult(Reply):
    """What became of one item of a batch: a task, or a problem."""

    status: Annotated[int, Meta(description="What this item alone would have been answered with.")]
    task: TaskReply | UnsetType = UNSET
    error: ProblemJson | UnsetType = UNSET


class ItemResults(Reply):
    """Not all stored: one entry per item, in order."""

    results: list[ItemResult]


class TaskBatch(Reply):
    """All stored: the tasks, in order."""

    tasks: list[TaskReply]
