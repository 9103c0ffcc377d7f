"""taskiq over a Redis stream: `task.kiq`; its worker by `taskiq worker benchmarks.peers.programs.taskiq:broker`."""

from __future__ import annotations

import uvloop
from taskiq_redis import RedisStreamBroker

from benchmarks.peers.programs import load
from benchmarks.peers.programs.job import SOCKET, handle

broker = RedisStreamBroker(url=f"unix://{SOCKET}")


@broker.task(task_name="empty")
async def empty(text: str) -> None:
    """The job."""
    handle(text)


async def main() -> None:
    """Enqueue."""
    await broker.startup()
    await load.run(empty.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
