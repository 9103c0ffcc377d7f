"""What scripts return about a task, read into the model."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.store import arq_format
from gateway.tasks import Attempt, LeasedTask, LogLine, Queue, Status, Task, TaskSpec, public_id

READY_END = float(2**40)
HELD = float(2**49)
LEASED = float(2**50)


def read_claimed(reply: list[Any], token: str, worker_id: str, queue: Queue, tag: str) -> tuple[LeasedTask, str | None]:
    """Read one task of claim.lua's reply: id, body, attempt, lease_ms, token number, trail,
    started.

    Returns it, and why it cannot be handed on: None when it can.
    """
    raw_id, body, attempt, lease_ms, _, trail, started_at_ms = reply
    task_id = public_id(queue.job_type, raw_id.decode("utf-8", "surrogateescape"), tag)
    corrupt = None
    created_at_ms = 0
    try:
        record = arq_format.decode_record(body)
        spec = arq_format.spec_of(record, queue.job_type)
        created_at_ms = record.et
    except arq_format.Corrupt as error:
        spec, corrupt = TaskSpec(queue.job_type), str(error)
    history, facts = _trail(trail) if trail else ((), {})
    task = Task(
        task_id, Status.PROCESSING, spec, created_at_ms, _due_ms(spec, created_at_ms, facts), int(started_at_ms), 0,
        attempt, worker_id, facts.get(b"progress"), None, facts.get(b"error"), False, history,
    )  # fmt: skip
    return LeasedTask(task, token, lease_ms), corrupt


def read_task(reply: list[Any], queue: Queue, tag: str, now_ms: int) -> Task | None:
    """Read a task as read.lua returns it. None: there is none, or what stands under its keys is no task of ours."""
    if not reply:
        return None
    raw_id, place, raw, attempts, raw_lease, trail, lines = reply
    spec, created_at_ms = TaskSpec(queue.job_type), 0
    try:
        record = arq_format.decode_record(raw)
        spec, created_at_ms = arq_format.spec_of(record, queue.job_type), record.et
    except arq_format.Corrupt:
        pass
    try:
        ending = None if place else arq_format.decode_ending(raw)
    except arq_format.Corrupt:
        return None
    history, facts = _trail(trail)
    task_id = public_id(queue.job_type, raw_id.decode("utf-8", "surrogateescape"), tag)
    log = tuple(LogLine(*arq_format.decode_log_line(line)) for line in lines)
    progress = facts.get(b"progress")
    due_ms = _due_ms(spec, created_at_ms, facts)
    if ending is not None:
        final = arq_format.decode_final_facts(ending.x)
        status = Status(final.status)
        error = arq_format.text_of(ending.e)
        if final.started_at_ms:
            outcome = final.code or final.status
            last = Attempt(final.attempt, final.worker_id, final.started_at_ms, final.finished_at_ms, outcome, error)
            history = (*history, last)
        retention_ms = spec.failed_retention_ms if status is Status.FAILED else spec.retention_ms
        return Task(
            task_id, status, spec, created_at_ms, due_ms, final.started_at_ms, final.finished_at_ms, final.attempt,
            final.worker_id or None, progress, arq_format.text_of(ending.j) or (b"null" if ending.s else None), error,
            False, history, log, final.finished_at_ms + retention_ms,
        )  # fmt: skip
    attempt = int(attempts)
    if float(place) >= LEASED:
        try:
            lease = arq_format.decode_lease(raw_lease)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # It was destroyed; the sweep ends the task when its lease is over.
            return Task(
                task_id, Status.PROCESSING, spec, created_at_ms, due_ms, 0, 0, attempt, attempts=history, log=log
            )
        return Task(
            task_id, Status.PROCESSING, spec, created_at_ms, due_ms, int(lease.started_at_ms), 0, attempt,
            lease.worker_id, progress, None, facts.get(b"error"), lease.cancel_requested, history, log,
        )  # fmt: skip
    status = Status.PENDING
    if READY_END <= float(place) < HELD:
        due_ms = int(float(place))
        if due_ms > now_ms:
            status = Status.RETRYING if attempt else Status.SCHEDULED
    started_at_ms = history[-1].started_at_ms if history else 0
    return Task(
        task_id, status, spec, created_at_ms, due_ms, started_at_ms, 0, attempt, None, progress, None,
        facts.get(b"error"), False, history, log,
    )  # fmt: skip


def run_at_ms(spec: TaskSpec, created_at_ms: int) -> int:
    """When the task was first due (unix ms)."""
    if spec.run_at_ms:
        return max(spec.run_at_ms, created_at_ms)
    return created_at_ms + spec.delay_ms


def _due_ms(spec: TaskSpec, created_at_ms: int, facts: dict[bytes, bytes]) -> int:
    """When the task was due; an operator's retry made it due at that moment."""
    retried = facts.get(b"due", b"")
    return int(retried) if retried.isdigit() else run_at_ms(spec, created_at_ms)


def _trail(flat: list[bytes]) -> tuple[tuple[Attempt, ...], dict[bytes, bytes]]:
    facts = dict(zip(flat[::2], flat[1::2], strict=True))
    history = []
    for name, value in facts.items():
        if name[:1] == b"h":
            one = arq_format.decode_history(value)
            history.append(
                Attempt(
                    one.attempt,
                    one.worker_id,
                    int(one.started_at_ms),
                    int(one.finished_at_ms),
                    one.outcome,
                    one.error.encode() if one.error else None,
                )
            )
    history.sort(key=lambda one: one.started_at_ms)
    return tuple(history), facts
