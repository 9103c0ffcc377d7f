"""What the nemesis can do, by name. Each fault breaks one thing, waits, and mends it; `FAULTS` lists them all.

A fault takes the arena and its own random numbers. Faults of one target exclude each other; others may coincide.
Those of a Redis Cluster are in `cluster_faults`.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.campaign import cluster_faults
from tests.campaign.arena import Arena
from tests.campaign.disks import ForgetfulDisk, SmallDisk
from tests.campaign.network import OwnNetwork
from tests.campaign.producers import PARTITIONED_QUEUE
from tests.campaign.proxy import MODES
from tests.campaign.servers import LoadNode
from tests.campaign.timeline import LONGEST_LEASE_SECONDS

Fault = Callable[[Arena, random.Random], Awaitable[None]]
_REPEATS = 20
# Fewer than a gateway has open already.
_FEW_FILES = 8
# What the end of a file looks like when the machine stopped in the middle of a write: no acknowledged one.
_REWRITES = "rewriting already in progress"
_TORN = b"*3\r\n$3\r\nSET\r\n$9\r\ncampa"
# For nftables.
_ONE_IN_TEN = "numgen random mod 100 < 10"


async def gateway_kill(arena: Arena, rng: random.Random) -> None:
    """kill -9 of a gateway, and a new start on its port."""
    number = rng.randrange(len(arena.gateways))
    node = arena.gateways[number]
    async with arena.fault("gateway_kill", node.name):
        await asyncio.to_thread(node.end)
        await asyncio.sleep(rng.uniform(0, 0.3))
        node.start()
        await asyncio.to_thread(node.wait_ready)


async def gateway_term(arena: Arena, rng: random.Random) -> None:
    """A graceful stop of a gateway under load, and a new start."""
    node = rng.choice(arena.gateways)
    async with arena.fault("gateway_term", node.name):
        await asyncio.to_thread(node.end, signal.SIGTERM)
        node.start()
        await asyncio.to_thread(node.wait_ready)


async def gateway_stop(arena: Arena, rng: random.Random) -> None:
    """SIGSTOP of a gateway, for longer than a lease as often as not, then SIGCONT."""
    node = rng.choice(arena.gateways)
    async with arena.fault("gateway_stop", node.name):
        node.send_signal(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(0.2, 2 * LONGEST_LEASE_SECONDS))
        node.send_signal(signal.SIGCONT)


async def gateway_stutter(arena: Arena, rng: random.Random) -> None:
    """A gateway gets half of its time, ten times a second, as on a machine with too little CPU."""
    node = rng.choice(arena.gateways)
    async with arena.fault("gateway_stutter", node.name):
        for _ in range(rng.randrange(10, 40)):
            node.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.05)
            node.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.05)


async def gateway_files(arena: Arena, rng: random.Random) -> None:
    """A gateway may open no more files or connections, neither to clients nor to Redis."""
    node = rng.choice(arena.gateways)
    async with arena.fault("gateway_files", node.name):
        node.limit_files(_FEW_FILES)
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        node.limit_files(None)


async def _kill_load(arena: Arena, rng: random.Random, name: str, nodes: list[LoadNode]) -> None:
    node = rng.choice(nodes)
    async with arena.fault(name, node.name) as facts:
        facts["target"] = node.name
        await asyncio.to_thread(node.end)
        node.start()


async def worker_kill(arena: Arena, rng: random.Random) -> None:
    """kill -9 of a process full of workers; others come in its place."""
    await _kill_load(arena, rng, "worker_kill", arena.workers)


async def producer_kill(arena: Arena, rng: random.Random) -> None:
    """kill -9 of a process full of producers; others come in its place."""
    await _kill_load(arena, rng, "producer_kill", arena.producers)


async def worker_stop(arena: Arena, rng: random.Random) -> None:
    """SIGSTOP of a process full of workers for longer than a lease; then they report what is no longer theirs."""
    node = rng.choice(arena.workers)
    async with arena.fault("worker_stop", node.name):
        node.send_signal(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(LONGEST_LEASE_SECONDS, 2 * LONGEST_LEASE_SECONDS))
        node.send_signal(signal.SIGCONT)


async def redis_kill(arena: Arena, rng: random.Random) -> None:
    """kill -9 of Redis, and a new start."""
    async with arena.fault("redis_kill", "redis"):
        await asyncio.to_thread(arena.redis.end)
        await asyncio.sleep(rng.uniform(0, 0.5))
        await asyncio.to_thread(arena.redis.start)


async def redis_restart(arena: Arena, rng: random.Random) -> None:
    """A graceful stop of Redis, and a new start."""
    async with arena.fault("redis_restart", "redis"):
        await asyncio.to_thread(arena.redis.end, signal.SIGTERM)
        await asyncio.to_thread(arena.redis.start)


async def redis_torn_tail(arena: Arena, rng: random.Random) -> None:
    """kill -9 of Redis in the middle of a write: its file ends with half a command."""
    async with arena.fault("redis_torn_tail", "redis"):
        await asyncio.to_thread(arena.redis.end)
        with arena.redis.append_file().open("ab") as file:
            file.write(_TORN[: rng.randrange(1, len(_TORN))])
        await asyncio.to_thread(arena.redis.start)


async def redis_stop(arena: Arena, rng: random.Random) -> None:
    """SIGSTOP of Redis: it hangs, and nobody is told."""
    async with arena.fault("redis_stop", "redis"):
        arena.redis.send_signal(signal.SIGSTOP)
        await asyncio.sleep(rng.choice((0.3, 1.0, 2 * LONGEST_LEASE_SECONDS, 7.0)))
        arena.redis.send_signal(signal.SIGCONT)


async def _command(arena: Arena, rng: random.Random, name: str, *command: str | int, seconds: float = 0.0) -> None:
    async with arena.fault(name, "redis", " ".join(str(part) for part in command)):
        try:
            async with Redis.from_url(arena.redis.url) as redis:
                await redis.execute_command(*command)
        except RedisError as error:
            # Redis began a rewrite by itself just before: that is as good.
            if _REWRITES not in str(error):
                raise RuntimeError(f"{name}: {error}") from error
        await asyncio.sleep(seconds)


async def client_kill(arena: Arena, rng: random.Random) -> None:
    """Redis cuts its connections: all of them, or those of the rings."""
    kind = rng.choice(("normal", "pubsub"))
    await _command(arena, rng, "client_kill", "CLIENT", "KILL", "TYPE", kind)


async def client_pause(arena: Arena, rng: random.Random) -> None:
    """Redis holds back commands."""
    ms = rng.choice((300, 1500, 6000))
    await _command(arena, rng, "client_pause", "CLIENT", "PAUSE", ms, rng.choice(("ALL", "WRITE")), seconds=ms / 1000)


async def redis_sleep(arena: Arena, rng: random.Random) -> None:
    """Redis is busy with one slow command."""
    await _command(arena, rng, "redis_sleep", "DEBUG", "SLEEP", rng.choice(("0.5", "2.5")))


async def script_flush(arena: Arena, rng: random.Random) -> None:
    """Redis forgets its scripts, again and again."""
    for _ in range(5):
        await _command(arena, rng, "script_flush", "SCRIPT", "FLUSH", seconds=0.1)


async def aof_rewrite(arena: Arena, rng: random.Random) -> None:
    """Redis rewrites its file under load."""
    await _command(arena, rng, "aof_rewrite", "BGREWRITEAOF", seconds=0.5)


async def redis_full(arena: Arena, rng: random.Random) -> None:
    """Redis has no memory left for new tasks."""
    async with arena.fault("redis_full", "redis"), Redis.from_url(arena.redis.url) as redis:
        await redis.config_set("maxmemory", 1)
        await asyncio.sleep(rng.uniform(0.5, 2.0))
        await redis.config_set("maxmemory", 0)


async def store_link(arena: Arena, rng: random.Random) -> None:
    """The proxy between a gateway and Redis breaks what passes: above all, replies of work that was done."""
    number = rng.randrange(1, len(arena.gateways)) if len(arena.gateways) > 1 else 0
    mode = rng.choice((*MODES, "drop_reply", "drop_reply"))
    link = arena.store_links[number]
    async with arena.fault("store_link", f"store-{number}", mode) as facts:
        before = link.broken
        link.break_by(mode, 1.0 if mode == "hang" else rng.choice((0.02, 0.1, 0.5)))
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        link.break_by("", 0.0)
        facts["note"] = f"{mode} {link.broken - before}"


async def client_link(arena: Arena, rng: random.Random) -> None:
    """The proxy between clients and a gateway breaks what passes."""
    number = rng.randrange(len(arena.gateways))
    mode = rng.choice((*MODES, "drop_reply"))
    link = arena.client_links[number]
    async with arena.fault("client_link", f"clients-{number}", mode) as facts:
        before = link.broken
        link.break_by(mode, rng.choice((0.02, 0.1, 0.5)))
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        link.break_by("", 0.0)
        facts["note"] = f"{mode} {link.broken - before}"


async def repartition(arena: Arena, rng: random.Random) -> None:
    """An operator spreads the hot queue over more partitions, or fewer, and asks again until it is so."""
    async with arena.fault("repartition", PARTITIONED_QUEUE) as facts:
        settings = {"partitions": rng.randrange(1, 5)}
        facts["note"] = str(settings["partitions"])
        for _ in range(_REPEATS):
            try:
                await asyncio.to_thread(arena.configure, rng.choice(arena.gateways), PARTITIONED_QUEUE, settings)
                return
            except OSError:
                await asyncio.sleep(0.3)


async def clocks(arena: Arena, rng: random.Random) -> None:
    """A gateway's clock goes wrong, by seconds or by an hour, and steps back."""
    number = rng.randrange(len(arena.clocks))
    seconds = rng.choice((-3600, -7, -2, 2, 7, 3600))
    async with arena.fault("clocks", f"clock-{number}", f"{seconds:+d} s"):
        arena.clocks[number].write_text(f"{seconds:+d}")
        await asyncio.sleep(rng.uniform(1.0, 4.0))
        arena.clocks[number].write_text("+0")


