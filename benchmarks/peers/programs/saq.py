"""SAQ: `Queue.enqueue`; its worker by `saq benchmarks.peers.programs.saq.settings`."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

from benchmarks.peers.programs import load
from benchmarks.peers.programs.job import CONCURRENCY, SOCKET, handle

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = RedisQueue(Redis(unix_socket_path=SOCKET))  # Queue.from_url takes no unix socket


async def empty(context: dict[str, Any], *, text: str) -> None:
    """The job."""
    handle(text)


settings = {"queue": queue, "functions": [empty], "concurrency": CONCURRENCY}


async def main() -> None:
    """Enqueue."""
    await queue.connect()
    await load.run(lambda text: queue.enqueue("empty", text=text))
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
