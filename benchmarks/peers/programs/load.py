"""Enqueueing from Python: the command line that all programs share, for asyncio and for threads.

enqueue SECONDS WARMUP_SECONDS CONCURRENCY BATCH JOBS
    Closed loop: CONCURRENCY callers enqueue, each as soon as it was answered, for that time or until JOBS are stored.
send RATE SECONDS
    One job at a time at that rate, none held up by the one before.
Each prints one JSON object. Only the standard library and uvloop are imported.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.peers.programs.job import payload

Enqueue = Callable[[str], object]
EnqueueMany = Callable[[Sequence[str]], object]
AsyncEnqueue = Callable[[str], Awaitable[object]]
AsyncEnqueueMany = Callable[[Sequence[str]], Awaitable[object]]


class Tally:
    """What a closed loop did: calls and jobs, and how long the calls within the window took."""

    def __init__(self, seconds: float, warmup_seconds: float, batch: int, jobs: int) -> None:
        self.begun, self.cpu = time.monotonic(), time.process_time()
        self.warm = self.begun + warmup_seconds
        self.until = self.warm + seconds
        self.batch, self.jobs = batch, jobs
        self.took_ms: list[float] = []
        self.counted = self.stored = 0
        self._asked = itertools.count(batch, batch)
        self._lock = threading.Lock()

    def goes_on(self) -> bool:
        """Whether another call is to be made."""
        return time.monotonic() < self.until and not (self.jobs and next(self._asked) > self.jobs)

    def note(self, start: float) -> None:
        """Count a call that began then and was answered now."""
        now = time.monotonic()
        with self._lock:
            self.stored += self.batch
            if self.warm <= now <= self.until:
                self.counted += self.batch
                self.took_ms.append((now - start) * 1000)

    def report(self) -> dict[str, object]:
        """The figures. `stored` and `cpu_seconds` count the warm-up too, the others do not."""
        seconds = min(self.until, time.monotonic()) - self.warm
        took_ms = sorted(self.took_ms) or [0.0]
        return {
            "jobs_per_second": self.counted / seconds if seconds > 0 else 0.0,
            "stored": self.stored,
            "cpu_seconds": time.process_time() - self.cpu,
            "call_p50_ms": took_ms[len(took_ms) // 2],
            "call_p99_ms": took_ms[int(0.99 * (len(took_ms) - 1))],
        }


async def run(enqueue: AsyncEnqueue, enqueue_many: AsyncEnqueueMany | None = None) -> None:
    """Do what the command line says, on this event loop."""
    verb, numbers = _command_line()
    if verb == "send":
        rate, seconds = numbers
        await _send(enqueue, rate, seconds)
        return
    seconds, warmup_seconds, concurrency, batch, jobs = numbers
    tally = Tally(seconds, warmup_seconds, int(batch), int(jobs))

    async def caller() -> None:
        while tally.goes_on():
            start = time.monotonic()
            if tally.batch == 1:
                await enqueue(payload())
            else:
                assert enqueue_many is not None
                await enqueue_many([payload() for _ in range(tally.batch)])
            tally.note(start)

    await asyncio.gather(*(caller() for _ in range(int(concurrency))))
    print(json.dumps(tally.report()))


def run_threads(enqueue: Enqueue, enqueue_many: EnqueueMany | None = None) -> None:
    """Do what the command line says, each caller in a thread of its own."""
    verb, numbers = _command_line()
    if verb == "send":
        rate, seconds = numbers
        with ThreadPoolExecutor(8) as pool:
            for moment in _moments(rate, seconds):
                time.sleep(max(0.0, moment - time.monotonic()))
                pool.submit(enqueue, payload())
        print(json.dumps({"sent": int(rate * seconds)}))
        return
    seconds, warmup_seconds, concurrency, batch, jobs = numbers
    tally = Tally(seconds, warmup_seconds, int(batch), int(jobs))

    def caller() -> None:
        while tally.goes_on():
            start = time.monotonic()
            if tally.batch == 1:
                enqueue(payload())
            else:
                assert enqueue_many is not None
                enqueue_many([payload() for _ in range(tally.batch)])
            tally.note(start)

    with ThreadPoolExecutor(int(concurrency)) as pool:
        for done in [pool.submit(caller) for _ in range(int(concurrency))]:
            done.result()
    print(json.dumps(tally.report()))


async def _send(enqueue: AsyncEnqueue, rate: float, seconds: float) -> None:
    sent = []
    for moment in _moments(rate, seconds):
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        sent.append(asyncio.ensure_future(enqueue(payload())))
    await asyncio.gather(*sent)
    print(json.dumps({"sent": len(sent)}))


def _moments(rate: float, seconds: float) -> list[float]:
    begun = time.monotonic()
    return [begun + number / rate for number in range(int(rate * seconds))]


def _command_line() -> tuple[str, list[float]]:
    _, verb, *numbers = sys.argv
    return verb, [float(number) for number in numbers]
