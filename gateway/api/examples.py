"""Requests and replies as they go over the wire, for the API's description. A test holds each against its schema."""

from __future__ import annotations

from typing import Any

from gateway import __version__
from gateway.api.problems import TYPE_PREFIX

TASK_ID = "image_resize~01m80dshd85ezv8h2fet7geqkb"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TOKEN = "izgYUaZydTVieqPLywWz0Q"  # noqa: S105 - not one that was ever given out
WORKER = "resizer-1"
_OTHER_ID = "image_resize~01m80dshd92m4q7x0c5w8yzt1n"
_RESULT = {"url": "https://cdn.example/cat-320.jpg", "bytes": 18211}
_ERROR = {"type": "HTTPError", "message": "404 while fetching https://example.com/cat.jpg"}

NEW_TASK: dict[str, Any] = {
    "job_type": "image_resize",
    "payload": {"url": "https://example.com/cat.jpg", "width": 320},
}
FULL_TASK: dict[str, Any] = {
    **NEW_TASK,
    "title": "Thumbnail for the front page",
    "priority": "high",
    "delay_seconds": 60,
    "max_attempts": 5,
    "retry": {"backoff": "exponential", "base_seconds": 2, "factor": 3, "max_seconds": 600},
    "lease_seconds": 45,
    "timeout_seconds": 300,
    "expires_in_seconds": 3600,
    "tags": {"team": "web"},
}
UNIQUE_TASK = {
    "job_type": "search_index",
    "payload": {"page": 17},
    "unique_key": "page-17",
    "unique_until": "started",
    "on_conflict": "replace",
}
TITLED_TASK = {"title": "Call the customer back", "payload": None}

PENDING: dict[str, Any] = {
    "id": TASK_ID,
    **NEW_TASK,
    "status": "pending",
    "priority": "normal",
    "created_at": "2030-01-31T08:00:00.120Z",
    "run_at": "2030-01-31T08:00:00.120Z",
    "attempt": 0,
    "max_attempts": 25,
}
PROCESSING: dict[str, Any] = {
    **PENDING,
    "status": "processing",
    "started_at": "2030-01-31T08:00:00.131Z",
    "attempt": 1,
    "worker_id": WORKER,
    "progress": {"percent": 40},
}
COMPLETED: dict[str, Any] = {
    **PROCESSING,
    "status": "completed",
    "finished_at": "2030-01-31T08:00:03.482Z",
    "progress": {"percent": 100},
    "result": _RESULT,
    "attempts": [
        {
            "attempt": 1,
            "worker_id": WORKER,
            "started_at": "2030-01-31T08:00:00.131Z",
            "finished_at": "2030-01-31T08:00:03.482Z",
            "outcome": "completed",
        }
    ],
    "log": [{"at": "2030-01-31T08:00:01.007Z", "attempt": 1, "line": "fetched 2.1 MB"}],
}
PATCH = {"priority": "critical", "delay_seconds": 0, "tags": {"team": "web"}}
PATCHED = {**PENDING, "priority": "critical", "tags": {"team": "web"}}
BULK = {"filter": {"job_type": "image_resize", "status": ["failed", "cancelled"], "tags": {"team": "web"}}}
BULK_ALL = {"filter": {"created_before": "2030-01-31T00:00:00Z"}, "dry_run": True}
BULK_DONE = {"matched": 250, "changed": 249}
BULK_MORE = {"matched": 10_000, "changed": 10_000, "more": True}
CANCELLED = {**PENDING, "status": "cancelled", "finished_at": "2030-01-31T08:00:09.000Z"}
CANCELLING = {**PROCESSING, "cancel_requested": True}
LEASED: dict[str, Any] = {
    **{name: value for name, value in PROCESSING.items() if name != "progress"},
    "traceparent": TRACEPARENT,
    "lease_token": TOKEN,
    "lease_seconds": 30.0,
    "heartbeat_seconds": 10.0,
}


def problem(code: str, title: str, status: int, detail: str, *, retryable: bool = False, **members: Any) -> Any:
    """A problem document."""
    return {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "f747bfd6e8b4-1c",
        "retryable": retryable,
        **members,
    }


_LEASE_LOST = problem(
    "lease_lost", "The lease token does not hold this task", 409,
    "the lease ended, was given to another, or the task is final; stop working on it", id=_OTHER_ID,
)  # fmt: skip
BATCH_STORED = {"tasks": [PENDING, {**PENDING, "id": _OTHER_ID}]}
BATCH_IN_PARTS = {
    "results": [
        {"status": 201, "task": PENDING},
        {
            "status": 400,
            "error": problem(
                "invalid_member", "A member of the body is not valid", 400, "[1].priority: invalid enum value 'urgent'",
                member="[1].priority",
            ),
        },
    ]
}  # fmt: skip
TASK_LIST = {"tasks": [COMPLETED, PENDING], "next_cursor": "eyJ2IjoxfQ"}

POLL = {"worker_id": WORKER, "task_type": ["image_resize", "thumbnail"], "wait": 25, "max": 4, "poll_id": "p-17"}
POLLED = {"tasks": [LEASED]}
HEARTBEAT = {"lease_token": TOKEN, "progress": {"percent": 40}, "log": ["fetched 2.1 MB"]}
KEPT = {"lease_seconds": 30.0, "cancel_requested": False, "directive": "run"}
COMPLETE = {"lease_token": TOKEN, "result": _RESULT}
COMPLETE_AND_POLL = {**COMPLETE, "next": {"max": 1, "wait": 25}}
REPORTED = {"id": TASK_ID, "status": "completed"}
REPORTED_AND_POLLED = {**REPORTED, "tasks": [{**LEASED, "id": _OTHER_ID, "lease_token": "Zr0-4uT9Jk1dQxw2b8LmPA"}]}
FAIL = {"lease_token": TOKEN, "error": _ERROR, "retry_in_seconds": 120}
FAIL_FOR_GOOD = {"lease_token": TOKEN, "error": "the file is no image", "retryable": False}
RETRYING = {"id": TASK_ID, "status": "retrying", "run_at": "2030-01-31T08:02:03.482Z"}
FAILED = {"id": TASK_ID, "status": "failed"}
RELEASE = {"lease_token": TOKEN}
RELEASED = {"id": TASK_ID, "status": "pending"}
OUTCOMES = {
    "worker_id": WORKER,
    "outcomes": [
        {"id": TASK_ID, "lease_token": TOKEN, "outcome": "complete", "result": _RESULT},
        {"id": _OTHER_ID, "lease_token": "Zr0-4uT9Jk1dQxw2b8LmPA", "outcome": "fail", "error": "out of disk"},
    ],
    "next": {"max": 10, "wait": 25, "task_type": "image_resize"},
}
OUTCOMES_DONE = {
    "outcomes": [
        {"id": TASK_ID, "status": 200, "task_status": "completed"},
        {"id": _OTHER_ID, "status": 409, "error": _LEASE_LOST},
    ],
    "tasks": [LEASED],
}
HEARTBEATS = {"worker_id": WORKER, "leases": [{"id": TASK_ID, "lease_token": TOKEN, "progress": {"percent": 40}}]}
HEARTBEATS_DONE = {
    "leases": [{"id": TASK_ID, "status": 200, "lease_seconds": 30.0, "cancel_requested": False}],
    "directive": "run",
}
WORKERS = {
    "workers": [
        {
            "id": WORKER,
            "task_types": ["image_resize", "thumbnail"],
            "last_seen_at": "2030-01-31T08:00:00.131Z",
            "last_seen_seconds": 2.5,
            "leases": 1,
            "directive": "run",
        }
    ]
}

QUEUE = {
    "job_type": "image_resize",
    "pending": 12,
    "scheduled": 3,
    "processing": 4,
    "completed": 981,
    "failed": 2,
    "cancelled": 0,
    "max_pending": 100_000,
    "oldest_pending_seconds": 0.8,
    "stored_bytes": 482_113,
    "totals": {"enqueued": 1002, "completed": 981, "failed": 2},
}
NEW_QUEUE_SETTINGS = {
    "max_processing": 8,
    "rate_per_second": 20.0,
    "max_processing_per_key": 1,
    "partitions": 1,
    "defaults": {"lease_seconds": 120, "max_attempts": 5, "retention_seconds": 3600},
}
QUEUE_SETTINGS: dict[str, Any] = {
    "job_type": "image_resize",
    "max_pending": 100_000,
    "max_processing": 8,
    "rate_per_second": 20.0,
    "max_processing_per_key": 1,
    "partitions": 1,
    "defaults": {"lease_seconds": 120.0, "max_attempts": 5, "retention_seconds": 3600.0},
    "paused": False,
    "paused_until": None,
    "version": 3,
}
PAUSED = {**QUEUE_SETTINGS, "paused": True, "paused_until": "2030-01-31T08:00:00.000Z", "version": 4}
NEW_KEY = {"name": "ci", "scopes": ["tasks:write", "tasks:read"], "expires_in_seconds": 7_776_000}
KEY: dict[str, Any] = {
    "id": "9f2c61d0a4be",
    "name": "ci",
    "tenant": "default",
    "scopes": ["tasks:write", "tasks:read"],
    "created_at": "2030-01-31T08:00:00.000Z",
    "expires_at": "2030-05-01T08:00:00.000Z",
}
MADE_KEY = {**KEY, "key": "tgw_EXAMPLE-this-is-no-key-but-as-long-as-one-xx"}
KEYS = {"keys": [KEY]}
REVOKED = {"id": KEY["id"], "revoked": True}
TENANT = {
    "tenant": "acme",
    "limits": {
        "rate_limit_per_minute": 6000,
        "max_open_polls": 10_000,
        "max_pending": 50_000,
        "max_stored_bytes": None,
        "max_batch": 1000,
        "max_queues": 1000,
    },
    "own": ["rate_limit_per_minute", "max_pending"],
    "queues": 3,
    "pending": 1200,
    "stored_bytes": 912_004,
}
HEALTH = {
    "status": "ok",
    "version": __version__,
    "redis": "ok",
    "durability": "local",
    "workers": 3,
    "queue_depth": 15,
    "processing": 4,
    "scheduled": 3,
    "failed": 2,
    "oldest_pending_seconds": 0.8,
    "open_polls": 3,
    "warnings": [],
}
UNHEALTHY = {**HEALTH, "status": "unavailable", "redis": "away"}
METRICS = """\
# HELP tasks_gateway_tasks_enqueued_total Tasks stored.
# TYPE tasks_gateway_tasks_enqueued_total counter
tasks_gateway_tasks_enqueued_total 1002.0
"""
