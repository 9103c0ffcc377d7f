"""streaq: `task.enqueue` and `Worker.enqueue_many`; its worker by `streaq run <this module>:worker`."""

from __future__ import annotations

from collections.abc import Sequence

import uvloop
from streaq import Worker

from benchmarks.peers.programs import load
from benchmarks.peers.programs.job import CONCURRENCY, SOCKET, handle

worker: Worker[None] = Worker(redis_url=f"unix://{SOCKET}", concurrency=CONCURRENCY, anyio_kwargs={"use_uvloop": True})


@worker.task(name="empty")
async def empty(text: str) -> None:
    """The job."""
    handle(text)


async def enqueue_many(texts: Sequence[str]) -> None:
    """Store them in one pipeline, as streaq recommends."""
    await worker.enqueue_many([empty.enqueue(text) for text in texts])


async def enqueue(text: str) -> None:
    """Store one."""
    await empty.enqueue(text)


async def main() -> None:
    """Enqueue."""
    async with worker:
        await load.run(enqueue, enqueue_many)


if __name__ == "__main__":
    uvloop.run(main())
