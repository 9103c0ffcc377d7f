"""The yardstick of batches: the three scripts of a task's life (enqueue, claim, complete) and nothing around them.

Run as `python -m benchmarks.scripts REDIS_URL TASKS BATCH CALLERS`: prints JSON. The gateway's own store calls Redis
over the same lanes as in the gateway, without HTTP, so that calls are encoded, shared and read alike.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop

from gateway.app import LANES
from gateway.store import scripts
from gateway.store.calls import Claim
from gateway.store.connect import Connections
from gateway.store.keys import Keys
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.tasks import LeasedTask, Queue, TaskSpec

_QUEUE = Queue("default", "bench")
_PAYLOAD = b'"' + b"x" * 98 + b'"'


async def run(url: str, tasks: int, batch: int, callers: int) -> dict[str, float]:
    """Enqueue so many tasks, then claim and complete them, by `callers` with one batch each under way.

    Returns the seconds of both, and the tasks completed.
    """
    connections, keys = Connections(url), Keys("tg")
    loaded = scripts.load(keys)
    lanes = {name: connections.lane(loaded, lambda verb, seconds, requests: None) for name in LANES}
    store = TaskStore(keys, lanes, secrets.token_hex(6), 10_000_000)
    await Registry(connections.redis, keys).register({_QUEUE})
    left = iter(range(0, tasks, batch))
    completed = 0

    async def enqueue() -> None:
        for _ in left:
            await store.enqueue(_QUEUE, [TaskSpec("bench", payload=_PAYLOAD)] * batch)

    async def work() -> None:
        nonlocal completed
        while completed < tasks:
            claim = Claim("bench", batch)
            claimed = await store.claim(_QUEUE, [claim], stays=False, others=0, waited_ms=0)
            given: list[LeasedTask] = claimed.tasks[0]
            if not given:
                return  # the others have the last ones in hand
            await asyncio.gather(*(store.complete(_QUEUE, one.task.id, one.token, b"null") for one in given))
            completed += len(given)

    enqueue_seconds = await _timed(enqueue, callers)
    work_seconds = await _timed(work, callers)
    await store.close()
    await connections.close()
    return {"tasks": completed, "enqueue_seconds": enqueue_seconds, "work_seconds": work_seconds}


async def _timed(caller: Callable[[], Awaitable[None]], callers: int) -> float:
    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - begun


if __name__ == "__main__":
    _, redis_url, *numbers = sys.argv
    begun_cpu = time.process_time()
    found = uvloop.run(run(redis_url, *(int(number) for number in numbers)))
    print(json.dumps(found | {"cpu_seconds": time.process_time() - begun_cpu}))
