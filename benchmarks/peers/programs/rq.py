"""RQ: `Queue.enqueue` and `Queue.enqueue_many`; its worker by `rq worker`."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis
from rq import Queue

from benchmarks.peers.programs import job, load

queue = Queue(connection=Redis(unix_socket_path=job.SOCKET))


def enqueue(text: str) -> None:
    """Store one."""
    queue.enqueue(job.handle, text)


def enqueue_many(texts: Sequence[str]) -> None:
    """Store them in one pipeline."""
    queue.enqueue_many([Queue.prepare_data(job.handle, (text,)) for text in texts])


if __name__ == "__main__":
    load.run_threads(enqueue, enqueue_many)
