"""How long recovery takes: python -m tests.campaign.recovery [--times N].

A killed worker's task, Redis after outages of half a second and of ten, the other gateways when one is killed, without
load and beside producers and workers: each N times, in ms.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.campaign.arena import Arena, Size
from tests.campaign.disks import Disk
from tests.campaign.history import Log
from tests.campaign.network import Network
from tests.campaign.producers import unix
from tests.campaign.wire import Client

_ROOT = Path(__file__).parents[2]
_LEASE_SECONDS = 1.0
_GAP_SECONDS = 1.0


class Watch:
    """Measures recovery on an arena. Each method measures once and returns seconds."""

    def __init__(self, arena: Arena, folder: Path) -> None:
        self._arena = arena
        self._log = Log(folder / "recovery.jsonl", "recovery")

    def client(self, *gateways: int) -> Client:
        """Make a client of these gateways."""
        doors = [("127.0.0.1", self._arena.gateways[number].port) for number in gateways]
        return Client("watch", doors, self._log, random.Random(1))

    async def killed_worker(self) -> float:
        """From the end of a lease whose worker is gone to its next hand-out, by the store's clock."""
        task = {"job_type": "watch", "lease_seconds": _LEASE_SECONDS}
        first, second = self.client(0), self.client(1)
        await first.call("enqueue", {}, "POST", "/tasks", task)
        given = await _poll(first, "gone")
        first.close()
        again = await _poll(second, "heir", wait=10)
        await second.call(
            "complete", {}, "POST", f"/tasks/{again['id']}/complete", {"lease_token": again["lease_token"]}
        )
        second.close()
        assert given["id"] == again["id"]
        return unix(again["started_at"]) - (unix(given["started_at"]) + given["lease_seconds"])

    async def restarted_redis(self, outage_seconds: float) -> float:
        """From the moment Redis answers again to the moment when every gateway has stored a task."""
        await asyncio.to_thread(self._arena.redis.end)
        await asyncio.sleep(outage_seconds)
        await asyncio.to_thread(self._arena.redis.start)
        back = time.monotonic()
        waits = await asyncio.gather(*(self._until_stored(number) for number in range(len(self._arena.gateways))))
        return max(waits) - back

    async def killed_gateway(self) -> float:
        """The longest time between two answers of the other gateways while one is killed."""
        node = self._arena.gateways[0]
        killing = asyncio.create_task(asyncio.to_thread(node.end))
        longest = await self.longest_gap()
        await killing
        node.start()
        await asyncio.to_thread(node.wait_ready)
        return longest

    async def longest_gap(self) -> float:
        """The longest time between two answers of all gateways but the first, within a second."""
        client = self.client(1, 2)
        answers = [time.monotonic()]
        while answers[-1] - answers[0] < _GAP_SECONDS:
            reply = await client.call("enqueue", {}, "POST", "/tasks", {"job_type": "watch-gap"})
            assert reply.status == 201, reply
            answers.append(time.monotonic())
        client.close()
        return max(after - before for before, after in itertools.pairwise(answers))

    async def _until_stored(self, number: int) -> float:
        client = self.client(number)
        while True:
            reply = await client.call("enqueue", {}, "POST", "/tasks", {"job_type": "watch-restart"})
            if reply.status == 201:
                client.close()
                return time.monotonic()
            await asyncio.sleep(0.01)


async def _poll(client: Client, worker: str, wait: float = 5) -> dict[str, Any]:
    body = {"worker_id": worker, "task_type": ["watch"], "wait": wait}
    reply = await client.call("poll", {}, "POST", "/poll", body, seconds=wait + 5)
    assert reply.status == 200, reply
    return dict(reply.body["tasks"][0])


async def measure(times: int, source: Path, folder: Path) -> dict[str, list[float]]:
    """Measure each recovery so many times, first without load and then under it. Returns seconds by its name."""
    size = Size(queue_size=1_000_000, workers=1)
    arena = Arena(folder, source, size, 1, disk=Disk(folder / "data"), network=Network(), skewed_clocks=False)
    try:
        await arena.start()
        watch = Watch(arena, folder)
        idle: dict[str, Callable[[], Awaitable[float]]] = {
            "killed worker's task after its lease": watch.killed_worker,
            "every gateway after Redis was away for 0.5 s": functools.partial(watch.restarted_redis, 0.5),
            "every gateway after Redis was away for 10 s": functools.partial(watch.restarted_redis, 10.0),
            "longest gap when a gateway is killed": watch.killed_gateway,
        }
        under_load: dict[str, Callable[[], Awaitable[float]]] = {
            "longest gap under load": watch.longest_gap,
            "longest gap when a gateway is killed under load": watch.killed_gateway,
        }
        found = {name: [await once() for _ in range(times)] for name, once in idle.items()}
        await arena.start_clients()
        return found | {name: [await once() for _ in range(times)] for name, once in under_load.items()}
    finally:
        await arena.stop()


def main() -> None:
    """Measure and print medians and worst cases."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.recovery", description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--source", type=Path, default=_ROOT)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="campaign-recovery-"))
    for name, seconds in asyncio.run(measure(given.times, given.source.resolve(), folder)).items():
        median, worst = 1000 * statistics.median(seconds), 1000 * max(seconds)
        print(f"{name}: median {median:.1f} ms, worst {worst:.1f} ms of {len(seconds)}")


if __name__ == "__main__":
    main()
