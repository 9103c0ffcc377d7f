"""Short ways to lead a task through its life on a Store, and to look at everything Redis holds."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.errors import TaskNotFound
from gateway.store.calls import Claim, Reported
from gateway.store.inspector import Filter, QueueStats
from gateway.tasks import LeasedTask, Queue, Status, Task, TaskSpec
from tests.harness import Store

QUEUE = Queue("default", "demo")
TAG = "{default:demo}"
ARQ_QUEUE = f"arq:queue:{TAG}"
ERROR = b'{"message":"no"}'
ANY = Filter()
NOTHING = QueueStats(0, 0, 0, 0, 0, 0, 0, {})


async def enqueue(store: Store, queue: Queue = QUEUE, **members: Any) -> Task:
    """Enqueue one task that must be stored."""
    (task,) = await store.tasks.enqueue(queue, [TaskSpec(queue.job_type, **members)])
    assert isinstance(task, Task), task
    return task


async def enqueue_many(store: Store, number: int, **members: Any) -> list[Task]:
    """Enqueue a batch that must be stored. Payloads are 0, 1, 2, .."""
    specs = [TaskSpec("demo", b"%d" % i, **members) for i in range(number)]
    tasks = await store.tasks.enqueue(QUEUE, specs)
    return [task for task in tasks if isinstance(task, Task)]


async def take(
    store: Store, max: int = 1, *, queue: Queue = QUEUE, worker_id: str = "w1", **members: Any
) -> list[LeasedTask]:
    """Poll once, without waiting."""
    claim = Claim(worker_id, max, **members)
    claimed = await store.tasks.claim(queue, [claim], stays=False, others=0, waited_ms=0)
    return claimed.tasks[0]


async def take_one(store: Store, **members: Any) -> LeasedTask:
    """Poll once; there must be one task."""
    (leased,) = await take(store, **members)
    return leased


async def complete(store: Store, leased: LeasedTask, result: bytes = b"null", queue: Queue = QUEUE) -> Reported:
    """Complete a task with the token that it was handed out with."""
    return await store.tasks.complete(queue, leased.task.id, leased.token, result)


async def fail(store: Store, leased: LeasedTask, **members: Any) -> Reported:
    """Fail an attempt with the token that it was handed out with."""
    return await store.tasks.fail(QUEUE, leased.task.id, leased.token, ERROR, ERROR, "no", **members)


async def release(store: Store, leased: LeasedTask, **members: Any) -> Reported:
    """Give a task back with the token that it was handed out with."""
    return await store.tasks.release(QUEUE, leased.task.id, leased.token, **members)


async def read(store: Store, task_id: str, queue: Queue = QUEUE) -> Task:
    """Read a task."""
    return await store.inspector.get(queue, task_id)


async def status_of(store: Store, task_id: str) -> Status | None:
    """Where a task stands. None: there is none."""
    try:
        return (await read(store, task_id)).status
    except TaskNotFound:
        return None


def error_type(task: Task) -> str:
    """The `type` of a task's error."""
    assert task.error is not None
    return str(msgspec.json.decode(task.error)["type"])


async def keyspace(redis: Redis, match: str = "*") -> dict[bytes, tuple[str, Any, bool]]:
    """Everything Redis holds: key -> type, value, whether it has a TTL."""
    found = {}
    async for key in redis.scan_iter(match=match, count=1000):
        kind = (await redis.type(key)).decode()
        if kind == "string":
            value: Any = await redis.get(key)
        elif kind == "hash":
            value = await redis.hgetall(key)
        elif kind == "zset":
            value = await redis.zrange(key, 0, -1, withscores=True)
        elif kind == "set":
            value = await redis.smembers(key)
        else:
            value = await redis.lrange(key, 0, -1)
        found[key] = (kind, value, await redis.pttl(key) >= 0)
    return found
