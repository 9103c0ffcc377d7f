"""The yardstick of a task's life: arq's own worker running an empty function over a queue filled beforehand.

Run as `python -m benchmarks.native_arq SOCKET SECONDS WARMUP_SECONDS MAX_JOBS POLL_DELAY_SECONDS`: prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from typing import Any

import redis
import uvloop
from arq.connections import RedisSettings
from arq.constants import default_queue_name, job_key_prefix
from arq.jobs import serialize_job
from arq.worker import Worker, func

_FUNCTION = "empty"
_KEPT_SECONDS = 86_400


async def empty(context: dict[Any, Any], payload: str) -> None:
    """Do nothing."""


def fill(client: redis.Redis, jobs: int, payload_bytes: int) -> None:
    """Store `jobs` jobs as `ArqRedis.enqueue_job` does, in pipelines: how fast arq enqueues is not measured here."""
    payload = "x" * payload_bytes
    for first in range(0, jobs, 1000):
        now_ms = int(time.time() * 1000)
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(1000, jobs - first)):
            job_id = uuid.uuid4().hex
            body = serialize_job(_FUNCTION, (payload,), {}, None, now_ms)
            pipeline.psetex(job_key_prefix + job_id, _KEPT_SECONDS * 1000, body)
            pipeline.zadd(default_queue_name, {job_id: now_ms})
        pipeline.execute()


async def work(
    socket: str, seconds: float, warmup_seconds: float, max_jobs: int, poll_delay_seconds: float
) -> dict[str, float]:
    """Run a worker and count the jobs that it completes within `seconds`, after warming up."""
    worker = Worker(
        [func(empty, name=_FUNCTION)],  # type: ignore[arg-type]  # arq's protocol wants *args, which no job function has
        redis_settings=RedisSettings(unix_socket_path=socket),
        max_jobs=max_jobs,
        poll_delay=poll_delay_seconds,
        handle_signals=False,
    )
    running = asyncio.create_task(worker.async_run())
    await asyncio.sleep(warmup_seconds)
    begun, already, cpu = time.perf_counter(), worker.jobs_complete, time.process_time()
    await asyncio.sleep(seconds)
    took, done, cpu = time.perf_counter() - begun, worker.jobs_complete - already, time.process_time() - cpu
    if running.done():
        running.result()  # raises what ended it
    failed = worker.jobs_failed
    running.cancel()
    await asyncio.wait([running])
    return {"tasks": done, "seconds": took, "tasks_per_second": done / took, "failed": failed, "cpu_seconds": cpu}


if __name__ == "__main__":
    _, socket_path, *numbers = sys.argv
    length, warmup, jobs_at_once, poll_delay = (float(number) for number in numbers)
    print(json.dumps(uvloop.run(work(socket_path, length, warmup, int(jobs_at_once), poll_delay))))
