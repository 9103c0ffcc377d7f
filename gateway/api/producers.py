"""What producers call: enqueue, get, list, cancel, retry. Protocol, section 2."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from gateway.api import problems
from gateway.api.codec import check_media_type, check_text, decode, raw_bytes
from gateway.api.endpoint import Call, Reply
from gateway.api.messages import ItemResult, NewTask, Retry, TaskBatch, TaskList
from gateway.api.replies import encode, is_final, status_names, task_reply
from gateway.api.times import parse_time
from gateway.errors import (
    BatchRefused,
    BatchTooLarge,
    InvalidId,
    InvalidMember,
    InvalidParameter,
    Refusal,
    ShuttingDown,
    TaskNotFound,
)
from gateway.retries import DEFAULT_RETRY, RetryPolicy
from gateway.store.inspector import Filter, Inspector
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.task_manager import TaskManager
from gateway.tasks import (
    DEFAULT_JOB_TYPE,
    DEFAULT_TENANT,
    ID,
    JOB_TYPE,
    PRIORITIES,
    WORKER_ID,
    Queue,
    Status,
    Task,
    TaskSpec,
    split_id,
)

MAX_BATCH = 1000
MAX_WAIT_SECONDS = 55.0
_MAX_AHEAD_MS = 3660 * 86_400_000
_JSON = b"application/json"
_NDJSON = b"application/x-ndjson"
_PRIORITY = {name: number for number, name in enumerate(PRIORITIES)}
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_WAIT_PREFERENCE = re.compile(r"""\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?""", re.IGNORECASE)
_new_task = msgspec.json.Decoder(NewTask)
_items = msgspec.json.Decoder(list[Raw])


class Producers:
    """Handlers for producers. max_body_bytes: more is refused."""

    def __init__(
        self, store: TaskStore, inspector: Inspector, registry: Registry, manager: TaskManager, max_body_bytes: int
    ) -> None:
        self._store = store
        self._inspector = inspector
        self._registry = registry
        self._manager = manager
        self._max_body_bytes = max_body_bytes

    async def enqueue(self, call: Call) -> Reply:
        """POST /tasks. 201 with Location, 200 (batch in parts, or `Prefer: wait` and final), 202 (`Prefer: wait`, not
        final), 400, 413, 415, 422, 503."""
        if self._manager.closed:
            raise ShuttingDown()
        media = check_media_type(call.headers.get(b"content-type"), (_JSON, _NDJSON))
        query = call.query("atomic") if call.scope["query_string"] else {}
        body = await call.body(self._max_body_bytes)
        atomic = _flag(query, "atomic")
        if media == _NDJSON:
            return await self._enqueue_many(call, _lines(body), atomic=atomic)
        check_text(body)
        if body.lstrip()[:1] == b"[":
            return await self._enqueue_many(call, [bytes(item) for item in decode(body, _items)], atomic=atomic)
        spec = _spec(call, body)
        queue = Queue(DEFAULT_TENANT, spec.job_type)
        await self._registry.register({queue})
        (task,) = await self._store.enqueue(queue, (spec,))
        if isinstance(task, Refusal):
            raise task
        location = (b"location", b"/tasks/" + task.id.encode())
        seconds = _preferred_wait(call)
        if seconds is None:
            return Reply(201, encode(task_reply(task, jobs=call.jobs)), (location,))
        applied = (b"preference-applied", b"wait=%d" % seconds)
        task = await self._await_end(queue, task, seconds)
        return Reply(200 if is_final(task) else 202, encode(task_reply(task, jobs=call.jobs)), (location, applied))

    async def get(self, call: Call) -> Reply:
        """GET /tasks/{id}. 200 with ETag, 304, 400, 404. `?wait=N` or `Prefer: wait=N` holds until it is final."""
        return await self._get(call, call.id, call.query("wait"))

    async def get_by_query(self, call: Call) -> Reply:
        """GET /task?id=. As GET /tasks/{id}."""
        query = call.query("id", "wait")
        if "id" not in query:
            raise InvalidParameter("id", "is required")
        return await self._get(call, query["id"][0], query)

    async def list_tasks(self, call: Call) -> Reply:
        """GET /tasks. 200 with Link, 400."""
        query = call.query(
            "status", "job_type", "type", "worker_id", "created_after", "created_before", "limit", "cursor",
            repeated=("tag",),
        )  # fmt: skip
        one = {name: values[0] for name, values in query.items()}
        limit = _number(one.get("limit", "50"), "limit", 1, 200)
        which = Filter(
            statuses=_statuses(one.get("status")),
            tags=tuple(_tag(text) for text in query.get("tag", ())),
            worker_id=_matching(one.get("worker_id"), "worker_id", WORKER_ID),
            created_after_ms=_time(one.get("created_after"), "created_after"),
            created_before_ms=_time(one.get("created_before"), "created_before"),
        )
        if "type" in one and one.get("job_type", one["type"]) != one["type"]:
            raise InvalidParameter("type", "differs from job_type; they are one parameter")
        name = "job_type" if "job_type" in one else "type"
        job_type = _matching(one.get(name), name, JOB_TYPE)
        queues = await self._registry.queues(DEFAULT_TENANT) if job_type is None else [Queue(DEFAULT_TENANT, job_type)]
        tasks, cursor = await self._inspector.page(queues, which, limit, one.get("cursor"))
        reply = TaskList(tasks=[task_reply(task, jobs=call.jobs) for task in tasks], next_cursor=cursor)
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if cursor is not None:
            kept = [part for part in call.scope["query_string"].split(b"&") if part and not part.startswith(b"cursor=")]
            target = (b"/api/v1/jobs?" if call.jobs else b"/tasks?") + b"&".join([*kept, b"cursor=" + cursor.encode()])
            headers = ((b"link", b"<" + target + b'>; rel="next"'),)
        return Reply(200, encode(reply), headers)

    async def cancel(self, call: Call) -> Reply:
        """DELETE /tasks/{id}. 200 cancelled, 202 its worker will hear of it, 400, 404, 409."""
        call.query()
        queue = queue_of(call.id)
        done = await self._store.cancel(queue, call.id)
        task = await self._inspector.get(queue, call.id, with_gone=True)
        return Reply(200 if done else 202, encode(task_reply(task, jobs=call.jobs)))

    async def retry(self, call: Call) -> Reply:
        """POST /tasks/{id}/retry. 200 pending again, 400, 404, 409, 503."""
        call.query()
        queue = queue_of(call.id)
        await self._store.retry(queue, call.id)
        return Reply(200, encode(task_reply(await self._inspector.get(queue, call.id), jobs=call.jobs)))

    async def _get(self, call: Call, task_id: str, query: dict[str, list[str]]) -> Reply:
        queue = queue_of(task_id)
        seconds = _preferred_wait(call)
        applied: tuple[tuple[bytes, bytes], ...] = ()
        if seconds is not None:
            applied = ((b"preference-applied", b"wait=%d" % seconds),)
        hold_seconds: float | None = seconds
        if "wait" in query:
            hold_seconds = _decimal(query["wait"][0], "wait", 0, MAX_WAIT_SECONDS)
        task = await self._inspector.get(queue, task_id)
        if hold_seconds and not is_final(task):
            task = await self._await_end(queue, task, hold_seconds)
        body = encode(task_reply(task, jobs=call.jobs))
        etag = b'"' + hashlib.blake2b(body, digest_size=12).hexdigest().encode() + b'"'
        known = call.headers.get(b"if-none-match", b"")
        if known == b"*" or etag in [one.strip().removeprefix(b"W/") for one in known.split(b",")]:
            return Reply(304, b"", ((b"etag", etag), *applied))
        return Reply(200, body, ((b"etag", etag), *applied))

    async def _await_end(self, queue: Queue, task: Task, seconds: float) -> Task:
        deadline = time.monotonic() + seconds
        while not is_final(task) and not self._manager.closed:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            await self._manager.wait_final(queue, task.id, left)
            try:
                task = await self._inspector.get(queue, task.id, with_gone=True)
            except TaskNotFound:
                # It ended and was forgotten meanwhile; the last sight of it is the best answer there is.
                break
        return task

    async def _enqueue_many(self, call: Call, items: Sequence[bytes], *, atomic: bool) -> Reply:
        if not items:
            raise InvalidMember("", "a batch needs at least one task")
        if len(items) > MAX_BATCH:
            raise BatchTooLarge(MAX_BATCH)
        specs: list[TaskSpec | Refusal] = []
        for number, item in enumerate(items):
            try:
                check_text(item)
                specs.append(_spec(call, item, f"[{number}]."))
            except Refusal as refusal:
                specs.append(refusal)
        wrong = [number for number, spec in enumerate(specs) if isinstance(spec, Refusal)]
        queues: dict[Queue, list[int]] = {}
        for number, spec in enumerate(specs):
            if isinstance(spec, TaskSpec):
                queues.setdefault(Queue(DEFAULT_TENANT, spec.job_type), []).append(number)
        if atomic:
            if wrong:
                raise BatchRefused([self._problem(call, specs[number], number) for number in wrong])
            if len(queues) > 1:
                raise InvalidParameter("atomic", "all tasks of an atomic batch must have the same job_type")
        results: list[Task | Refusal] = [spec if isinstance(spec, Refusal) else ShuttingDown() for spec in specs]
        await self._registry.register(set(queues))
        for queue, numbers in queues.items():
            chosen = [spec for spec in (specs[number] for number in numbers) if isinstance(spec, TaskSpec)]
            try:
                stored: Sequence[Task | Refusal] = await self._store.enqueue(queue, chosen, atomic=atomic)
            except Refusal as refusal:
                if len(queues) == 1 and not wrong:
                    raise
                stored = [refusal] * len(numbers)
            for number, one in zip(numbers, stored, strict=True):
                results[number] = one
        tasks = [one for one in results if isinstance(one, Task)]
        if len(tasks) == len(results):
            return Reply(201, encode(TaskBatch(tasks=[task_reply(task, jobs=call.jobs) for task in tasks])))
        if atomic:
            for one in results:
                if isinstance(one, Refusal):
                    raise one
        entries = [
            ItemResult(status=201, task=task_reply(one, jobs=call.jobs))
            if isinstance(one, Task)
            else ItemResult(status=problems.status_of(one), error=Raw(problems.encode(one, call.request_id)))
            for one in results
        ]
        return Reply(200, encode({"results": entries}))

    def _problem(self, call: Call, spec: TaskSpec | Refusal, number: int) -> object:
        assert isinstance(spec, Refusal)
        return {"index": number, **problems.document(spec, call.request_id)}


def _spec(call: Call, body: bytes, where: str = "") -> TaskSpec:
    new = decode(body, _new_task, where)
    job_type = new.job_type or new.type
    if job_type is None:
        if new.title is None:
            raise InvalidMember(f"{where}job_type", "is required (only a task with a title may leave it out)")
        job_type = DEFAULT_JOB_TYPE
    elif new.type is not None and new.type != job_type:
        raise InvalidMember(f"{where}type", "differs from job_type; they are one member")
    run_at_ms = 0
    if new.run_at is not None:
        if new.delay_seconds is not None:
            raise InvalidMember(f"{where}run_at", "stands beside delay_seconds; give one of them")
        run_at_ms = _run_at(new.run_at, where)
    delay_ms = round((new.delay_seconds or 0) * 1000)
    if new.expires_in_seconds is not None and new.expires_in_seconds * 1000 <= delay_ms:
        raise InvalidMember(f"{where}expires_in_seconds", "ends before delay_seconds does: the task could never start")
    spec = TaskSpec(
        job_type,
        raw_bytes(new.payload),
        new.title,
        new.description,
        2 if new.priority is None else _PRIORITY[new.priority],
        new.tags or {},
        delay_ms,
        run_at_ms,
        25 if new.max_attempts is None else new.max_attempts,
        DEFAULT_RETRY if new.retry is None else _retry_policy(new.retry),
        30_000 if new.lease_seconds is None else round(new.lease_seconds * 1000),
        0 if new.timeout_seconds is None else round(new.timeout_seconds * 1000),
        0 if new.expires_in_seconds is None else max(1, round(new.expires_in_seconds * 1000)),
        86_400_000 if new.retention_seconds is None else round(new.retention_seconds * 1000),
        2_592_000_000 if new.retention_seconds is None else round(new.retention_seconds * 1000),
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


def _retry_policy(retry: Retry) -> RetryPolicy:
    given = {name: value for name, value in msgspec.structs.asdict(retry).items() if value is not None}
    if "delays_seconds" in given:
        given["delays_seconds"] = tuple(given["delays_seconds"])
    policy = RetryPolicy(**given)
    return DEFAULT_RETRY if policy == DEFAULT_RETRY else policy


def _run_at(text: str, where: str) -> int:
    at_ms = parse_time(text)
    if at_ms is None:
        raise InvalidMember(f"{where}run_at", "is no RFC 3339 time with a zone, such as 2030-01-31T08:00:00Z")
    if not 0 <= at_ms <= time.time() * 1000 + _MAX_AHEAD_MS:
        raise InvalidMember(f"{where}run_at", "is before 1970 or more than ten years ahead")
    return max(at_ms, 1)


def _lines(body: bytes) -> list[bytes]:
    lines = [line.strip() for line in body.split(b"\n")]
    return [line for line in lines if line]


def queue_of(task_id: str) -> Queue:
    """The queue of a public id. Raises InvalidId (malformed), TaskNotFound (it can be nobody's)."""
    if not ID.fullmatch(task_id):
        raise InvalidId()
    parts = split_id(task_id)
    if parts is None:
        raise TaskNotFound(task_id)
    return Queue(DEFAULT_TENANT, parts[0])


def _flag(query: dict[str, list[str]], name: str) -> bool:
    text = query.get(name, ["false"])[0]
    if text not in ("true", "false", "1", "0"):
        raise InvalidParameter(name, "is true or false")
    return text in ("true", "1")


def _number(text: str, name: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or not low <= int(text) <= high:
        raise InvalidParameter(name, f"is a whole number from {low} to {high}")
    return int(text)


def _decimal(text: str, name: str, low: float, high: float) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text, re.ASCII) or not low <= float(text) <= high:
        raise InvalidParameter(name, f"is a number of seconds from {low:g} to {high:g}")
    return float(text)


def _time(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    # A + of the zone that was not percent-encoded arrives as a space.
    at_ms = parse_time(text if "+" in text or " " not in text[19:] else text[:19] + text[19:].replace(" ", "+"))
    if at_ms is None:
        raise InvalidParameter(name, "is no RFC 3339 time with a zone, such as 2030-01-31T08:00:00Z")
    return at_ms


def _matching(text: str | None, name: str, pattern: re.Pattern[str]) -> str | None:
    if text is not None and not pattern.fullmatch(text):
        raise InvalidParameter(name, "has characters or a length that no such name has")
    return text


def _statuses(text: str | None) -> frozenset[Status] | None:
    if text is None:
        return None
    statuses = status_names(text)
    if statuses is None:
        raise InvalidParameter(
            "status", "is one or more of scheduled, pending, processing, retrying, completed, failed, cancelled"
        )
    return statuses


def _tag(text: str) -> tuple[str, str]:
    name, mark, value = text.partition(":")
    if not mark or not name:
        raise InvalidParameter("tag", "is name:value")
    return name, value


def _preferred_wait(call: Call) -> int | None:
    header = call.headers.get(b"prefer")
    if header is None:
        return None
    for preference in header.decode("latin-1").split(","):
        match = _WAIT_PREFERENCE.fullmatch(preference)
        if match:
            return min(int(match[1]), int(MAX_WAIT_SECONDS))
    return None
