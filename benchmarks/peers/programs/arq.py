"""arq: `create_pool` and `enqueue_job`; its worker by `arq benchmarks.peers.programs.arq.WorkerSettings`."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.peers.programs import load
from benchmarks.peers.programs.job import CONCURRENCY, SOCKET, handle

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def empty(context: dict[Any, Any], text: str) -> None:
    """The job."""
    handle(text)


class WorkerSettings:
    """What arq's command line reads."""

    functions = (empty,)
    redis_settings = RedisSettings(unix_socket_path=SOCKET)
    max_jobs = CONCURRENCY
    poll_delay = float(os.environ.get("PEER_POLL_DELAY", "0.5"))


async def main() -> None:
    """Enqueue."""
    pool = await create_pool(RedisSettings(unix_socket_path=SOCKET))
    await load.run(lambda text: pool.enqueue_job("empty", text))


if __name__ == "__main__":
    asyncio.run(main())
