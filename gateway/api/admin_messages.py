"""The wire of operators: queues, API keys, tenants, probes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.messages import LeaseSeconds, MaxAttempts, Reply, Request, RetentionSeconds, Time, TimeoutSeconds
from gateway.api.task_messages import Retry, RetryRule, TaskFilter
from gateway.tasks import MAX_PARTITIONS

_DAY_SECONDS = 86_400
_MOST = 1_000_000_000
Scope = Literal["tasks:write", "tasks:read", "work", "admin"]
TenantName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
        max_length=64,
        description="Letters, digits and . _ -",
        examples=["acme"],
    ),
]
JobTypePattern = Annotated[
    str,
    Meta(
        pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9._:-]{0,127})?\*?\Z",
        min_length=1,
        max_length=129,
        description="A job_type, or a prefix and `*`.",
    ),
]
Count = Annotated[int, Meta(ge=1, le=_MOST)]
Rate = Annotated[float, Meta(ge=0.001, le=1_000_000)]
MaxPending = Annotated[Count, Meta(description="Waiting tasks; more are 503 `queue_full`. Default: TASK_QUEUE_SIZE.")]
MaxProcessing = Annotated[
    Count, Meta(description="Tasks that workers hold at a time, over all gateways. Default: any number.")
]
RatePerSecond = Annotated[
    Rate,
    Meta(description="Tasks handed out in a second, evenly, at most a tenth at once. Default: any number."),
]
MaxPerKey = Annotated[
    Count, Meta(description="How many tasks with the same `concurrency_key` run at a time. Default: 1.")
]

Partitions = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_PARTITIONS,
        description="Over how many parts new tasks are spread; order and priority hold within each. Default: 1.",
    ),
]


class QueueDefaults(Request):
    """What the queue's tasks get where their producer did not say. Tasks stored before keep what they have."""

    max_attempts: MaxAttempts | None = None
    retry: Retry | None = None
    lease_seconds: LeaseSeconds | None = None
    timeout_seconds: TimeoutSeconds | None = None
    retention_seconds: RetentionSeconds | None = None


class NewQueueSettings(Request):
    """A queue's settings. What PUT leaves out goes back to its default, what PATCH leaves out stays; null: the default.

    A pause is a state, not a setting: what says nothing of `paused` leaves it.
    """

    max_pending: MaxPending | UnsetType | None = UNSET
    max_processing: MaxProcessing | UnsetType | None = UNSET
    rate_per_second: RatePerSecond | UnsetType | None = UNSET
    max_processing_per_key: MaxPerKey | UnsetType | None = UNSET
    partitions: Partitions | UnsetType | None = UNSET
    defaults: QueueDefaults | UnsetType | None = UNSET
    paused: Annotated[bool, Meta(description="Whether nothing is handed out.")] | UnsetType | None = UNSET


class DefaultsReply(Reply):
    """What the queue's tasks get where their producer did not say."""

    max_attempts: int | None = None
    retry: RetryRule | None = None
    lease_seconds: float | None = None
    timeout_seconds: float | None = None
    retention_seconds: float | None = None


class QueueSettingsReply(msgspec.Struct, kw_only=True):
    """A queue's settings; null: no limit. `paused_until` null beside `paused`: until it is resumed."""

    job_type: str
    max_pending: int
    max_processing: int | None
    rate_per_second: float | None
    max_processing_per_key: int
    partitions: int
    defaults: DefaultsReply
    paused: bool
    paused_until: Time | None
    version: int


class Pause(Request):
    """How long to pause; nothing: until it is resumed."""

    seconds: Annotated[float, Meta(gt=0, le=365 * _DAY_SECONDS)] | None = None
    until: Annotated[str, Meta(max_length=64, description="RFC 3339 with a zone. Not beside `seconds`.")] | None = None


class Purged(Reply):
    """How many waiting tasks were forgotten."""

    purged: int


class Redrive(Request):
    """Which failed tasks to send back, and how fast: their due times are spread by the rate."""

    rate_per_second: Rate | None = None
    filter: TaskFilter | None = None
    dry_run: bool | None = None


class NewKey(Request):
    """An API key to make."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+\Z", examples=["ci"])]
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=4)]
    tenant: Annotated[TenantName, Meta(description="Yours unless you are `admin` of the default tenant.")] | None = None
    job_types: Annotated[list[JobTypePattern], Meta(min_length=1, max_length=100)] | None = None
    expires_in_seconds: (
        Annotated[float, Meta(ge=1, le=10 * 366 * _DAY_SECONDS, description="Default: it does not expire.")] | None
    ) = None


class KeyRecord(Reply):
    """An API key, without its secret."""

    id: str
    name: str
    tenant: str
    scopes: list[str]
    created_at: Time
    job_types: list[str] | None = None
    expires_at: Time | None = None
    expired: bool = False


class MadeKey(KeyRecord, omit_defaults=True, kw_only=True):
    """An API key with its secret, which is shown this once."""

    key: str


class KeyList(Reply):
    """API keys, oldest first, also those that are over."""

    keys: list[KeyRecord]


class Revoked(Reply):
    """The key that is refused from now on, by other gateways within two seconds."""

    id: str
    revoked: bool


class NewLimits(Request):
    """A tenant's own limits; what is left out, or null, is that of all tenants."""

    rate_limit_per_minute: Annotated[Count, Meta(description="Requests a minute, over all gateways.")] | None = None
    max_open_polls: Annotated[Count, Meta(description="Long polls held by one process.")] | None = None
    max_pending: Annotated[Count, Meta(description="Waiting tasks over all its queues.")] | None = None
    max_stored_bytes: (
        Annotated[int, Meta(ge=1, le=2**53, description="Bytes of payloads and results that it keeps.")] | None
    ) = None
    max_batch: Annotated[int, Meta(ge=1, le=1000, description="Tasks of a batch.")] | None = None
    max_queues: Annotated[Count, Meta(description="Queues that it may use.")] | None = None


class LimitsReply(msgspec.Struct, kw_only=True):
    """Limits in force; null: none."""

    rate_limit_per_minute: int | None
    max_open_polls: int
    max_pending: int | None
    max_stored_bytes: int | None
    max_batch: int
    max_queues: int


class TenantRecord(Reply):
    """A tenant: its limits, which of them are its own, and what it holds."""

    tenant: str
    limits: LimitsReply
    own: list[str]
    queues: int
    pending: int
    stored_bytes: int


class TenantList(Reply):
    """Every tenant that ever had a task, or has limits of its own."""

    tenants: list[str]


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
