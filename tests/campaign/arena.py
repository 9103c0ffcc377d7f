"""Where a campaign takes place: one Redis, several gateways, their clients, and proxies in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from tests.campaign import contents
from tests.campaign.contents import Contents
from tests.campaign.disks import Disk
from tests.campaign.history import Fault, Log
from tests.campaign.network import Network
from tests.campaign.producers import SETTINGS
from tests.campaign.proxy import FaultProxy
from tests.campaign.servers import GatewayNode, LoadNode, RedisNode, Server, free_port

_FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
)


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How big a campaign is. producers, workers: processes of so many clients each; queue_size: TASK_QUEUE_SIZE."""

    gateways: int = 3
    producers: int = 1
    workers: int = 2
    clients: int = 12
    queue_size: int = 400


class Arena:
    """The processes, the proxies and what is known of them. One lock per name keeps faults on one thing apart.

    settings: of the gateways, as variables of their environment.
    """

    def __init__(
        self, folder: Path, source: Path, size: Size, seed: int, *, disk: Disk, network: Network, skewed_clocks: bool,
        **settings: str,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.size = size
        self.disk = disk
        self.network = network
        self.locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.log = Log(folder / "nemesis.jsonl", "nemesis")
        rng = random.Random(f"{seed} proxies")
        self.store_links: list[FaultProxy] = []
        self.client_links: list[FaultProxy] = []
        self.gateways: list[GatewayNode] = []
        self.clocks: list[Path] = []
        self._store_ports: list[int] = []
        for number, url in enumerate(self._prepare_store(rng)):
            env = self._clock(number) if skewed_clocks else {}
            node = GatewayNode(number, source, folder, url, size.queue_size, **settings, **env)
            self.gateways.append(node)
            self.client_links.append(FaultProxy("127.0.0.1", node.port, rng))
        self._seed = seed
        self.producers: list[LoadNode] = []
        self.workers: list[LoadNode] = []
        self.drains: list[LoadNode] = []

    @property
    def clients(self) -> list[LoadNode]:
        """The processes full of producers and workers, those that drain included."""
        return [*self.producers, *self.workers, *self.drains]

    def _prepare_store(self, rng: random.Random) -> list[str]:
        """Make what the gateways keep their tasks in. Returns the URL that each of them finds it at."""
        self.redis = RedisNode(self.folder, self.disk.path, self.network.redis_addresses(self.size.gateways))
        urls = []
        for number, address in enumerate(self.redis.addresses):
            self.store_links.append(FaultProxy(address, self.redis.port, rng))
            self._store_ports.append(free_port())
            # The first gateway talks to Redis directly, the others through their proxies.
            place = f"127.0.0.1:{self._store_ports[-1]}" if number else f"{address}:{self.redis.port}"
            urls.append(f"redis://{place}/0")
        return urls

    async def _start_store(self) -> None:
        await asyncio.to_thread(self.redis.start)
        for number, (link, port) in enumerate(zip(self.store_links, self._store_ports, strict=True)):
            if number:
                await link.start(port)

    async def _heal_store(self) -> None:
        if not self.redis.running:
            await asyncio.to_thread(self.redis.start)

    def _stop_store(self) -> None:
        self.redis.end()
        Path(self.redis.socket).unlink(missing_ok=True)

    async def contents(self) -> Contents:
        """Read what is left, over HTTP and in Redis."""
        return await contents.read(self.gateways[0].url, [self.redis.url])

    def _clock(self, number: int) -> dict[str, str]:
        library = next((path for path in _FAKETIME if path.exists()), None)
        if library is None:
            raise RuntimeError("the fault `clocks` needs libfaketime (Debian: faketime)")
        clock = self.folder / f"clock-{number}"
        clock.write_text("+0")
        self.clocks.append(clock)
        return {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    async def start(self) -> None:
        """Start everything but the clients."""
        await self._start_store()
        for node in self.gateways:
            node.start()
        for node, link in zip(self.gateways, self.client_links, strict=True):
            await asyncio.to_thread(node.wait_ready)
            await link.start()
        for queue, settings in SETTINGS.items():
            await asyncio.to_thread(self.configure, self.gateways[0], queue, settings)

    def configure(self, gateway: GatewayNode, queue: str, settings: dict[str, float]) -> None:
        """Set a queue's settings. Raises OSError when there is no answer, or a refusal."""
        request = urllib.request.Request(
            f"{gateway.url}/queues/{queue}", msgspec.json.encode(settings),
            {"Content-Type": "application/json"}, method="PUT",
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as reply:
            reply.read()

    async def start_clients(self) -> None:
        """Start producers and workers; a busy machine may take a while until they send."""
        size = self.size
        self.producers = [self._load("producers", number) for number in range(size.producers)]
        self.workers = [self._load("workers", number) for number in range(size.workers)]
        for node in (*self.producers, *self.workers):
            node.start()
        for node in (*self.producers, *self.workers):
            await asyncio.to_thread(node.wait_sending)

    def start_drain(self) -> LoadNode:
        """Start quiet workers that finish what is left."""
        node = self._load("drain", len(self.drains))
        self.drains.append(node)
        node.start()
        return node

    def _load(self, role: str, number: int) -> LoadNode:
        doors = [f"127.0.0.1:{node.port}" for node in self.gateways]
        if role != "drain":
            doors += [f"127.0.0.1:{link.port}" for link in self.client_links]
        return LoadNode(role, number, self.folder, self._seed, self.size.clients, doors)

    def counts(self) -> dict[str, int]:
        """Ask a gateway how many tasks wait or are worked on, all queues together; raises OSError."""
        with urllib.request.urlopen(f"{self.gateways[0].url}/queues", timeout=10) as reply:
            queues = msgspec.json.decode(reply.read())["queues"]
        return {name: sum(queue[name] for queue in queues) for name in ("pending", "scheduled", "processing")}

    async def heal(self) -> None:
        """End every fault: whatever is down comes up, whatever is broken works again."""
        for link in (*self.store_links, *self.client_links):
            link.break_by("", 0.0)
        self.network.heal()
        for clock in self.clocks:
            clock.write_text("+0")
        await self._heal_store()
        for node in self.gateways:
            if not node.running:
                node.start()
            await asyncio.to_thread(node.wait_ready)

    async def stop(self) -> None:
        """End every process."""
        nodes: list[Server] = [*self.clients, *self.gateways]
        for node in nodes:
            await asyncio.to_thread(node.end)
        await asyncio.to_thread(self._stop_store)
        for link in (*self.store_links, *self.client_links):
            await link.stop()
        self.disk.unmount()
        self.network.heal()

    @contextlib.asynccontextmanager
    async def fault(self, name: str, target: str, note: str = "") -> AsyncIterator[dict[str, Any]]:
        """Hold the target's lock and note a fault, start to end. What is yielded are members of `Fault`, to be set."""
        async with self.locks[target]:
            at = time.time()
            facts: dict[str, Any] = {"target": target, "note": note}
            try:
                yield facts
            finally:
                self.log.write(Fault(name=name, at=at, until=time.time(), **facts))


def running_as_root() -> bool:
    """Whether mounts and network namespaces can be made."""
    return os.geteuid() == 0
