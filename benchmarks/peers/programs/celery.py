"""Celery over Redis, results ignored: `task.delay`; its worker by `celery -A <this module> worker`."""

from __future__ import annotations

from celery import Celery

from benchmarks.peers.programs import load
from benchmarks.peers.programs.job import SOCKET, handle

app = Celery("peers", broker=f"redis+socket://{SOCKET}")


@app.task(name="empty", ignore_result=True)
def empty(text: str) -> None:
    """The job."""
    handle(text)


if __name__ == "__main__":
    load.run_threads(empty.delay)
