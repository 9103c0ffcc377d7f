"""POST /tasks: one task or a batch, made once however often it is asked for. Protocol, "Producers"."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw

from gateway.api import parameters, problems
from gateway.api.codec import check_media_type
from gateway.api.endpoint import Call, Reply
from gateway.api.ids import queue_of
from gateway.api.replies import encode, task_reply
from gateway.api.requests import JSON, NDJSON, specs_of
from gateway.api.task_messages import ItemResult, ItemResults, TaskBatch
from gateway.api.waits import Waits, preferred_wait
from gateway.errors import (
    BatchRefused,
    InternalError,
    InvalidParameter,
    QueueFull,
    Refusal,
    ShuttingDown,
    StoreFull,
    StoreUnavailable,
    TaskChanged,
    TaskNotFound,
)
from gateway.limits import TenantLimits
from gateway.store.calls import Held
from gateway.store.idempotency import Idempotency, Made
from gateway.store.inspector import Inspector
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.task_manager import TaskManager
from gateway.tasks import Queue, Task, TaskSpec, is_final

_HELD_TRIES = 5
# What may have been done, or may be done yet. With an Idempotency-Key that is no item's answer, to be given again for a
# day: the request is refused as a whole, and its repetition makes what is missing.
_UNSETTLED = (StoreUnavailable, InternalError, StoreFull)


class Enqueue:
    """The handler of POST /tasks. max_body_bytes: more is refused."""

    def __init__(
        self,
        store: TaskStore,
        inspector: Inspector,
        registry: Registry,
        manager: TaskManager,
        waits: Waits,
        idempotency: Idempotency,
        limits: TenantLimits,
        max_body_bytes: int,
    ) -> None:
        self._limits = limits
        self._idempotency = idempotency
        self._store = store
        self._inspector = inspector
        self._registry = registry
        self._manager = manager
        self._waits = waits
        self._max_body_bytes = max_body_bytes

    async def enqueue(self, call: Call) -> Reply:
        """POST /tasks. 201 with Location, 200 (another task holds the unique key, batch in parts, or `Prefer: wait` and
        final), 202 (`Prefer: wait`, not final), 400, 409, 413, 415, 422, 503."""
        if self._manager.closed:
            raise ShuttingDown()
        media = check_media_type(call.headers.get(b"content-type"), (JSON, NDJSON))
        query = call.query("atomic") if call.scope["query_string"] else {}
        key = _idempotency_key(call)
        body = await call.body(self._max_body_bytes)
        atomic = parameters.flag(query, "atomic")
        specs, single = specs_of(call, body, media)
        if key is None:
            if not single or not self._limits.quotas_idle:
                await self._check_quotas(call, len(specs), len(body))
            made = await self._make(call, specs, (), single=single, atomic=atomic)
            return await self._answer(call, made, single=single)
        tenant = call.identity.tenant
        # A token that is limited to other queues makes it another request.
        limited = ",".join(call.identity.job_types).encode()
        request = (b"POST /tasks", call.scope["query_string"], media, body, *([limited] if limited else []))
        names = self._names(tenant, specs, atomic=atomic)
        done, made = await self._idempotency.begin(tenant, key, request, names)
        if not done:
            try:
                if made.names == tuple(names):
                    # What an earlier try may have stored counts already, and must not be held against itself.
                    await self._check_quotas(call, len(specs), len(body))
                made = await self._make(call, specs, made.names, single=single, atomic=atomic)
            except (StoreUnavailable, InternalError):
                # It may have been done: the key stays taken for a moment, then the same ids are tried again.
                raise
            except StoreFull:
                # A full Redis refuses without a look at what an earlier try stored.
                await self._idempotency.pause(tenant, key)
                raise
            except Refusal:
                await self._idempotency.abort(tenant, key)
                raise
            await self._idempotency.finish(tenant, key, made)
        return await self._answer(call, made, single=single, replayed=done)

    async def _check_quotas(self, call: Call, tasks: int, size_bytes: int) -> None:
        self._limits.check_batch(call.identity.tenant, tasks)
        await self._limits.check_room(call.identity.tenant, tasks, size_bytes)

    async def _make(
        self, call: Call, specs: Sequence[TaskSpec | Refusal], names: Sequence[str], *, single: bool, atomic: bool
    ) -> Made:
        """Store what was asked for. Raises what the whole request is refused with."""
        if not single:
            return await self._make_batch(call, specs, names, atomic=atomic)
        (spec,) = specs
        if isinstance(spec, Refusal):
            raise spec
        queue = call.identity.queue(spec.job_type)
        await self._limits.check_queues(queue.tenant, {queue})
        await self._registry.register({queue})
        (outcome,) = await self._store.enqueue(queue, (spec,), names=names)
        task, is_new = await self._stored(queue, spec, outcome, names)
        return Made((), 201 if is_new else 200, task.id, encode(task_reply(task, jobs=call.jobs)))

    async def _make_batch(
        self, call: Call, specs: Sequence[TaskSpec | Refusal], names: Sequence[str], *, atomic: bool
    ) -> Made:
        """Store a batch: the reply is all the tasks, or where some were not stored one entry per item."""
        results = await self._store_batch(call, specs, names, atomic=atomic)
        tasks = [one for one in results if isinstance(one, Task)]
        if len(tasks) == len(results):
            return Made((), 201, "", encode(TaskBatch(tasks=[task_reply(task, jobs=call.jobs) for task in tasks])))
        full = [one for one in results if isinstance(one, QueueFull)]
        if len(full) == len(results) and len({spec.job_type for spec in specs if isinstance(spec, TaskSpec)}) == 1:
            raise full[0]
        if atomic:
            for one in results:
                if isinstance(one, Refusal) and not isinstance(one, BatchRefused):
                    raise one
        entries = [
            await self._entry(call, spec, one, names[number : number + 1])
            for number, (one, spec) in enumerate(zip(results, specs, strict=True))
        ]
        return Made((), 200, "", encode(ItemResults(results=entries)))

    async def _store_batch(
        self, call: Call, specs: Sequence[TaskSpec | Refusal], names: Sequence[str], *, atomic: bool
    ) -> list[Task | Held | Refusal]:
        """Store each queue's share of a batch. Returns what became of each item, in order."""
        wrong = [number for number, spec in enumerate(specs) if isinstance(spec, Refusal)]
        queues: dict[Queue, list[int]] = {}
        for number, spec in enumerate(specs):
            if isinstance(spec, TaskSpec):
                queues.setdefault(Queue(call.identity.tenant, spec.job_type), []).append(number)
        if atomic:
            if wrong:
                raise BatchRefused([self._problem(call, specs[number], number) for number in wrong])
            if len(queues) > 1:
                raise InvalidParameter("atomic", "all tasks of an atomic batch must have the same job_type")
        results: list[Task | Held | Refusal] = [spec if isinstance(spec, Refusal) else ShuttingDown() for spec in specs]
        await self._limits.check_queues(call.identity.tenant, set(queues))
        await self._registry.register(set(queues))
        for queue, numbers in queues.items():
            chosen = [spec for spec in (specs[number] for number in numbers) if isinstance(spec, TaskSpec)]
            mine = [names[number] for number in numbers] if names else ()
            try:
                stored: Sequence[Task | Held | Refusal] = await self._store.enqueue(
                    queue, chosen, atomic=atomic, names=mine
                )
            except Refusal as refusal:
                if len(queues) == 1 and not wrong:
                    raise
                if names and isinstance(refusal, _UNSETTLED):
                    raise _of_the_whole(refusal) from None
                stored = [refusal] * len(numbers)
            for number, one in zip(numbers, stored, strict=True):
                results[number] = one
        return results

    async def _entry(
        self, call: Call, spec: TaskSpec | Refusal, outcome: Task | Held | Refusal, name: Sequence[str]
    ) -> ItemResult:
        try:
            if isinstance(spec, Refusal):
                raise spec
            queue = Queue(call.identity.tenant, spec.job_type)
            task, is_new = await self._stored(queue, spec, outcome, name)
        except Refusal as refusal:
            if name and isinstance(refusal, _UNSETTLED):
                raise _of_the_whole(refusal) from None
            error = Raw(problems.encode(refusal, call.request_id))
            return ItemResult(status=problems.status_of(refusal), error=error)
        return ItemResult(status=201 if is_new else 200, task=task_reply(task, jobs=call.jobs))

    async def _answer(self, call: Call, made: Made, *, single: bool, replayed: bool = False) -> Reply:
        headers: tuple[tuple[bytes, bytes], ...] = ((b"idempotent-replayed", b"true"),) if replayed else ()
        if not single:
            return Reply(made.status, made.body, headers)
        headers += ((b"location", b"/tasks/" + made.task_id.encode()),)
        seconds = preferred_wait(call)
        if seconds is None:
            return Reply(made.status, made.body, headers)
        headers += ((b"preference-applied", b"wait=%d" % seconds),)
        queue = queue_of(call, made.task_id)
        try:
            task = await self._waits.await_end(
                call, queue, await self._inspector.get(queue, made.task_id, with_gone=True), seconds
            )
        except TaskNotFound:
            # It ended and was forgotten already: the reply to its making is the last there is.
            return Reply(made.status, made.body, headers)
        return Reply(200 if is_final(task.status) else 202, encode(task_reply(task, jobs=call.jobs)), headers)

    async def _stored(
        self, queue: Queue, spec: TaskSpec, outcome: Task | Held | Refusal, name: Sequence[str]
    ) -> tuple[Task, bool]:
        """Read what a producer's task became: itself and True, or the one that holds its unique key and False.

        Raises the outcome that is a refusal; TaskChanged when holder after holder is gone before it can be read.
        """
        holder = ""
        for _ in range(_HELD_TRIES):
            if isinstance(outcome, Refusal):
                raise outcome
            if isinstance(outcome, Task):
                return outcome, True
            holder = outcome.task_id
            try:
                return await self._inspector.get(
                    self._store.queue_of(queue.tenant, holder), holder, with_gone=True
                ), False
            except TaskNotFound:
                # Somebody deleted it since, and its key is free by now.
                (outcome,) = await self._store.enqueue(queue, (spec,), names=name)
        raise TaskChanged(holder)

    def _names(self, tenant: str, specs: Sequence[TaskSpec | Refusal], *, atomic: bool) -> list[str]:
        """Make names for what a request with an Idempotency-Key is to store, so that its repetition makes the same."""
        names = [""] * len(specs)
        queues: dict[Queue, list[tuple[int, TaskSpec]]] = {}
        for number, spec in enumerate(specs):
            if isinstance(spec, TaskSpec):
                queues.setdefault(Queue(tenant, spec.job_type), []).append((number, spec))
        for queue, given in queues.items():
            made = self._store.make_names(queue, [spec for _, spec in given], atomic=atomic)
            for (number, _), name in zip(given, made, strict=True):
                names[number] = name
        return names

    def _problem(self, call: Call, spec: TaskSpec | Refusal, number: int) -> object:
        assert isinstance(spec, Refusal)
        return {"index": number, **problems.document(spec, call.request_id)}


def _of_the_whole(refusal: Refusal) -> Refusal:
    """What one item of a batch was refused with, as the answer to all of it: others may be stored."""
    return StoreFull(partly=True) if isinstance(refusal, StoreFull) else refusal


def _idempotency_key(call: Call) -> str | None:
    given = [value for name, value in call.scope["headers"] if name == b"idempotency-key"]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidParameter("Idempotency-Key", "is given twice")
    text: bytes = given[0].strip()
    if len(text) >= 2 and text[:1] == text[-1:] == b'"':
        text = text[1:-1].replace(b'\\"', b'"').replace(b"\\\\", b"\\")
    if not 0 < len(text) <= 255 or not all(0x20 <= byte < 0x7F for byte in text):
        raise InvalidParameter("Idempotency-Key", "is 1 to 255 printable ASCII characters")
    return text.decode()
