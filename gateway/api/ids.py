"""The names and ids that a request's path holds, checked, and the queues that they mean."""

from __future__ import annotations

from gateway.api.endpoint import Call
from gateway.errors import InvalidId, TaskNotFound
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.tasks import (
    ID,
    ID_RULE,
    JOB_TYPE,
    JOB_TYPE_RULE,
    TENANT,
    TENANT_RULE,
    WORKER_ID,
    WORKER_ID_RULE,
    Queue,
    split_id,
)


def queue_of(call: Call, task_id: str) -> Queue:
    """The caller's queue of a public id; another tenant's task is not found in it.

    Raises InvalidId (malformed), TaskNotFound (it can be nobody's), ForbiddenJobType.
    """
    if not ID.fullmatch(task_id):
        raise InvalidId(ID_RULE)
    parts = split_id(task_id)
    if parts is None:
        raise TaskNotFound(task_id)
    queue = call.identity.queue(parts.job_type)
    return queue.part(parts.partition) if parts.partition else queue


async def queues_of(call: Call, store: TaskStore, registry: Registry, job_type: str | None) -> list[Queue]:
    """The caller's queues, each partition of them: of one job_type, or all it may touch. Raises ForbiddenJobType."""
    if job_type is not None:
        return await store.parts(call.identity.queue(job_type))
    found = await registry.queues(call.identity.tenant)
    return [queue for queue in found if call.identity.may_use(queue.job_type)]


def queue_named(call: Call) -> Queue:
    """The caller's queue of the job_type in the path. Raises InvalidId, ForbiddenJobType."""
    if not JOB_TYPE.fullmatch(call.id):
        raise InvalidId(JOB_TYPE_RULE)
    return call.identity.queue(call.id)


def worker_of(call: Call) -> str:
    """The worker_id in the path. Raises InvalidId."""
    if not WORKER_ID.fullmatch(call.id):
        raise InvalidId(WORKER_ID_RULE)
    return call.id


def tenant_of(call: Call) -> str:
    """The tenant in the path. Raises InvalidId."""
    if not TENANT.fullmatch(call.id):
        raise InvalidId(TENANT_RULE)
    return call.id
