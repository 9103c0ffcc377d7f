"""The whole life of tasks in batches of 100: enqueued as arrays, polled, and reported by `/outcomes` with `next`."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.http_server import HttpServer
from benchmarks.redis_server import RedisServer

_BATCH = 100
_CONNECTIONS = 8
_TASKS_PER_SECOND = 15_000


def run(bench: Bench) -> list[Row]:
    """Enqueue a queue full and work it off, round by round.

    Redis alone: the rate at which the scripts would do the same with nothing around them, by the time that Redis counts
    for them (INFO commandstats). It leaves out what Redis spends on the network and the disk.
    """
    tasks = bench.size(int(_TASKS_PER_SECOND * bench.seconds) // _BATCH) * _BATCH
    enqueued, worked, whole, redis_alone, memory_bytes = [], [], [], [], []
    for round_number in range(bench.rounds):
        with bench.redis() as redis, bench.gateway(redis) as gateway:
            servers: list[HttpServer | RedisServer] = [gateway, redis]
            bytes_before, usec_before = redis.used_memory_bytes(), _usec(redis)
            posted = bench.measure(
                "enqueue",
                round_number,
                servers,
                "post",
                gateway.url,
                batch=_BATCH,
                tasks=tasks,
                connections=_CONNECTIONS,
                duration="2m",
            )
            memory_bytes.append((redis.used_memory_bytes() - bytes_before) / tasks)
            done = bench.measure(
                "work",
                round_number,
                servers,
                "work",
                gateway.url,
                max=_BATCH,
                tasks=tasks,
                connections=_CONNECTIONS,
                duration="2m",
            )
            redis_alone.append(tasks * 1e6 / (_usec(redis) - usec_before))
        if done["tasks"] < tasks:
            bench.note(f"round {round_number}: {tasks - done['tasks']} of {tasks} tasks were not done in time")
        enqueued.append(posted["tasks_per_second"])
        worked.append(done["tasks_per_second"])
        whole.append(tasks / (posted["seconds"] + done["seconds"]))
    return [
        Row("enqueue in arrays of 100", "tasks/s", enqueued),
        Row("poll and report 100 at once", "tasks/s", worked),
        Row("whole life in batches of 100", "tasks/s", whole),
        Row("the same scripts in Redis alone", "tasks/s", redis_alone),
        Row("Redis memory of a waiting task", "bytes", memory_bytes),
    ]


def _usec(redis: RedisServer) -> int:
    return redis.script_cost()[1]