async def disk_full(arena: Arena, rng: random.Random) -> None:
    """The disk under Redis is full; Redis ends by itself, and comes back when there is room."""
    assert isinstance(arena.disk, SmallDisk)
    async with arena.fault("disk_full", "redis") as facts:
        await asyncio.to_thread(arena.disk.fill)
        await asyncio.sleep(rng.uniform(0.3, 2.0))
        facts["note"] = "Redis ended" if not arena.redis.running else "Redis went on"
        arena.disk.make_room()
        if not arena.redis.running:
            await asyncio.to_thread(arena.redis.start)


async def power_cut(arena: Arena, rng: random.Random) -> None:
    """Redis and the disk's cache are gone at once; Redis starts over what was synced."""
    async with arena.fault("power_cut", "redis"):
        await _cut_power(arena)


async def power_cut_unsynced(arena: Arena, rng: random.Random) -> None:
    """A power cut of a Redis that syncs nothing. The control of `power_cut`: it must lose what was acknowledged."""
    async with arena.fault("power_cut_unsynced", "redis"):
        async with Redis.from_url(arena.redis.url) as redis:
            await redis.config_set("appendfsync", "no")
        await asyncio.sleep(rng.uniform(1.0, 2.0))
        await _cut_power(arena)


async def _cut_power(arena: Arena) -> None:
    assert isinstance(arena.disk, ForgetfulDisk)
    arena.redis.send_signal(signal.SIGKILL)
    await asyncio.to_thread(arena.disk.cut_power)
    await asyncio.to_thread(arena.redis.end)
    await asyncio.to_thread(arena.disk.mount)
    await asyncio.to_thread(arena.redis.start)


