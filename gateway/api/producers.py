"""What producers call about tasks that there are: get, list, change, cancel, retry. Protocol, "Producers"."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import UnsetType

from gateway.api import parameters
from gateway.api.codec import raw_bytes, read_message
from gateway.api.endpoint import Call, Reply
from gateway.api.ids import queue_of, queues_of
from gateway.api.replies import encode, task_reply
from gateway.api.requests import PRIORITY, run_at_of
from gateway.api.task_messages import PatchTask, TaskList
from gateway.api.waits import MAX_WAIT_SECONDS, Waits, preferred_wait
from gateway.errors import InvalidMember, InvalidParameter
from gateway.limits import TenantLimits
from gateway.store.inspector import Filter, Inspector
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.tasks import JOB_TYPE, WORKER_ID, is_final

_patch_task = msgspec.json.Decoder(PatchTask)


class Producers:
    """Handlers for producers. max_body_bytes: more is refused."""

    def __init__(
        self,
        store: TaskStore,
        inspector: Inspector,
        registry: Registry,
        waits: Waits,
        limits: TenantLimits,
        max_body_bytes: int,
    ) -> None:
        self._limits = limits
        self._store = store
        self._inspector = inspector
        self._registry = registry
        self._waits = waits
        self._max_body_bytes = max_body_bytes

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
        limit = parameters.number(one.get("limit", "50"), "limit", 1, 200)
        which = Filter(
            statuses=parameters.statuses(one.get("status")),
            tags=tuple(parameters.tag(text) for text in query.get("tag", ())),
            worker_id=parameters.matching(one.get("worker_id"), "worker_id", WORKER_ID),
            created_after_ms=parameters.time(one.get("created_after"), "created_after"),
            created_before_ms=parameters.time(one.get("created_before"), "created_before"),
        )
        if "type" in one and one.get("job_type", one["type"]) != one["type"]:
            raise InvalidParameter("type", "differs from job_type; they are one parameter")
        name = "job_type" if "job_type" in one else "type"
        job_type = parameters.matching(one.get(name), name, JOB_TYPE)
        queues = await queues_of(call, self._store, self._registry, job_type)
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
        queue = queue_of(call, call.id)
        done = await self._store.cancel(queue, call.id)
        task = await self._inspector.get(queue, call.id, with_gone=True)
        return Reply(200 if done else 202, encode(task_reply(task, jobs=call.jobs)))

    async def patch(self, call: Call) -> Reply:
        """PATCH /tasks/{id}. 200 the task as it stands now, 400, 404, 409, 413, 415."""
        call.query()
        queue = queue_of(call, call.id)
        new = await read_message(call, _patch_task, self._max_body_bytes)
        due: bytes | int | None = None
        if new.run_at is not None:
            if new.delay_seconds is not None:
                raise InvalidMember("run_at", "stands beside delay_seconds; give one of them")
            due = run_at_of(new.run_at, "")
        elif new.delay_seconds is not None:
            due = b"+%d" % round(new.delay_seconds * 1000)
        changes: dict[str, Any] = {}
        if new.priority is not None:
            changes["priority"] = PRIORITY[new.priority]
        if new.tags is not None:
            changes["tags"] = new.tags
        if not isinstance(new.payload, UnsetType):
            changes["payload"] = raw_bytes(new.payload)
        if due is not None:
            changes["run_at_ms"] = due if isinstance(due, int) else 0
            changes["delay_ms"] = 0
        if "payload" in changes:
            await self._limits.check_room(call.identity.tenant, 0, len(changes["payload"]))
        await self._store.patch(queue, call.id, lambda spec: msgspec.structs.replace(spec, **changes), due)
        return Reply(200, encode(task_reply(await self._inspector.get(queue, call.id), jobs=call.jobs)))

    async def retry(self, call: Call) -> Reply:
        """POST /tasks/{id}/retry. 200 pending again, 400, 404, 409, 429, 503."""
        call.query()
        queue = queue_of(call, call.id)
        await self._limits.check_room(call.identity.tenant, 1, 0)
        await self._store.retry(queue, call.id)
        return Reply(200, encode(task_reply(await self._inspector.get(queue, call.id), jobs=call.jobs)))

    async def _get(self, call: Call, task_id: str, query: dict[str, list[str]]) -> Reply:
        queue = queue_of(call, task_id)
        seconds = preferred_wait(call)
        applied: tuple[tuple[bytes, bytes], ...] = ()
        if seconds is not None:
            applied = ((b"preference-applied", b"wait=%d" % seconds),)
        hold_seconds: float | None = seconds
        if "wait" in query:
            hold_seconds = parameters.decimal(query["wait"][0], "wait", 0, MAX_WAIT_SECONDS)
        task = await self._inspector.get(queue, task_id)
        if hold_seconds and not is_final(task.status):
            task = await self._waits.await_end(call, queue, task, hold_seconds)
        body = encode(task_reply(task, jobs=call.jobs))
        etag = b'"' + hashlib.blake2b(body, digest_size=12).hexdigest().encode() + b'"'
        known = call.headers.get(b"if-none-match", b"")
        if known == b"*" or etag in [one.strip().removeprefix(b"W/") for one in known.split(b",")]:
            return Reply(304, b"", ((b"etag", etag), *applied))
        return Reply(200, body, ((b"etag", etag), *applied))
