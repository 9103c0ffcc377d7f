"""The wire: what requests may say and what replies say, as msgspec types. `openapi.py` documents these very types.

Optional request members take null for absent. Unknown members are refused. Payloads, results and progress stay the
bytes that were sent.
"""

from __future__ import annotations

import atexit
import gc
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.retries import MAX_DELAY_SECONDS

_JOB_TYPE = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z"
JobType = Annotated[
    str,
    Meta(
        pattern=_JOB_TYPE,
        max_length=128,
        description="The queue: letters, digits and . _ : -",
        examples=["image_resize"],
    ),
]
JobTypes = JobType | Annotated[list[JobType], Meta(max_length=100)]
WorkerId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}\Z",
        max_length=128,
        description="Any stable name of the worker: letters, digits and . _ : @ / + -",
    ),
]
Priority = Literal["low", "normal", "high", "critical"]
GivenPriority = Annotated[
    Priority,
    Meta(description="Strict order inside a queue, first in, first out within one priority. Default: `normal`."),
]
StatusName = Literal["scheduled", "pending", "processing", "retrying", "completed", "failed", "cancelled"]
Directive = Literal["run", "drain", "stop"]
_MONTH_SECONDS = 2_592_000  # what fits into a job as 32 bits of ms
Time = Annotated[str, Meta(description="RFC 3339 in UTC with milliseconds.", extra_json_schema={"format": "date-time"})]
DelaySeconds = Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS)]
LeaseSeconds = Annotated[
    float, Meta(ge=1, le=43_200, description="How long a worker may be silent. Default: what the task says, or 30.")
]
MaxAttempts = Annotated[int, Meta(ge=1, le=1000, description="Claims that may fail or lapse. Default: 25.")]
TimeoutSeconds = Annotated[
    float, Meta(ge=1, le=_MONTH_SECONDS, description="Hard limit of one attempt, heartbeats or not. Default: none.")
]
RetentionSeconds = Annotated[
    float,
    Meta(
        ge=0,
        le=_MONTH_SECONDS,
        description="How long the finished task stays readable. Default: a day; 30 days if it failed.",
    ),
]
Token = Annotated[
    str, Meta(min_length=1, max_length=200, description="The lease token that the poll gave out with the task.")
]
TaskId = Annotated[str, Meta(min_length=1, max_length=200, description="Opaque.")]
Max = Annotated[int, Meta(ge=1, le=1000, description="Most tasks to hand out at once; never waited for.")]
Wait = Annotated[float, Meta(ge=0, le=55, description="How long to hold the request while there is no task.")]
PollId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[!-~]+\Z",
        description="Repeat a poll whose reply was lost: the same leases come back.",
    ),
]
AnyJson = Annotated[Raw, Meta(description="Any JSON value; comes back byte for byte.")]
Progress = Annotated[Raw, Meta(description="How far the attempt is: any JSON value; comes back byte for byte.")]
ErrorJson = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/TaskError"})]
ProblemJson = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/Problem"})]
_null = partial(Raw, b"null")
# msgspec up to 0.22 frees a wrong pointer with a decoder of `text with a pattern | list`: at the end of the process,
# when nothing else frees one. What is frozen is never freed.
atexit.register(gc.freeze)


class Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body."""


class Reply(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A reply body. Clients ignore members they do not know."""


# Producers


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
    payload: AnyJson = msgspec.field(default_factory=_null)
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


# Workers


class Poll(Request):
    """Ask for work. `task_type` and `job_type` are one list, in strict order of preference."""

    worker_id: WorkerId
    task_type: JobTypes | None = None
    job_type: JobTypes | None = None
    wait: Wait | None = None
    max: Max | None = None
    lease_seconds: LeaseSeconds | None = None
    poll_id: PollId | None = None


class Next(Request):
    """Poll again in the same round trip. Without types: the queue of the task just reported."""

    max: Max | None = None
    wait: Wait | None = None
    task_type: JobTypes | None = None
    job_type: JobTypes | None = None
    lease_seconds: LeaseSeconds | None = None
    poll_id: PollId | None = None


LogLines = Annotated[
    list[Annotated[str, Meta(max_length=8192)]],
    Meta(max_length=100, description="Lines for people; the last 200 of a task are kept."),
]


class Heartbeat(Request):
    """Keep the lease. `lease_seconds`: from now on that long; otherwise as before."""

    lease_token: Token
    lease_seconds: LeaseSeconds | None = None
    progress: Progress | UnsetType = UNSET
    log: LogLines | None = None


class Complete(Request):
    """The task is done."""

    lease_token: Token
    result: AnyJson = msgspec.field(default_factory=_null)
    next: Next | None = None


Retryable = Annotated[bool, Meta(description="False: no other attempt. Default: true.")]
PauseQueue = Annotated[
    float,
    Meta(gt=0, le=86_400, description="Hand nothing of this queue out for that long: its provider said to slow down."),
]
RetryIn = Annotated[
    float,
    Meta(ge=0, le=MAX_DELAY_SECONDS, description="The next attempt's wait, instead of what the task's `retry` says."),
]


