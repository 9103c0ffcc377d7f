"""The wire: what several requests and replies are made of, as msgspec types. `openapi.py` documents these very types.

Optional request members take null for absent. Unknown members are refused. Payloads, results and progress stay the
bytes that were sent.
"""

from __future__ import annotations

import atexit
import gc
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

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
NULL = partial(Raw, b"null")
# msgspec up to 0.22 frees a wrong pointer with a decoder of `text with a pattern | list`: at the end of the process,
# when nothing else frees one. What is frozen is never freed.
atexit.register(gc.freeze)


class Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body."""


class Reply(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A reply body. Clients ignore members they do not know."""


class Problem(msgspec.Struct, kw_only=True):
    """RFC 9457 problem document. `code` is stable: one code, one cause."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool
