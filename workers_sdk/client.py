"""What producers call: docs/protocol.md, Producers.

A request is repeated by itself only where that is safe: reads, enqueues (each carries an Idempotency-Key), and whatever
was refused before anything happened. Everything else is raised to the caller.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, Unpack
from urllib.parse import quote, urlencode

import msgspec

from workers_sdk.backoff import Backoff
from workers_sdk.bearer import Token
from workers_sdk.errors import Conflict, GatewayError, PartlyRefused, Unreachable, refusal
from workers_sdk.tasks import NewTask, Task, TaskOptions
from workers_sdk.transport import Reply, Transport
from workers_sdk.wire import batches, encode

_REPLY_SECONDS = 30.0
_WAIT_SECONDS = 50.0
_PAGE = 200
# The gateway refused before it did anything; Redis being away leaves that open.
_UNDONE = frozenset({"queue_full", "shutting_down", "store_full", "too_many_polls", "rate_limited", "quota_exceeded"})


class _Page(msgspec.Struct):
    tasks: list[Task]
    next_cursor: str | None = None


class _Entry(msgspec.Struct):
    status: int
    task: Task | None = None
    error: dict[str, Any] | None = None


class _Stored(msgspec.Struct):
    tasks: list[Task] | None = None
    results: list[_Entry] | None = None


_task = msgspec.json.Decoder(Task)
_page = msgspec.json.Decoder(_Page)
_stored = msgspec.json.Decoder(_Stored)


class Client:
    """Producer's client of one gateway, for one event loop. Use it with `async with`, or close it.

    url: the gateway; without it $GATEWAY_URL, then http://127.0.0.1:8080. token: a bearer token or API key,
    or a function that returns the current one, asked before each request; without it what the file of
    $GATEWAY_TOKEN_FILE holds, then $GATEWAY_TOKEN.
    patience_seconds: how long a request is repeated, where that is safe, while the gateway is away or refuses for
    the moment. Every method raises GatewayError: NotFound, Conflict, NotAllowed, Unavailable, Unreachable or the
    plain class; see `code`.
    """

    def __init__(self, url: str | None = None, *, token: Token | None = None, patience_seconds: float = 10.0) -> None:
        self._transport = Transport(url, token)
        self._patience_seconds = patience_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop all connections."""
        await self._transport.close()

    async def enqueue(
        self, job_type: str, payload: Any = None, *, idempotency_key: str | None = None, **options: Unpack[TaskOptions]
    ) -> Task:
        """Store one task. payload: what msgspec can encode. options: docs/protocol.md, NewTask.

        idempotency_key: repeating the call with it within a day returns the same task; without it each call has its
        own. Returns the task, stored, or the existing one of its `unique_key`. Unavailable (`queue_full`): nothing
        was stored.
        """
        body = encode({"job_type": job_type, "payload": payload, **options})
        headers = {"idempotency-key": idempotency_key or secrets.token_hex(16)}
        return _task.decode((await self._ask("POST", "/tasks", body, headers=headers, repeatable=True)).body)

    async def enqueue_many(self, tasks: Iterable[NewTask | Mapping[str, Any]]) -> list[Task]:
        """Store many tasks, in requests of up to 1,000 and 1 MB. tasks: dicts with `job_type`, `payload` and options.

        Returns the tasks in order. Raises PartlyRefused when not all were stored: its `results` has the task or
        error of each.
        """
        results: list[Task | GatewayError] = []
        for batch in batches((None, encode(task)) for task in tasks):
            results += await self._enqueue_batch([text for _, text in batch])
        stored = [one for one in results if isinstance(one, Task)]
        if len(stored) < len(results):
            raise PartlyRefused(results)
        return stored

    async def get(self, task_id: str) -> Task:
        """Read a task. Raises NotFound when there is none, or it is past its retention."""
        return _task.decode((await self._ask("GET", _path(task_id), repeatable=True)).body)

    async def wait(self, task_id: str, timeout_seconds: float | None = None) -> Task:
        """Wait until a task is final and return it, whether it completed, failed or was cancelled.

        timeout_seconds: how long, None for ever. Raises TimeoutError after that.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            left = _WAIT_SECONDS if deadline is None else min(_WAIT_SECONDS, max(0.0, deadline - time.monotonic()))
            path = f"{_path(task_id)}?wait={left:.3f}"
            task = _task.decode(
                (await self._ask("GET", path, repeatable=True, timeout_seconds=left + _REPLY_SECONDS)).body
            )
            if task.final:
                return task
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"the task was still {task.status} after {timeout_seconds:g} s")

    async def cancel(self, task_id: str) -> Task:
        """Cancel a task. One that waits is cancelled at once; one in a worker's hands when that worker lets go, see
        `cancel_requested`. Does nothing to one that is cancelled already.

        Raises Conflict (`already_finished`) when it completed or failed.
        """
        try:
            return _task.decode((await self._ask("DELETE", _path(task_id), repeatable=True)).body)
        except Conflict as error:
            # Our own first request may have done it and its reply be lost.
            if error.members.get("task_status") != "cancelled":
                raise
            return await self.get(task_id)

    async def retry(self, task_id: str) -> Task:
        """Send a failed or cancelled task back with fresh attempts. Raises Conflict (`not_finished`) for any other.

        Not repeated after a lost reply: the task could meanwhile have failed again.
        """
        return _task.decode((await self._ask("POST", f"{_path(task_id)}/retry")).body)

    async def list(
        self,
        *,
        status: str | None = None,
        job_type: str | None = None,
        tags: Mapping[str, str] | None = None,
        worker_id: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
    ) -> AsyncIterator[Task]:
        """Iterate tasks, newest first, page by page. status: one, or several separated by commas. tags: all must
        match."""
        query: list[tuple[str, str]] = [("limit", str(_PAGE))]
        for name, value in (
            ("status", status),
            ("job_type", job_type),
            ("worker_id", worker_id),
            ("created_after", created_after),
            ("created_before", created_before),
        ):
            if value is not None:
                query.append((name, _time(value) if isinstance(value, datetime) else value))
        query += [("tag", f"{name}:{value}") for name, value in (tags or {}).items()]
        cursor: str | None = None
        while True:
            more = [("cursor", cursor)] if cursor is not None else []
            page = _page.decode((await self._ask("GET", f"/tasks?{urlencode(query + more)}", repeatable=True)).body)
            for task in page.tasks:
                yield task
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _enqueue_batch(self, items: Sequence[bytes]) -> Iterable[Task | GatewayError]:
        headers = {"idempotency-key": secrets.token_hex(16)}
        try:
            reply = await self._ask("POST", "/tasks", b"[" + b",".join(items) + b"]", headers=headers, repeatable=True)
        except GatewayError as error:
            return [error] * len(items)
        found = _stored.decode(reply.body)
        if found.tasks is not None:
            return found.tasks
        return [entry.task or refusal(entry.status, entry.error or {}) for entry in found.results or []]

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
        timeout_seconds: float = _REPLY_SECONDS,
    ) -> Reply:
        """Send a request until it is accepted, refused for good, or patience ends."""
        deadline = time.monotonic() + self._patience_seconds
        backoff = Backoff(most_seconds=2.0)
        while True:
            error: GatewayError
            try:
                reply = await self._transport.request(
                    method, path, body, headers=headers, timeout_seconds=timeout_seconds
                )
            except Unreachable as unreachable:
                again = repeatable or not unreachable.sent
                error = unreachable
            else:
                if reply.status < 300:
                    return reply
                error = reply.error()
                again = error.retryable and (repeatable or error.code in _UNDONE)
            pause_seconds = backoff.failed(error.retry_after_seconds)
            if not again or time.monotonic() + pause_seconds > deadline:
                raise error
            await asyncio.sleep(pause_seconds)


def _path(task_id: str) -> str:
    return f"/tasks/{quote(task_id, safe='')}"


def _time(moment: datetime) -> str:
    """RFC 3339. A time without a zone is local time."""
    return moment.astimezone().isoformat() if moment.tzinfo is None else moment.isoformat()
