"""What workers call: poll, heartbeat, complete, fail, release, their batches, and sign-off. Protocol, "Workers"."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.api import problems
from gateway.api.audit import audit
from gateway.api.codec import raw_bytes, read_message
from gateway.api.endpoint import Call, Reply
from gateway.api.ids import queue_of, queues_of, worker_of
from gateway.api.replies import encode, leased_reply
from gateway.api.times import format_time
from gateway.api.worker_messages import (
    Complete,
    DirectiveReply,
    Fail,
    Heartbeat,
    HeartbeatReply,
    Heartbeats,
    HeartbeatsReply,
    LeaseResult,
    LeaseToKeep,
    NewError,
    Next,
    Outcome,
    OutcomeResult,
    Outcomes,
    OutcomesReply,
    Poll,
    PollReply,
    Release,
    ReportReply,
    SignedOff,
    WorkerList,
    WorkerRecord,
)
from gateway.errors import ForbiddenJobType, InvalidMember, InvalidParameter, Refusal, WorkerNotFound
from gateway.store.calls import Kept, Reported
from gateway.store.registry import DirectiveName, Registry
from gateway.store.task_store import TaskStore
from gateway.task_manager import PollRequest, TaskManager
from gateway.tasks import Lease, LeasedTask, Queue

DEFAULT_WAIT_SECONDS = 25.0
MAX_TYPES = 100
_WORKER_RECENT_MS = 300_000
_BRIEF_CHARS = 500
_MEMBERS = {
    "complete": {"result"},
    "fail": {"error", "retryable", "retry_in_seconds", "pause_queue_seconds"},
    "release": {"delay_seconds"},
}
_poll = msgspec.json.Decoder(Poll)
_heartbeat = msgspec.json.Decoder(Heartbeat)
_complete = msgspec.json.Decoder(Complete)
_fail = msgspec.json.Decoder(Fail)
_release = msgspec.json.Decoder(Release)
_outcomes = msgspec.json.Decoder(Outcomes)
_heartbeats = msgspec.json.Decoder(Heartbeats)


class Workers:
    """Handlers for workers. max_body_bytes: more is refused; batches may be that large for each report they hold."""

    def __init__(self, store: TaskStore, registry: Registry, manager: TaskManager, max_body_bytes: int) -> None:
        self._store = store
        self._registry = registry
        self._manager = manager
        self._max_body_bytes = max_body_bytes

    async def poll(self, call: Call) -> Reply:
        """GET /poll, POST /poll. 200, 204, 400, 415, 429, 503."""
        if call.method == "POST":
            message = await read_message(call, _poll, self._max_body_bytes)
        else:
            message = _poll_of_query(call)
        request = _poll_request(call, message)
        tasks = await self._take(call, request)
        directive = (b"x-directive", self._manager.directive(request.tenant, request.worker_id).encode())
        if not tasks:
            return Reply(204, b"", (directive,))
        body = encode(PollReply(tasks=[leased_reply(task) for task in tasks]))
        return Reply(200, body, (directive,), undelivered=lambda: self._manager.hand_back(request, tasks))

    async def heartbeat(self, call: Call) -> Reply:
        """POST /tasks/{id}/heartbeat. 200, 400, 404, 409."""
        queue = queue_of(call, call.id)
        message = await read_message(call, _heartbeat, self._max_body_bytes)
        kept = await self._keep(queue, call.id, message)
        body = HeartbeatReply(
            lease_seconds=kept.lease_ms / 1000,
            cancel_requested=kept.cancel_requested,
            directive=self._manager.directive(call.identity.tenant, kept.worker_id),
        )
        return Reply(200, encode(body))

    async def complete(self, call: Call) -> Reply:
        """POST /tasks/{id}/complete. 200, 400, 404, 409, 413 (the lease goes on)."""
        queue = queue_of(call, call.id)
        message = await read_message(call, _complete, self._max_body_bytes)
        result = raw_bytes(message.result)
        reported = await self._store.complete(queue, call.id, message.lease_token, result)
        return await self._reported(call, queue, call.id, reported, message.next)

    async def fail(self, call: Call) -> Reply:
        """POST /tasks/{id}/fail. 200, 400, 404, 409."""
        queue = queue_of(call, call.id)
        message = await read_message(call, _fail, self._max_body_bytes)
        reported = await self._fail(queue, call.id, message)
        return await self._reported(call, queue, call.id, reported, message.next)

    async def release(self, call: Call) -> Reply:
        """POST /tasks/{id}/release. 200, 400, 404, 409."""
        queue = queue_of(call, call.id)
        message = await read_message(call, _release, self._max_body_bytes)
        delay_ms = round((message.delay_seconds or 0) * 1000)
        reported = await self._store.release(queue, call.id, message.lease_token, delay_ms=delay_ms)
        return await self._reported(call, queue, call.id, reported, None)

    async def outcomes(self, call: Call) -> Reply:
        """POST /outcomes. 200 with one entry per report, 400, 413."""
        message = await read_message(call, _outcomes, self._max_body_bytes)
        results = await asyncio.gather(*(self._outcome(call, one) for one in message.outcomes))
        reply = OutcomesReply(outcomes=results)
        if message.next is None:
            return Reply(200, encode(reply))
        queues = () if _types(message.next) else _queues_of(call, message.outcomes)
        return await self._with_next(call, reply, message.worker_id, queues, message.next)

    async def heartbeats(self, call: Call) -> Reply:
        """POST /heartbeats. 200 with one entry per lease, 400, 413."""
        message = await read_message(call, _heartbeats, self._max_body_bytes)
        leases = await asyncio.gather(*(self._lease(call, one) for one in message.leases))
        directive = self._manager.directive(call.identity.tenant, message.worker_id)
        return Reply(200, encode(HeartbeatsReply(leases=leases, directive=directive)))

    async def list_workers(self, call: Call) -> Reply:
        """GET /workers. 200."""
        call.query()
        now_ms = self._store.now_ms()
        workers = await self._registry.workers(call.identity.tenant, now_ms - _WORKER_RECENT_MS)
        directives = await self._registry.directives(call.identity.tenant)
        held: dict[str, int] = {}
        for leases in (await self._queues_and_leases(call))[1]:
            for lease in leases:
                held[lease.worker_id] = held.get(lease.worker_id, 0) + 1
        records = [
            WorkerRecord(
                id=worker,
                task_types=[one for one in workers[worker].task_types if call.identity.may_use(one)]
                if worker in workers
                else [],
                last_seen_at=format_time(workers[worker].seen_at_ms if worker in workers else now_ms),
                last_seen_seconds=max(0, now_ms - workers[worker].seen_at_ms) / 1000 if worker in workers else 0.0,
                leases=held.get(worker, 0),
                directive=directives.get(worker, "run"),
            )
            for worker in sorted({*workers, *held})
        ]
        return Reply(200, encode(WorkerList(workers=records)))

    async def drain(self, call: Call) -> Reply:
        """POST /workers/{id}/drain. 200, 400."""
        return await self._direct(call, "drain")

    async def stop(self, call: Call) -> Reply:
        """POST /workers/{id}/stop. 200, 400."""
        return await self._direct(call, "stop")

    async def resume(self, call: Call) -> Reply:
        """POST /workers/{id}/run. 200, 400. Takes a directive back."""
        return await self._direct(call, "run")

    async def sign_off(self, call: Call) -> Reply:
        """DELETE /workers/{id}. 200 with how many leases went back, 400, 404."""
        call.query()
        worker_id = worker_of(call)
        whole = not call.identity.job_types
        if whole:
            self._manager.send_home(call.identity.tenant, worker_id)
            await self._manager.settle()
        released = 0
        for queue, leases in zip(*await self._queues_and_leases(call), strict=True):
            mine = [lease for lease in leases if lease.worker_id == worker_id]
            done = await asyncio.gather(
                *(self._store.release(queue, lease.task_id, lease.token) for lease in mine), return_exceptions=True
            )
            released += sum(isinstance(one, Reported) for one in done)
        if not whole:
            # It may be another's worker, too: what it holds of these queues goes back, the rest stays as it is.
            return Reply(200, encode(SignedOff(id=worker_id, released=released)))
        known = await self._registry.forget_worker(call.identity.tenant, worker_id)
        # A worker that came just now stands here, and not yet in the registry.
        seen = self._manager.forget_worker(call.identity.tenant, worker_id)
        if not known and not seen and not released:
            raise WorkerNotFound(worker_id)
        return Reply(200, encode(SignedOff(id=worker_id, released=released)))

    async def _direct(self, call: Call, directive: DirectiveName) -> Reply:
        call.query()
        worker_id = worker_of(call)
        if call.identity.job_types:
            raise ForbiddenJobType("*")
        await self._registry.direct(call.identity.tenant, worker_id, directive)
        audit(call, "directed a worker", worker_id=worker_id, directive=directive)
        return Reply(200, encode(DirectiveReply(id=worker_id, directive=directive)))

    async def _take(self, call: Call, request: PollRequest) -> list[LeasedTask]:
        """Hold the poll until there is something, its time is over, or its client hangs up."""
        call.end_turn()
        poll = self._manager.poll(request)
        connection = call.connection
        if connection is not None:
            connection.on_hang_up(poll.hang_up)
            try:
                return await poll.tasks()
            finally:
                connection.on_hang_up(None)
        watching = asyncio.get_running_loop().create_task(_when_gone(call, poll.hang_up))
        try:
            return await poll.tasks()
        finally:
            watching.cancel()

    async def _reported(self, call: Call, queue: Queue, task_id: str, reported: Reported, next_: Next | None) -> Reply:
        reply = ReportReply(id=task_id, status=reported.status.value)
        if reported.due_ms:
            reply.run_at = format_time(reported.due_ms)
        if next_ is None:
            return Reply(200, encode(reply))
        return await self._with_next(call, reply, reported.worker_id, (queue.whole,), next_)

    async def _with_next(
        self, call: Call, reply: ReportReply | OutcomesReply, worker_id: str, queues: tuple[Queue, ...], next_: Next
    ) -> Reply:
        """Poll again in the same round trip. What was reported stands, whatever becomes of the poll."""
        request = PollRequest(
            call.identity.tenant,
            worker_id or "anonymous",
            tuple(call.identity.queue(name) for name in _types(next_) if call.identity.may_use(name)) or queues,
            1 if next_.max is None else next_.max,
            0.0 if next_.wait is None else next_.wait,
            round((next_.lease_seconds or 0) * 1000),
            next_.poll_id or "",
        )
        try:
            tasks = await self._take(call, request) if request.queues else []
        except Refusal:
            tasks = []
        reply.tasks = [leased_reply(task) for task in tasks]
        directive = (b"x-directive", self._manager.directive(call.identity.tenant, request.worker_id).encode())
        return Reply(200, encode(reply), (directive,), undelivered=lambda: self._manager.hand_back(request, tasks))

    async def _keep(self, queue: Queue, task_id: str, message: Heartbeat | LeaseToKeep) -> Kept:
        return await self._store.heartbeat(
            queue,
            task_id,
            message.lease_token,
            lease_ms=round((message.lease_seconds or 0) * 1000),
            progress=b"" if isinstance(message.progress, UnsetType) else raw_bytes(message.progress),
            lines=message.log or (),
        )

    async def _fail(self, queue: Queue, task_id: str, message: Fail | Outcome) -> Reported:
        error, brief, text = _error_of(message.error)
        pause_ms = round((message.pause_queue_seconds or 0) * 1000)
        return await self._store.fail(
            queue, task_id, message.lease_token, error, brief, text,
            retryable=message.retryable is not False, pause_ms=pause_ms,
            retry_in_ms=None if message.retry_in_seconds is None else round(message.retry_in_seconds * 1000),
        )  # fmt: skip

    async def _outcome(self, call: Call, one: Outcome) -> OutcomeResult:
        try:
            _check_outcome(one)
            queue = queue_of(call, one.id)
            if one.outcome == "complete":
                result = b"null" if isinstance(one.result, UnsetType) else raw_bytes(one.result)
                reported = await self._store.complete(queue, one.id, one.lease_token, result)
            elif one.outcome == "fail":
                reported = await self._fail(queue, one.id, one)
            else:
                delay_ms = round((one.delay_seconds or 0) * 1000)
                reported = await self._store.release(queue, one.id, one.lease_token, delay_ms=delay_ms)
        except Refusal as refusal:
            return OutcomeResult(
                id=one.id, status=problems.status_of(refusal), error=Raw(problems.encode(refusal, call.request_id))
            )
        due = format_time(reported.due_ms) if reported.due_ms else None
        return OutcomeResult(id=one.id, status=200, task_status=reported.status.value, run_at=due)

    async def _lease(self, call: Call, one: LeaseToKeep) -> LeaseResult:
        try:
            kept = await self._keep(queue_of(call, one.id), one.id, one)
        except Refusal as refusal:
            return LeaseResult(
                id=one.id, status=problems.status_of(refusal), error=Raw(problems.encode(refusal, call.request_id))
            )
        return LeaseResult(
            id=one.id, status=200, lease_seconds=kept.lease_ms / 1000, cancel_requested=kept.cancel_requested
        )

    async def _queues_and_leases(self, call: Call) -> tuple[list[Queue], list[list[Lease]]]:
        queues = await queues_of(call, self._store, self._registry, None)
        return queues, await asyncio.gather(*(self._store.leases(queue) for queue in queues))


async def _when_gone(call: Call, hang_up: Any) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass
    hang_up()


def _types(message: Poll | Next) -> list[str]:
    names: list[str] = []
    for given in (message.task_type, message.job_type):
        if given is not None:
            names += [given] if isinstance(given, str) else given
    return list(dict.fromkeys(names))


def _queues_of(call: Call, outcomes: list[Outcome]) -> tuple[Queue, ...]:
    queues: dict[Queue, None] = {}
    for one in outcomes:
        try:
            queues[queue_of(call, one.id).whole] = None
        except Refusal:
            continue  # its own entry says so
    return tuple(queues)


def _poll_request(call: Call, message: Poll) -> PollRequest:
    names = _types(message)
    if not names:
        raise InvalidMember("task_type", "is required: name at least one type of task")
    if len(names) > MAX_TYPES:
        raise InvalidMember("task_type", f"names more than {MAX_TYPES} types")
    return PollRequest(
        call.identity.tenant,
        message.worker_id,
        tuple(call.identity.queue(name) for name in names),
        1 if message.max is None else message.max,
        DEFAULT_WAIT_SECONDS if message.wait is None else message.wait,
        round((message.lease_seconds or 0) * 1000),
        message.poll_id or "",
    )


def _poll_of_query(call: Call) -> Poll:
    query = call.query("worker_id", "wait", "max", "lease_seconds", "poll_id", repeated=("task_type", "job_type"))
    values: dict[str, Any] = {}
    for name, given in query.items():
        values[name] = (
            [one for text in given for one in text.split(",")] if name in ("task_type", "job_type") else given[0]
        )
    for name in ("wait", "lease_seconds"):
        if name in values and not values[name].replace(".", "", 1).isdecimal():
            raise InvalidParameter(name, "is a number of seconds")
    if "max" in values and not values["max"].isdecimal():
        raise InvalidParameter("max", "is a whole number")
    if "worker_id" not in values:
        raise InvalidParameter("worker_id", "is required")
    if "task_type" not in values and "job_type" not in values:
        raise InvalidParameter("task_type", "is required: name at least one type of task")
    try:
        return msgspec.convert(values, Poll, strict=False)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        name = where.rstrip("`").split("[")[0]
        raise InvalidParameter(name or "query", reason[:1].lower() + reason[1:]) from None


def _check_outcome(one: Outcome) -> None:
    for name in ("result", "error", "retryable", "retry_in_seconds", "pause_queue_seconds", "delay_seconds"):
        value = getattr(one, name)
        if value is not None and value is not UNSET and name not in _MEMBERS[one.outcome]:
            raise InvalidMember(name, f"does not go with the outcome {one.outcome}")


def _error_of(error: str | NewError | None) -> tuple[bytes, bytes, str]:
    """An error as JSON, as short JSON for the history, and as text."""
    if error is None:
        error = "failed without a reason"
    if isinstance(error, str):
        error = NewError(message=error)
    kind, message = error.type or "", error.message or ""
    parts: dict[str, Any] = {"type": kind} if kind else {}
    parts["message"] = message
    brief = encode({**parts, "message": message[:_BRIEF_CHARS]})
    if error.stack is not None:
        parts["stack"] = error.stack
    if not isinstance(error.details, UnsetType):
        parts["details"] = Raw(raw_bytes(error.details))
    return encode(parts), brief, f"{kind}: {message}" if kind else message