class NewError(Request):
    """Why the attempt failed, in parts."""

    type: Annotated[str, Meta(max_length=256)] | None = None
    message: Annotated[str, Meta(max_length=16_384)] | None = None
    stack: Annotated[str, Meta(max_length=65_536)] | None = None
    details: AnyJson | UnsetType = UNSET


class Fail(Request):
    """The attempt failed. `retryable` false: no other attempt."""

    lease_token: Token
    error: Annotated[str, Meta(max_length=16_384)] | NewError | None = None
    retryable: Retryable | None = None
    retry_in_seconds: RetryIn | None = None
    pause_queue_seconds: PauseQueue | None = None
    next: Next | None = None


class Release(Request):
    """Give the task back, the attempt uncounted."""

    lease_token: Token
    delay_seconds: DelaySeconds | None = None


class Outcome(Request):
    """One report of a batch; members as in the single form."""

    id: TaskId
    lease_token: Token
    outcome: Literal["complete", "fail", "release"]
    result: AnyJson | UnsetType = UNSET
    error: Annotated[str, Meta(max_length=16_384)] | NewError | None = None
    retryable: Retryable | None = None
    retry_in_seconds: RetryIn | None = None
    pause_queue_seconds: PauseQueue | None = None
    delay_seconds: DelaySeconds | None = None


class Outcomes(Request):
    """Many reports at once, and the next poll."""

    worker_id: WorkerId
    outcomes: Annotated[list[Outcome], Meta(max_length=1000)]
    next: Next | None = None


class LeaseToKeep(Request):
    """One lease of a batch of heartbeats."""

    id: TaskId
    lease_token: Token
    lease_seconds: LeaseSeconds | None = None
    progress: Progress | UnsetType = UNSET
    log: LogLines | None = None


class Heartbeats(Request):
    """Keep many leases at once."""

    worker_id: WorkerId
    leases: Annotated[list[LeaseToKeep], Meta(max_length=1000)]


class PollReply(Reply):
    """At least one task."""

    tasks: list[LeasedTaskReply]


class HeartbeatReply(Reply):
    """The lease goes on for `lease_seconds`. `cancel_requested`: stop and fail or release; the task ends cancelled."""

    lease_seconds: float
    cancel_requested: bool
    directive: Directive


class ReportReply(Reply):
    """The report was accepted. `tasks`: what `next` polled."""

    id: str
    status: StatusName
    run_at: Time | None = None
    tasks: list[LeasedTaskReply] | None = None


class OutcomeResult(Reply):
    """What became of one report of a batch."""

    id: str
    status: Annotated[int, Meta(description="What this report alone would have been answered with.")]
    task_status: StatusName | None = None
    run_at: Time | None = None
    error: ProblemJson | UnsetType = UNSET


class OutcomesReply(Reply):
    """One entry per report, in order."""

    outcomes: list[OutcomeResult]
    tasks: list[LeasedTaskReply] | None = None


class LeaseResult(Reply):
    """What became of one heartbeat of a batch."""

    id: str
    status: Annotated[int, Meta(description="What this report alone would have been answered with.")]
    lease_seconds: float | None = None
    cancel_requested: bool | None = None
    error: ProblemJson | UnsetType = UNSET


class HeartbeatsReply(Reply):
    """One entry per lease, in order."""

    leases: list[LeaseResult]
    directive: Directive


class WorkerRecord(Reply):
    """A worker that polled lately."""

    id: str
    task_types: list[str]
    last_seen_at: Time
    last_seen_seconds: float
    leases: int
    directive: Directive


class WorkerList(Reply):
    """Workers seen in the last five minutes, or holding a lease."""

    workers: list[WorkerRecord]


class SignedOff(Reply):
    """The worker is gone; its leases went back."""

    id: str
    released: int


class DirectiveReply(Reply):
    """What the worker hears from now on."""

    id: str
    directive: Directive


# Operators


class QueueRecord(Reply):
    """Counts of one queue. `pending`: ready now; `scheduled`: waits for its time (also before another attempt);
    `partitions`: how many may hold its tasks."""

    job_type: str
    pending: int
    scheduled: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    max_pending: int
    oldest_pending_seconds: float
    stored_bytes: int
    totals: dict[str, int]
    paused: bool = False
    partitions: int = 1


class QueueList(Reply):
    """Every queue that ever held a task."""

    queues: list[QueueRecord]


class HealthReply(msgspec.Struct, kw_only=True):
    """Whether the gateway can serve, and the counts of all queues. `queue_depth`: tasks that wait for a worker.

    `durability`: when a change is acknowledged, see `DURABILITY`.
    """

    status: Literal["ok", "draining", "unavailable"]
    version: str
    redis: Literal["ok", "away"]
    durability: Literal["replicated", "local", "memory"]
    workers: int
    queue_depth: int
    processing: int
    scheduled: int
    failed: int
    oldest_pending_seconds: float
    open_polls: int
    warnings: list[str] = []


class LiveReply(msgspec.Struct, kw_only=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyReply(msgspec.Struct, kw_only=True):
    """Whether to send requests here. `reason` says why not."""

    status: Literal["ok", "draining", "unavailable"]
    reason: str | None = None


class Problem(msgspec.Struct, kw_only=True):
    """RFC 9457 problem document. `code` is stable: one code, one cause."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool
