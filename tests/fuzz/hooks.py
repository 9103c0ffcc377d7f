"""What Schemathesis must know of the gateway beyond its document. Loaded by it (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import httpx
import schemathesis
from schemathesis import GenerationMode
from schemathesis.core import NotSet

# Long polls would hold the run up; the document's bounds are the gateway's tests' business.
_LONGEST_SECONDS = 0.05


_REPORTS = ("/tasks/{id}/heartbeat", "/tasks/{id}/complete", "/tasks/{id}/fail", "/tasks/{id}/release")
_calls = itertools.count()
_client = httpx.Client(
    base_url=os.environ.get("FUZZED_URL", ""), headers={"Authorization": os.environ.get("FUZZED_AUTHORIZATION", "")}
)


def _claim() -> tuple[str, str]:
    """Enqueue a task of a queue that no example names, and claim it: its id and lease token."""
    _client.post("/tasks", json={"job_type": "for.reports", "max_attempts": 1})
    polled = _client.get("/poll", params={"worker_id": "reporter", "task_type": "for.reports", "wait": 0})
    if polled.status_code != 200:
        return "for.reports~none", "none"
    task = polled.json()["tasks"][0]
    return task["id"], task["lease_token"]


def _hold(case: Any) -> None:
    """Let a report be about a task that is held, with its token, and a retry about one that failed."""
    task_id, lease_token = _claim()
    if case.operation.path == "/tasks/{id}/retry":
        _client.post(f"/tasks/{task_id}/fail", json={"lease_token": lease_token})
    elif isinstance(case.body, dict):
        case.body = {**case.body, "lease_token": lease_token}
    case.path_parameters = {**case.path_parameters, "id": task_id}


def _hurry(given: Any) -> Any:
    """Shorten every right `wait`, also that of `next`; what is wrong stays wrong."""
    if not isinstance(given, dict):
        return given
    changed = {name: _hurry(value) if name == "next" else value for name, value in given.items()}
    try:
        if _LONGEST_SECONDS < float(str(changed.get("wait", 0))) <= 55:
            changed["wait"] = _LONGEST_SECONDS
    except ValueError:
        pass
    return changed


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    """A JSON value a line; a text as it is; nothing for what is neither: any text would be lines of some sort."""
    if not isinstance(value, list):
        return value.encode("utf-8", "replace") if isinstance(value, str) else b""
    return b"\n".join(json.dumps(one).encode() for one in value)


def _is_negative(case: Any) -> bool:
    return case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Shorten waits of a request that is about to be sent; make every second report one that may be right."""
    if case.operation.path in (*_REPORTS, "/tasks/{id}/retry") and not _is_negative(case) and next(_calls) % 2:
        _hold(case)
    polls = case.operation.path == "/poll"
    query = dict(case.query or {})
    if polls and case.operation.method.lower() == "get":
        query.setdefault("wait", _LONGEST_SECONDS)
    case.query = _hurry(query)
    case.body = _hurry(case.body)
    if polls and isinstance(case.body, dict) and case.body.get("wait") is None:
        case.body["wait"] = _LONGEST_SECONDS
    if case.operation.path == "/tenants/{tenant}" and (case.path_parameters or {}).get("tenant") == "default":
        # Limits of its own tenant would end the run.
        case.path_parameters = {"tenant": "acme"}
    if case.operation.path.endswith(("/pause", "/redrive")) and _is_negative(case) and isinstance(case.body, NotSet):
        # It calls a body that is left out bad; here none is needed.
        case.body = []
    headers = case.headers
    if headers and headers.get("Idempotency-Key") and not _is_negative(case):
        # The example's key would be taken by the first request.
        headers["Idempotency-Key"] = f"{headers['Idempotency-Key'][:200]}-{next(_calls)}"
    if headers and "wait" in str(headers.get("Prefer", "")).lower():
        headers["Prefer"] = "wait=0"
