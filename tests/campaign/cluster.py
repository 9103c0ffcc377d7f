"""An arena over a Redis Cluster: three primaries with a replica each, that can be killed, stopped and resharded.

The servers append to a file (`appendfsync everysec`): what is killed here is a process, never the machine's power.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from typing import Any

from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.campaign import contents
from tests.campaign.arena import Arena
from tests.campaign.contents import Contents
from tests.campaign.producers import ALL_QUEUES, PARTITIONED_QUEUE
from tests.topologies import ClusterSet, Node, until

_CONFIG = ("appendonly yes", "appendfsync everysec")
_WHOLE_SECONDS = 90.0
# Each partition of a queue has a slot of its own.
PLACES = (*ALL_QUEUES, *(f"{PARTITIONED_QUEUE}/{number}" for number in (1, 2, 3)))
# Keys that are no queue's stand in slots of their own, and move, too.
OTHER_TAGS = ("idempotency:default", "queues", "workers:default", "alarms")


def slot_of(tag: str) -> int:
    """The slot of one of `PLACES` of the tenant `default`, or of one of `OTHER_TAGS`."""
    return int(key_slot(f"{{{tag}}}".encode() if tag in OTHER_TAGS else f"{{default:{tag}}}".encode()))


class ClusterArena(Arena):
    """Gateways over a cluster. `nodes` are its servers; the lock `cluster` keeps changes of it apart."""

    def _prepare_store(self, rng: random.Random) -> list[str]:
        self.nodes = ClusterSet(self.folder / "cluster", config=_CONFIG)
        return [self.nodes.url] * self.size.gateways

    async def _start_store(self) -> None:
        await asyncio.to_thread(self.nodes.start)

    async def _heal_store(self) -> None:
        for node in self.nodes.nodes:
            if node.process is None or node.process.poll() is not None:
                await asyncio.to_thread(node.start)
            node.signal(signal.SIGCONT)
        await self.whole()

    def _stop_store(self) -> None:
        for node in self.nodes.nodes:
            node.close()

    async def contents(self) -> Contents:
        """Read what is left, over HTTP and at each primary."""
        urls = [f"redis://{node.address}/0" for node in await asyncio.to_thread(self.primaries)]
        return await contents.read(self.gateways[0].url, urls)

    def owners(self, asked: Node) -> dict[int, Node]:
        """Who serves the slots of all queues and other keys, as one node sees it. Raises RedisError."""
        found = {}
        view = asked.redis.execute_command("CLUSTER NODES")
        by_address = {node.address: node for node in self.nodes.nodes}
        for tag in (*PLACES, *OTHER_TAGS):
            slot = slot_of(tag)
            for address, facts in view.items():
                served = any(int(span[0]) <= slot <= int(span[-1]) for span in facts["slots"])
                if served and "master" in facts["flags"] and "fail" not in facts["flags"].split(","):
                    found[slot] = by_address[address]
        return found

    def primaries(self) -> list[Node]:
        """The nodes that say themselves that they are primaries."""
        return [node for node in self.nodes.nodes if node.redis.role()[0] == "master"]

    def owner(self, slot: int, *apart: Node) -> Node | None:
        """Who serves a slot, as the first node sees it that answers; None: nobody. apart: whom not to ask."""
        for node in self.nodes.nodes:
            if node not in apart:
                with contextlib.suppress(RedisError):
                    return self.owners(node).get(slot)
        return None

    def queues_of(self, node: Node) -> list[str]:
        """The queues and partitions that a node serves."""
        owners = self.owners(node)
        return [place for place in PLACES if owners.get(slot_of(place)) is node]

    async def whole(self) -> None:
        """Wait until all nodes are up and of one mind, and each primary's replica has all that its primary has."""
        await asyncio.to_thread(until, self._is_whole, _WHOLE_SECONDS, "the cluster did not come together again")

    def _is_whole(self) -> bool:
        views = [self.owners(node) for node in self.nodes.nodes]
        if any(view != views[0] for view in views) or not all(self.nodes.healthy(node) for node in self.nodes.nodes):
            return False
        primaries = self.primaries()
        return len(primaries) == self.nodes.primaries and all(_followed(node) for node in primaries)

    async def replaced(self, victim: Node, slot: int) -> float:
        """Wait until another node serves a slot of a victim's, and says so itself. Returns when (unix seconds)."""

        def done() -> bool:
            heir = self.owner(slot, victim)
            return heir is not None and heir is not victim and self.owners(heir).get(slot) is heir

        await asyncio.to_thread(until, done, 30.0, "no replica took over")
        return time.time()

    def move(self, slot: int, target: Node, keys_at_once: int) -> int:
        """Move a slot, key by key, whatever cuts the connection between the two. Returns how many keys it had."""
        source, moved, deadline = self.nodes.begin_move(slot, target)[0], 0, time.monotonic() + _WHOLE_SECONDS
        while True:
            try:
                keys = source.redis.execute_command("CLUSTER GETKEYSINSLOT", slot, keys_at_once)
                if not keys:
                    break
                where: tuple[Any, ...] = (target.host, target.port, "", 0, 5000, "REPLACE", "KEYS")
                source.redis.execute_command("MIGRATE", *where, *keys)
                moved += len(keys)
            except RedisError:
                if time.monotonic() > deadline:
                    raise
        self.nodes.end_move(slot, source, target)
        return moved


def _followed(primary: Node) -> bool:
    """Whether a replica has acknowledged all that the primary had when we asked."""
    facts = primary.redis.info("replication")
    if facts["connected_slaves"] < 1 or facts["slave0"]["state"] != "online":
        return False
    wanted, deadline = facts["master_repl_offset"], time.monotonic() + 2
    while time.monotonic() < deadline:
        facts = primary.redis.info("replication")
        if facts["connected_slaves"] and facts["slave0"]["offset"] >= wanted:
            return True
    return False