async def _drop(arena: Arena, rng: random.Random, name: str, place: str, *matches: str) -> None:
    """Drop for a while what meets nftables' expressions of one gateway.

    place: what is broken, one at a time. There and in `matches`: {number} of the gateway, {door}: the port that its
    clients know, {address} and {port}: where it finds Redis.
    """
    assert isinstance(arena.network, OwnNetwork)
    number, redis = rng.randrange(len(arena.gateways)), arena.redis
    facts = {"door": arena.gateways[number].port, "address": redis.addresses[number], "port": redis.port}
    place = place.format(number=number)
    async with arena.fault(name, place, f"gateway-{number}"):
        for match in matches:
            await asyncio.to_thread(arena.network.drop, place, match.format(**facts))
        await asyncio.sleep(rng.choice((0.5, 1.5, 2 * LONGEST_LEASE_SECONDS, 8.0)))
        await asyncio.to_thread(arena.network.heal, place)


async def packet_loss(arena: Arena, rng: random.Random) -> None:
    """One packet in ten between a gateway and Redis is lost, in both directions."""
    ways = (f"ip daddr {{address}} {_ONE_IN_TEN}", f"ip saddr {{address}} {_ONE_IN_TEN}")
    await _drop(arena, rng, "packet_loss", "network", *ways)


async def partition(arena: Arena, rng: random.Random) -> None:
    """Nothing passes between a gateway and Redis."""
    await _drop(arena, rng, "partition", "network", "ip daddr {address}", "ip saddr {address}")


