"""Messages of the wire as the model's values: the counterpart of `replies.py`."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from gateway.api.codec import check_text, decode, raw_bytes
from gateway.api.endpoint import Call
from gateway.api.task_messages import NewTask, Retry, TaskFilter
from gateway.api.times import NO_TIME, parse_ahead, parse_time
from gateway.errors import BatchTooLarge, InvalidMember, Refusal
from gateway.queue_settings import Unsaid
from gateway.retries import DEFAULT_RETRY, RetryPolicy
from gateway.store.inspector import Filter
from gateway.tasks import DEFAULT_JOB_TYPE, PRIORITIES, Status, TaskSpec, Unique

MAX_BATCH = 1000
JSON = b"application/json"
NDJSON = b"application/x-ndjson"
PRIORITY = {name: number for number, name in enumerate(PRIORITIES)}
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_new_task = msgspec.json.Decoder(NewTask)
_items = msgspec.json.Decoder(list[Raw])


def specs_of(call: Call, body: bytes, media: bytes) -> tuple[list[TaskSpec | Refusal], bool]:
    """Read a body: its tasks, or what is wrong with each; and whether it is one task alone."""
    if media == NDJSON:
        items: Sequence[bytes] = _lines(body)
    else:
        check_text(body)
        if body.lstrip()[:1] != b"[":
            return [spec_of(call, body)], True
        items = [bytes(item) for item in decode(body, _items)]
    if not items:
        raise InvalidMember("", "a batch needs at least one task")
    if len(items) > MAX_BATCH:
        raise BatchTooLarge(MAX_BATCH)
    specs: list[TaskSpec | Refusal] = []
    for number, item in enumerate(items):
        try:
            check_text(item)
            specs.append(spec_of(call, item, f"[{number}]."))
        except Refusal as refusal:
            specs.append(refusal)
    return specs, False


def spec_of(call: Call, body: bytes, where: str = "") -> TaskSpec:
    """Read one task. where: what to call it in errors (an item of a batch)."""
    new = decode(body, _new_task, where)
    job_type = new.job_type or new.type
    if job_type is None:
        if new.title is None:
            raise InvalidMember(f"{where}job_type", "is required (only a task with a title may leave it out)")
        job_type = DEFAULT_JOB_TYPE
    elif new.type is not None and new.type != job_type:
        raise InvalidMember(f"{where}type", "differs from job_type; they are one member")
    if call.identity.job_types:
        call.identity.queue(job_type)
    run_at_ms = 0
    if new.run_at is not None:
        if new.delay_seconds is not None:
            raise InvalidMember(f"{where}run_at", "stands beside delay_seconds; give one of them")
        run_at_ms = run_at_of(new.run_at, where)
    if new.unique_key is None and (new.unique_until is not None or new.on_conflict is not None):
        raise InvalidMember(f"{where}unique_key", "is required with unique_until and on_conflict")
    delay_ms = round((new.delay_seconds or 0) * 1000)
    if new.expires_in_seconds is not None and new.expires_in_seconds * 1000 <= delay_ms:
        raise InvalidMember(f"{where}expires_in_seconds", "ends before delay_seconds does: the task could never start")
    if new.expires_in_seconds is not None and run_at_ms >= (time.time() + new.expires_in_seconds) * 1000:
        raise InvalidMember(f"{where}expires_in_seconds", "ends before run_at comes: the task could never start")
    spec = TaskSpec(
        job_type,
        raw_bytes(new.payload),
        new.title,
        new.description,
        2 if new.priority is None else PRIORITY[new.priority],
        new.tags or {},
        delay_ms,
        run_at_ms,
        25 if new.max_attempts is None else new.max_attempts,
        DEFAULT_RETRY if new.retry is None else retry_policy(new.retry),
        30_000 if new.lease_seconds is None else round(new.lease_seconds * 1000),
        0 if new.timeout_seconds is None else round(new.timeout_seconds * 1000),
        0 if new.expires_in_seconds is None else max(1, round(new.expires_in_seconds * 1000)),
        86_400_000 if new.retention_seconds is None else round(new.retention_seconds * 1000),
        2_592_000_000 if new.retention_seconds is None else round(new.retention_seconds * 1000),
        unique=_unique(new),
        concurrency_key=new.concurrency_key,
        unsaid=(new.max_attempts is None) * Unsaid.MAX_ATTEMPTS
        | (new.retry is None) * Unsaid.RETRY
        | (new.lease_seconds is None) * Unsaid.LEASE
        | (new.retention_seconds is None) * Unsaid.RETENTION
        | (new.timeout_seconds is None) * Unsaid.TIMEOUT,
    )
    traceparent = call.headers.get(b"traceparent")
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent):
        tracestate = call.headers.get(b"tracestate", b"")
        spec = msgspec.structs.replace(
            spec,
            traceparent=traceparent.decode(),
            tracestate=tracestate.decode() if tracestate.isascii() and 0 < len(tracestate) <= 512 else None,
        )
    return spec


def retry_policy(retry: Retry) -> RetryPolicy:
    """A rule of the wire as the model's; the default one is always the same object."""
    given = {name: value for name, value in msgspec.structs.asdict(retry).items() if value is not None}
    if "delays_seconds" in given:
        given["delays_seconds"] = tuple(given["delays_seconds"])
    policy = RetryPolicy(**given)
    return DEFAULT_RETRY if policy == DEFAULT_RETRY else policy


def run_at_of(text: str, where: str) -> int:
    """`run_at` as unix ms, never 0: that says at once. where: what stands before its name in an error."""
    return max(parse_ahead(text, f"{where}run_at"), 1)


def filter_of(given: TaskFilter, eligible: frozenset[Status]) -> Filter:
    """A filter of the wire as the model's, of tasks in an eligible state."""
    statuses = eligible
    if given.status is not None:
        names = [given.status] if isinstance(given.status, str) else given.status
        statuses = eligible & frozenset(Status(name) for name in names)
    return Filter(
        statuses,
        tuple((given.tags or {}).items()),
        given.worker_id,
        _time(given.created_after, "filter.created_after"),
        _time(given.created_before, "filter.created_before"),
    )


def _unique(new: NewTask) -> Unique | None:
    if new.unique_key is None:
        return None
    on_conflict = new.on_conflict or "return"
    if isinstance(new.unique_until, float | int):
        return Unique(new.unique_key, for_ms=max(1, round(new.unique_until * 1000)), on_conflict=on_conflict)
    return Unique(new.unique_key, until=new.unique_until or "finished", on_conflict=on_conflict)


def _lines(body: bytes) -> list[bytes]:
    lines = [line.strip() for line in body.split(b"\n")]
    return [line for line in lines if line]


def _time(text: str | None, member: str) -> int | None:
    if text is None:
        return None
    at_ms = parse_time(text)
    if at_ms is None:
        raise InvalidMember(member, NO_TIME)
    return at_ms
