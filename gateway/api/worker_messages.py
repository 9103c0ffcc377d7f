"""The wire of workers: polls, heartbeats, reports, and how workers are told."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.messages import (
    NULL,
    AnyJson,
    DelaySeconds,
    Directive,
    JobTypes,
    LeaseSeconds,
    Max,
    PollId,
    ProblemJson,
    Progress,
    Reply,
    Request,
    StatusName,
    TaskId,
    Time,
    Token,
    Wait,
    WorkerId,
)
from gateway.api.task_messages import LeasedTaskReply
from gateway.retries import MAX_DELAY_SECONDS


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
    result: AnyJson = msgspec.field(default_factory=NULL)
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
