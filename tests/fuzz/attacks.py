"""What a good client and the gateway's memory are like while others attack. The figures of docs/security.md."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.harness import GatewayProcess

# Kind of attack (tests/fuzz/attackers.py) and connections.
ATTACKS = (
    ("idle", 10_000),
    ("silent", 2000),
    ("slow_headers", 2000),
    ("slow_body", 1000),
    ("endless_chunks", 50),
    ("ten_megabytes", 20),
    ("large_bodies", 200),
    ("deep_bodies", 20),
    ("many_headers", 50),
)
_ROOT = Path(__file__).parents[2]
_READY_SECONDS = 60


class Figures(NamedTuple):
    """A good client's requests while something went on, and the gateway's memory at its most."""

    requests: int
    failed: int
    median_ms: float
    p99_ms: float
    rss_mib: float


def rss_mib(pid: int) -> float:
    """Memory of a process and its children."""
    total = 0
    for one in (pid, *_children(pid)):
        pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return total / 2**20


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.asynccontextmanager
async def attacked(kind: str, port: int, number: int) -> AsyncIterator[None]:
    """Attack a gateway for as long as the block takes."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fuzz.attackers", kind, str(port), str(number),
        cwd=_ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        line = await asyncio.wait_for(child.stdout.readline(), _READY_SECONDS)
        assert line == b"ready\n", f"the attack never began: {line!r}"
        yield
    finally:
        child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), 10)
        except TimeoutError:
            child.kill()
            await child.wait()


async def good_client(url: str, pid: int, seconds: float) -> Figures:
    """Enqueue and read tasks, two at a time, for so long; look at the memory meanwhile."""
    took: list[float] = []
    failed, most = 0, 0.0
    ends = time.monotonic() + seconds

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal failed
        while time.monotonic() < ends:
            started = time.perf_counter()
            try:
                made = await client.post("/tasks", json={"job_type": "good", "retention_seconds": 0})
                ok = made.status_code == 201
                if ok:
                    await client.delete(made.headers["Location"])
            except httpx.HTTPError:
                ok = False
            took.append((time.perf_counter() - started) * 1000)
            failed += not ok

    async def look() -> None:
        nonlocal most
        while time.monotonic() < ends:
            most = max(most, rss_mib(pid))
            await asyncio.sleep(0.1)

    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        await asyncio.gather(one(client), one(client), look())
    took.sort()
    return Figures(len(took), failed, took[len(took) // 2], took[int(len(took) * 0.99)], most)


async def measure(redis_url: str, folder: Path, seconds: float = 10) -> str:
    """Attack a gateway of its own in every way. Returns a table in Markdown."""
    gateway = GatewayProcess(redis_url, folder, LOG_LEVEL="error")
    await gateway.start()
    assert gateway.process is not None
    rows = ["| attack | connections | good requests | failed | median ms | p99 ms | memory MiB |",
            "| --- | --: | --: | --: | --: | --: | --: |"]  # fmt: skip
    try:
        await good_client(gateway.url, gateway.process.pid, 2)
        for kind, number in (("none", 0), *ATTACKS, ("none, afterwards", 0)):
            if number:
                async with attacked(kind, gateway.port, number):
                    found = await good_client(gateway.url, gateway.process.pid, seconds)
            else:
                found = await good_client(gateway.url, gateway.process.pid, seconds)
            rows.append(
                f"| {kind.replace('_', ' ')} | {number:,} | {found.requests:,} | {found.failed} | "
                f"{found.median_ms:.1f} | {found.p99_ms:.1f} | {found.rss_mib:.0f} |"
            )
            print(rows[-1], flush=True)
        return "\n".join(rows)
    finally:
        await gateway.end()
