"""The model's tasks as messages of the wire."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw

from gateway.api.messages import Priority
from gateway.api.task_messages import AttemptRecord, LeasedTaskReply, LogRecord, RetryRule, TaskReply
from gateway.api.times import format_time
from gateway.retries import DEFAULT_RETRY, RetryPolicy
from gateway.tasks import PRIORITIES, LeasedTask, Task

encode = msgspec.json.Encoder().encode
_PRIORITIES: tuple[Priority, ...] = ("critical", "high", "normal", "low")
assert _PRIORITIES == PRIORITIES


def task_reply(task: Task, *, jobs: bool = False) -> TaskReply:
    """A task for producers. jobs: with the spellings of /api/v1/jobs beside ours."""
    spec = task.spec
    reply = TaskReply(
        id=task.id,
        job_type=spec.job_type,
        status=task.status.value,
        payload=Raw(spec.payload),
        priority=_PRIORITIES[spec.priority],
        created_at=format_time(task.created_at_ms),
        attempt=task.attempt,
        max_attempts=spec.max_attempts,
    )
    _fill(reply, task)
    if task.finished_at_ms:
        reply.finished_at = format_time(task.finished_at_ms)
    if task.result is not None:
        reply.result = Raw(task.result)
    if jobs:
        reply.job_id = task.id
        reply.completed_at = reply.finished_at
    return reply


def leased_reply(leased: LeasedTask) -> LeasedTaskReply:
    """A task for its worker."""
    task, spec = leased.task, leased.task.spec
    lease_seconds = leased.lease_ms / 1000
    reply = LeasedTaskReply(
        id=task.id,
        job_type=spec.job_type,
        status="processing",
        payload=Raw(spec.payload),
        priority=_PRIORITIES[spec.priority],
        created_at=format_time(task.created_at_ms),
        attempt=task.attempt,
        max_attempts=spec.max_attempts,
        lease_token=leased.token,
        lease_seconds=lease_seconds,
        heartbeat_seconds=round(lease_seconds / 3, 3),
    )
    _fill(reply, task)
    return reply


def _fill(reply: TaskReply, task: Task) -> None:
    spec = task.spec
    if task.run_at_ms:
        reply.run_at = format_time(task.run_at_ms)
    if task.started_at_ms:
        reply.started_at = format_time(task.started_at_ms)
    if task.worker_id:
        reply.worker_id = task.worker_id
    if spec.title is not None:
        reply.title = spec.title
    if spec.description is not None:
        reply.description = spec.description
    if spec.unique is not None:
        reply.unique_key = spec.unique.key
    if spec.concurrency_key is not None:
        reply.concurrency_key = spec.concurrency_key
    if spec.tags:
        reply.tags = spec.tags
    if spec.traceparent is not None:
        reply.traceparent = spec.traceparent
        reply.tracestate = spec.tracestate
    if spec.retry is not DEFAULT_RETRY and spec.retry != DEFAULT_RETRY:
        reply.retry = retry_rule(spec.retry)
    if task.progress is not None:
        reply.progress = Raw(task.progress)
    if task.error is not None:
        reply.error = Raw(task.error)
    if task.cancel_requested:
        reply.cancel_requested = True
    if task.attempts:
        reply.attempts = [
            AttemptRecord(
                attempt=one.attempt,
                worker_id=one.worker_id,
                started_at=format_time(one.started_at_ms),
                finished_at=format_time(one.finished_at_ms),
                outcome=one.outcome,
                error=Raw(one.error) if one.error else UNSET,
            )
            for one in task.attempts
        ]
    if task.log:
        reply.log = [LogRecord(at=format_time(one.at_ms), attempt=one.attempt, line=one.line) for one in task.log]


def retry_rule(policy: RetryPolicy) -> RetryRule:
    """A retry rule as a message."""
    if policy.delays_seconds:
        return RetryRule(delays_seconds=list(policy.delays_seconds))
    return RetryRule(
        backoff=policy.backoff,
        base_seconds=policy.base_seconds,
        factor=policy.factor,
        max_seconds=policy.max_seconds,
        jitter=policy.jitter,
    )
