"""What is measured every few seconds: memory, open files and CPU of each process, Redis, latencies, depths."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from redis.asyncio import Redis

_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct, frozen=True):
    """One process. memory_bytes: its own pages, in memory or swapped out; pages of files are left out."""

    memory_bytes: int
    open_files: int
    cpu_seconds: float


class Sample(msgspec.Struct, frozen=True):
    """One moment. Times are seconds since the load began; latencies are of what ended since the sample before.

    ended: tasks that ended so far. control_ms: of GET /health/live, which does nothing: what the machine takes.
    """

    seconds: float
    gateways: list[Usage]
    redis: Usage
    used_memory_bytes: int
    redis_keys: int
    redis_clients: int
    client_memory_bytes: int
    load_average: float
    acknowledged: int
    ended: int
    open: int
    pending: int
    scheduled: int
    processing: int
    post_ms: tuple[float | None, float | None]
    dispatch_ms: tuple[float | None, float | None]
    control_ms: tuple[float | None, float | None]


def usage(pid: int) -> Usage:
    """Read what a process uses."""
    folder = Path(f"/proc/{pid}")
    facts = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    memory_bytes = sum(int(facts[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))
    # The name of the program, in brackets, may have spaces; utime and stime are the 14th and 15th field.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return Usage(memory_bytes, len(os.listdir(folder / "fd")), (int(fields[11]) + int(fields[12])) / _TICKS)


async def redis_facts(redis: Redis) -> tuple[int, int, int]:
    """Ask Redis for used_memory (bytes), its number of keys and of clients."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.info("memory")
        pipe.info("clients")
        pipe.dbsize()
        memory, clients, keys = await pipe.execute()
    return int(memory["used_memory"]), int(keys), int(clients["connected_clients"])
