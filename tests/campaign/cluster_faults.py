"""What the nemesis can do to a Redis Cluster. Faults of its servers exclude each other; those of others may coincide.

A primary is not killed while a slot moves to it: Redis itself loses keys then that have not reached its replica yet.
"""

from __future__ import annotations

import asyncio
import random
import signal

from redis.exceptions import RedisError

from tests.campaign.arena import Arena
from tests.campaign.cluster import OTHER_TAGS, PLACES, ClusterArena, slot_of
from tests.campaign.producers import ORDER_QUEUE, PARTITIONED_QUEUE


def _cluster(arena: Arena) -> ClusterArena:
    assert isinstance(arena, ClusterArena)
    return arena


async def primary_kill(arena: Arena, rng: random.Random) -> None:
    """kill -9 of a primary; its replica takes over, and it comes back as the replica."""
    cluster = _cluster(arena)
    async with cluster.fault("primary_kill", "cluster") as facts:
        slot = slot_of(rng.choice(PLACES))
        victim = await asyncio.to_thread(cluster.owner, slot)
        assert victim is not None
        facts["queues"] = await asyncio.to_thread(cluster.queues_of, victim)
        await asyncio.to_thread(victim.kill)
        facts["replaced"] = await cluster.replaced(victim, slot)
        await asyncio.sleep(rng.uniform(0, 1.0))
        await asyncio.to_thread(victim.start)
        await cluster.whole()


async def primary_stop(arena: Arena, rng: random.Random) -> None:
    """SIGSTOP of a primary until its replica has taken over, and SIGCONT: it does not know yet what it has become."""
    cluster = _cluster(arena)
    async with cluster.fault("primary_stop", "cluster") as facts:
        slot = slot_of(rng.choice(PLACES))
        victim = await asyncio.to_thread(cluster.owner, slot)
        assert victim is not None
        facts["queues"] = await asyncio.to_thread(cluster.queues_of, victim)
        victim.signal(signal.SIGSTOP)
        try:
            facts["replaced"] = await cluster.replaced(victim, slot)
            await asyncio.sleep(rng.uniform(0, 1.0))
        finally:
            victim.signal(signal.SIGCONT)
        await cluster.whole()


async def primary_restart(arena: Arena, rng: random.Random) -> None:
    """kill -9 of a primary, and a new start from its file before anybody has taken over, or just then."""
    cluster = _cluster(arena)
    async with cluster.fault("primary_restart", "cluster") as facts:
        victim = await asyncio.to_thread(cluster.owner, slot_of(rng.choice(PLACES)))
        assert victim is not None
        facts["queues"] = await asyncio.to_thread(cluster.queues_of, victim)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(rng.uniform(0, 1.5))
        await asyncio.to_thread(victim.start)
        await cluster.whole()


async def replica_kill(arena: Arena, rng: random.Random) -> None:
    """kill -9 of a replica: what needs one is not acknowledged until it is back."""
    cluster = _cluster(arena)
    async with cluster.fault("replica_kill", "cluster"):
        primaries = await asyncio.to_thread(cluster.primaries)
        victim = rng.choice([node for node in cluster.nodes.nodes if node not in primaries])
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(rng.uniform(0.2, 2.0))
        await asyncio.to_thread(victim.start)
        await cluster.whole()


async def slot_move(arena: Arena, rng: random.Random) -> None:
    """A slot moves under load: as often as not a hot queue's, or another queue's or partition's, or shared keys'."""
    cluster = _cluster(arena)
    async with cluster.fault("slot_move", "cluster") as facts:
        tag = rng.choice((ORDER_QUEUE, PARTITIONED_QUEUE)) if rng.random() < 0.5 else rng.choice((*PLACES, *OTHER_TAGS))
        source = await asyncio.to_thread(cluster.owner, slot_of(tag))
        primaries = await asyncio.to_thread(cluster.primaries)
        target = rng.choice([node for node in primaries if node is not source])
        keys = await asyncio.to_thread(cluster.move, slot_of(tag), target, rng.choice((10, 50, 200)))
        facts["note"] = f"{tag}: {keys} keys"
        # Until its replica has them the new owner must not die.
        await cluster.whole()


async def node_clients(arena: Arena, rng: random.Random) -> None:
    """All nodes cut their connections: all of them, or those of the rings."""
    kind = rng.choice(("normal", "pubsub"))
    await _everywhere(arena, "node_clients", "CLIENT KILL", "TYPE", kind)


async def node_scripts(arena: Arena, rng: random.Random) -> None:
    """All nodes forget their scripts."""
    await _everywhere(arena, "node_scripts", "SCRIPT FLUSH")


async def _everywhere(arena: Arena, name: str, *command: str) -> None:
    cluster = _cluster(arena)
    async with cluster.fault(name, name, " ".join(command)):
        for node in cluster.nodes.nodes:
            try:
                await asyncio.to_thread(node.redis.execute_command, *command)
            except RedisError:
                pass  # it is down, or not a primary; then it has no connections of gateways


FAULTS = {
    "primary_kill": (primary_kill, 2),
    "primary_stop": (primary_stop, 1),
    "primary_restart": (primary_restart, 0.5),
    "replica_kill": (replica_kill, 0.5),
    "slot_move": (slot_move, 3),
    "node_clients": (node_clients, 1),
    "node_scripts": (node_scripts, 0.5),
}
