"""Who is measured, and how each runs its worker: as its own documentation shows, one worker process, its own default
concurrency unless the note says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

GATEWAY = "tasks-gateway"


@dataclass(frozen=True)
class Contender:
    """One row of the tables.

    program: its file in programs/ (Go: the system's name there). packages: what is installed for it, always the latest.
    worker: the command of its worker; {bin} is its virtualenv's bin, {socket} Redis's path.
    concurrency: how many jobs its worker runs at once. batches: whether it can enqueue many jobs in one call.
    own_client: False for another worker of the one before it, whose enqueueing would only be measured twice.
    jobs_per_second: more than its worker can do: so many are put into the queue before it starts.
    settings: further environment variables. note: how its worker runs, for the reader.
    url: where its server already runs; empty for one that works on the private Redis.
    """

    name: str
    program: str
    language: Literal["python", "node", "go"]
    note: str
    worker: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    concurrency: int = 1
    batches: bool = False
    own_client: bool = True
    jobs_per_second: int = 5_000
    settings: Mapping[str, str] = field(default_factory=dict)
    url: str = ""


_MODULE = "benchmarks.peers.programs."

LIBRARIES = (
    Contender(
        "arq",
        "arq",
        "python",
        "10 coroutines, a look every 0.5 s: its defaults",
        worker=("{bin}/arq", _MODULE + "arq.WorkerSettings"),
        packages=("arq", "uvloop"),
        concurrency=10,
        jobs_per_second=1_500,
    ),
    Contender(
        "arq, tuned",
        "arq",
        "python",
        "100 coroutines, a look every 0.01 s",
        worker=("{bin}/arq", _MODULE + "arq.WorkerSettings"),
        packages=("arq", "uvloop"),
        concurrency=100,
        own_client=False,
        settings={"PEER_POLL_DELAY": "0.01"},
    ),
    Contender(
        "SAQ",
        "saq",
        "python",
        "10 coroutines, its default",
        worker=("{bin}/saq", _MODULE + "saq.settings"),
        packages=("saq[redis,hiredis]", "typing_extensions", "uvloop"),  # it imports typing_extensions unasked for
        concurrency=10,
    ),
    Contender(
        "streaq",
        "streaq",
        "python",
        "16 coroutines, its default",
        worker=("{bin}/streaq", "run", _MODULE + "streaq:worker"),
        packages=("streaq", "uvloop"),
        concurrency=16,
        batches=True,
        jobs_per_second=4_000,
    ),
    Contender(
        "taskiq",
        "taskiq",
        "python",
        "Redis stream, 100 coroutines (its default), one process instead of two",
        worker=("{bin}/taskiq", "worker", "--workers", "1", _MODULE + "taskiq:broker"),
        packages=("taskiq", "taskiq-redis", "hiredis", "uvloop"),
        concurrency=100,
        jobs_per_second=10_000,
    ),
    Contender(
        "RQ",
        "rq",
        "python",
        "one job at a time, a fork for each: its default",
        worker=("{bin}/rq", "worker", "--quiet", "--url", "unix://{socket}"),
        packages=("rq", "hiredis"),
        batches=True,
        jobs_per_second=500,
    ),
    Contender(
        "RQ, no fork",
        "rq",
        "python",
        "one job at a time by its SimpleWorker",
        worker=(
            *("{bin}/rq", "worker", "--quiet", "--url", "unix://{socket}"),
            *("--worker-class", "rq.worker.SimpleWorker"),
        ),
        packages=("rq", "hiredis"),
        batches=True,
        own_client=False,
        jobs_per_second=2_500,
    ),
    Contender(
        "Celery",
        "celery",
        "python",
        "prefork, one child per core: its default; no result backend",
        worker=("{bin}/celery", "-A", _MODULE + "celery", "worker", "--loglevel", "WARNING"),
        packages=("celery[redis]", "hiredis"),
        concurrency=os.cpu_count() or 1,
        jobs_per_second=4_000,
    ),
    Contender(
        "BullMQ",
        "bullmq",
        "node",
        "100 jobs at once; its default is 1",
        packages=("bullmq", "ioredis"),
        concurrency=100,
        batches=True,
        jobs_per_second=40_000,
    ),
    Contender(
        "asynq",
        "asynq",
        "go",
        "10 goroutines, as in its README; a look every second when idle, its default",
        packages=("github.com/hibiken/asynq",),
        concurrency=10,
        jobs_per_second=40_000,
    ),
)

SERVERS = {
    "lmstfy": Contender(
        "lmstfy", "lmstfy", "go", "64 connections, each GET, then DELETE", concurrency=64, jobs_per_second=15_000
    ),
    "ocypod": Contender(
        "ocypod", "ocypod", "go", "64 connections, each GET, then PATCH; 0.1 s when empty", concurrency=64
    ),
    "faktory": Contender(
        "Faktory",
        "faktory",
        "go",
        "64 connections, each FETCH, then ACK",
        concurrency=64,
        batches=True,
        jobs_per_second=40_000,
    ),
}