async def one_way(arena: Arena, rng: random.Random) -> None:
    """A gateway's requests reach Redis, the answers do not come back."""
    await _drop(arena, rng, "one_way", "network", "ip saddr {address} tcp sport {port}")


async def client_loss(arena: Arena, rng: random.Random) -> None:
    """One packet in ten between clients and a gateway is lost, in both directions."""
    ways = (f"tcp dport {{door}} {_ONE_IN_TEN}", f"tcp sport {{door}} {_ONE_IN_TEN}")
    await _drop(arena, rng, "client_loss", "clients-{number}", *ways)


async def client_partition(arena: Arena, rng: random.Random) -> None:
    """Nothing passes between clients and a gateway."""
    await _drop(arena, rng, "client_partition", "clients-{number}", "tcp dport {door}", "tcp sport {door}")


async def client_one_way(arena: Arena, rng: random.Random) -> None:
    """Clients' requests reach a gateway and its answers do not come back, or the other way round."""
    way = rng.choice(("sport", "sport", "dport"))
    await _drop(arena, rng, "client_one_way", "clients-{number}", f"tcp {way} {{door}}")


# Name: the fault, and how often it comes beside the others.
FAULTS: dict[str, tuple[Fault, float]] = {
    "gateway_kill": (gateway_kill, 4),
    "gateway_term": (gateway_term, 1),
    "gateway_stop": (gateway_stop, 1),
    "gateway_stutter": (gateway_stutter, 0.5),
    "gateway_files": (gateway_files, 0.5),
    "worker_kill": (worker_kill, 1),
    "worker_stop": (worker_stop, 1),
    "producer_kill": (producer_kill, 0.5),
    "redis_kill": (redis_kill, 2),
    "redis_restart": (redis_restart, 0.5),
    "redis_torn_tail": (redis_torn_tail, 0.5),
    "redis_stop": (redis_stop, 0.5),
    "redis_sleep": (redis_sleep, 0.5),
    "client_kill": (client_kill, 1),
    "client_pause": (client_pause, 0.5),
    "script_flush": (script_flush, 0.5),
    "aof_rewrite": (aof_rewrite, 0.5),
    "redis_full": (redis_full, 1),
    "store_link": (store_link, 2),
    "client_link": (client_link, 1),
    "repartition": (repartition, 1),
    "clocks": (clocks, 1),
    "disk_full": (disk_full, 1),
    "power_cut": (power_cut, 2),
    "power_cut_unsynced": (power_cut_unsynced, 1),
    "packet_loss": (packet_loss, 1),
    "partition": (partition, 1),
    "one_way": (one_way, 1),
    "client_loss": (client_loss, 1),
    "client_partition": (client_partition, 1),
    "client_one_way": (client_one_way, 1),
    **cluster_faults.FAULTS,
}
# These need root, and a disk, a library or a network of their own: see `campaign.prepare`.
NEED_SMALL_DISK = ("disk_full",)
NEED_FORGETFUL_DISK = ("power_cut", "power_cut_unsynced")
NEED_NETWORK = ("packet_loss", "partition", "one_way", "client_loss", "client_partition", "client_one_way")
NEED_CLOCKS = ("clocks",)
NEED_CLUSTER = tuple(cluster_faults.FAULTS)
_ALL_NEEDY = (*NEED_SMALL_DISK, *NEED_FORGETFUL_DISK, *NEED_NETWORK, *NEED_CLOCKS, *NEED_CLUSTER)
USUAL = tuple(name for name in FAULTS if name not in _ALL_NEEDY)
# Gateways die all the time, Redis and its power now and then: a name that comes again comes as much more often.
KILLS = (*("gateway_kill",) * 6, *("redis_kill",) * 2, "power_cut", "worker_kill")
# The network on both sides of the gateways, some of which die meanwhile.
NETWORK = (*NEED_NETWORK, "gateway_kill", "repartition")
# What needs no single Redis.
_OF_PROCESSES = ("gateway_kill", "gateway_term", "gateway_stop", "gateway_files", "worker_kill", "worker_stop",
                 "producer_kill", "client_link", "repartition")  # fmt: skip
CLUSTER = (*_OF_PROCESSES, *NEED_CLUSTER)
SETS: dict[str, tuple[str, ...]] = {
    "usual": USUAL, "kills": KILLS, "network": NETWORK, "cluster": CLUSTER, "none": (),
}  # fmt: skip
