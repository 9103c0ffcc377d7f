"""Replies: only statuses that the protocol names, never a 500, and a 503 that says when to come back."""

from __future__ import annotations

from collections.abc import Iterator

from tests.campaign.contents import Contents
from tests.campaign.history import NO_ANSWER, Operation
from tests.campaign.timeline import Timeline
from tests.campaign.violations import Violation

_AWAY = {(503, "store_unavailable"), (503, "shutting_down"), (503, "not_replicated")}
_REFUSALS = {
    "enqueue": {(503, "queue_full"), (503, "store_full"), (409, "unique_conflict"), (409, "request_running")},
    "poll": set(),
    "complete": {(409, "lease_lost")},
    "fail": {(409, "lease_lost")},
    "release": {(409, "lease_lost")},
    "heartbeat": {(409, "lease_lost")},
    "heartbeats": set(),
    "outcomes": set(),
    "cancel": {(409, "already_finished")},
    "retry": {(409, "already_finished"), (409, "not_finished"), (409, "unique_conflict"), (503, "queue_full"),
              (503, "store_full")},
    "read": set(),
    "sign_off": {(404, "worker_not_found")},
}  # fmt: skip
_SUCCESSES = (200, 201, 202, 204)


def check(timeline: Timeline, contents: Contents) -> Iterator[Violation]:
    """Yield replies that nobody promised."""
    for operation in timeline.operations:
        status = operation.status
        if "unreadable" in operation.reply:
            yield Violation("unreadable answer", "", f"{operation.op} ({operation.id}) {operation.reply['unreadable']}")
        if status == NO_ANSWER or status in _SUCCESSES:
            continue
        code = operation.reply.get("code", "")
        if status in (429, 503) and "retry_after" not in operation.reply:
            yield Violation("503 without Retry-After", "", _name(operation))
        if (status, code) == (404, "task_not_found"):
            task = operation.facts.get("id", "")
            if task in contents.tasks:
                yield Violation("404 for a task that exists", task, _name(operation))
        elif (status, code) not in _AWAY and (status, code) not in _REFUSALS[operation.op]:
            kind = "unexpected 5xx" if status >= 500 else "unexpected refusal"
            yield Violation(kind, "", _name(operation))


def _name(operation: Operation) -> str:
    return f"{operation.op} {operation.status} {operation.reply.get('code', '')} ({operation.id})"
