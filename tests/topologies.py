"""Several redis-servers on this machine: a primary with replicas and sentinels, and a cluster.

Every server has an address of its own when it is asked for (`hosts`), so that a packet filter can part them.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from tests.harness import redis_binaries

MASTER = "tasks"
_VALUE = TypeVar("_VALUE")


def until(condition: Callable[[], _VALUE], seconds: float = 20.0, message: str = "it never came true") -> _VALUE:
    """Ask again and again until the answer is true, and return it. An error of Redis counts as false."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(RedisError, OSError):
            found = condition()
            if found:
                return found
        if time.monotonic() > deadline:
            raise AssertionError(message)
        time.sleep(0.02)


def free_port(host: str) -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Node:
    """One redis-server (or sentinel) on TCP."""

    def __init__(self, folder: Path, host: str, port: int, binary: str, config: Sequence[str]) -> None:
        self.folder = folder
        self.host = host
        self.port = port
        self.binary = binary
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        # A client of its own per call would hide nothing: this one reconnects by itself.
        self.redis = Redis(host, port, socket_timeout=3, socket_connect_timeout=3, decode_responses=True)

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    def start(self, *arguments: str) -> None:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "redis.conf"
        if not file.exists():
            # A sentinel writes its file anew whenever it learns something.
            common = [f"bind {self.host}", f"port {self.port}", f"dir {self.folder}", "logfile redis.log"]
            file.write_text("\n".join([*common, "protected-mode no", *self.config]) + "\n")
        self.process = subprocess.Popen([self.binary, str(file), *arguments], stdout=subprocess.DEVNULL)
        until(self.redis.ping, 10, f"redis-server did not start; see {self.folder}/redis.log")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, also when it is stopped."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.send_signal(signal.SIGCONT)
            self.process.wait()

    def close(self) -> None:
        """End it and forget the client."""
        self.kill()
        self.redis.close()


class _Nodes:
    """What both topologies share: nodes that are ended together."""

    nodes: list[Node]

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.close()


class SentinelSet(_Nodes):
    """A primary, its replicas and three sentinels that watch over them."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 2,
        down_after_ms: int = 1000,
        failover_ms: int = 3000,
        hosts: Callable[[int], str] = lambda _: "127.0.0.1",
        config: Sequence[str] = (),
        binary: str | None = None,
    ) -> None:
        binary = binary or next(iter(redis_binaries().values()))
        self.servers: list[Node] = []
        for number in range(1 + replicas):
            host = hosts(number)
            own = ["save ''", "appendonly no", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
                   f"bind-source-addr {host}", *config]  # fmt: skip
            if number:
                own.append(f"replicaof {self.servers[0].host} {self.servers[0].port}")
            self.servers.append(Node(folder / f"redis-{number}", host, free_port(host), binary, own))
        first = self.servers[0]
        self.sentinels: list[Node] = []
        for number in range(3):
            host = hosts(10 + number)
            own = [
                f"sentinel monitor {MASTER} {first.host} {first.port} 2",
                f"sentinel down-after-milliseconds {MASTER} {down_after_ms}",
                f"sentinel failover-timeout {MASTER} {failover_ms}",
                f"sentinel parallel-syncs {MASTER} 2",
                f"bind-source-addr {host}",
            ]
            self.sentinels.append(Node(folder / f"sentinel-{number}", host, free_port(host), binary, own))
        self.nodes = [*self.servers, *self.sentinels]
        self.url = f"redis-sentinel://{','.join(node.address for node in self.sentinels)}#{MASTER}"

    def start(self) -> None:
        """Start all of it and wait until replicas follow and sentinels know each other and them."""
        for node in self.servers:
            node.start()
        until(lambda: self.in_sync(len(self.servers) - 1), 20, "the replicas did not follow")
        for node in self.sentinels:
            node.start("--sentinel")
        until(self.watched, 20, "the sentinels did not find each other")

    def in_sync(self, replicas: int, primary: Node | None = None) -> bool:
        """Whether so many replicas follow the primary."""
        facts: dict[str, Any] = (primary or self.servers[0]).redis.info("replication")
        online = [facts[f"slave{i}"] for i in range(facts["connected_slaves"])]
        return facts["role"] == "master" and sum(one["state"] == "online" for one in online) >= replicas

    def watched(self) -> bool:
        """Whether every living sentinel sees all others and all replicas."""
        for node in self.sentinels:
            facts = node.redis.sentinel_master(MASTER)
            if facts["num-other-sentinels"] < 2 or facts["num-slaves"] < len(self.servers) - 1 or facts["is_sdown"]:
                return False
        return True

    def agreed(self) -> bool:
        """Whether all sentinels name one primary."""
        named = {tuple(one.redis.sentinel_get_master_addr_by_name(MASTER)) for one in self.sentinels}
        return len(named) == 1

    def primary(self) -> Node:
        """The server that most sentinels call the primary now."""
        votes: dict[str, int] = {}
        for node in self.sentinels:
            with contextlib.suppress(RedisError):
                host, port = node.redis.sentinel_get_master_addr_by_name(MASTER)
                votes[f"{host}:{port}"] = votes.get(f"{host}:{port}", 0) + 1
        chosen = max(votes, key=lambda address: votes[address])
        return next(node for node in self.servers if node.address == chosen)


class ClusterSet(_Nodes):
    """A Redis Cluster: primaries, and as many replicas each."""

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        node_timeout_ms: int = 1000,
        config: Sequence[str] = (),
        binary: str | None = None,
    ) -> None:
        binary = binary or next(iter(redis_binaries().values()))
        self.primaries = primaries
        self.nodes = []
        host = "127.0.0.1"
        for number in range(primaries * (1 + replicas)):
            own = ["save ''", "appendonly no", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
                   "cluster-enabled yes", f"cluster-node-timeout {node_timeout_ms}",
                   "cluster-replica-validity-factor 0", f"cluster-port {free_port(host)}", *config]  # fmt: skip
            self.nodes.append(Node(folder / f"node-{number}", host, free_port(host), binary, own))
        self.url = f"redis-cluster://{','.join(node.address for node in self.nodes[:primaries])}"

    def start(self) -> None:
        """Start the nodes, make them meet, give the primaries their slots and the others a primary each."""
        for node in self.nodes:
            node.start()
        share = 16384 // self.primaries
        for number, node in enumerate(self.nodes[: self.primaries]):
            node.redis.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            last = 16383 if number == self.primaries - 1 else (number + 1) * share - 1
            node.redis.execute_command("CLUSTER ADDSLOTSRANGE", number * share, last)
        first = self.nodes[0]
        for node in self.nodes[1:]:
            bus = next(line.split()[1] for line in node.config if line.startswith("cluster-port "))
            first.redis.execute_command("CLUSTER MEET", node.host, node.port, bus)
        until(lambda: all(self._knows_all(node) for node in self.nodes), 20, "the nodes did not meet")
        for number, node in enumerate(self.nodes[self.primaries :]):
            owner = self.nodes[number % self.primaries]
            node.redis.execute_command("CLUSTER REPLICATE", self.id_of(owner))
        until(lambda: all(self.healthy(node) for node in self.nodes), 20, "the cluster did not come up")
        until(lambda: all(self._followed(node) for node in self.nodes[: self.primaries]), 20, "replicas did not follow")

    def _knows_all(self, node: Node) -> bool:
        return len(node.redis.execute_command("CLUSTER NODES")) == len(self.nodes)

    def _followed(self, node: Node) -> bool:
        replicas = (len(self.nodes) - self.primaries) // self.primaries
        return bool(node.redis.info("replication")["connected_slaves"] >= replicas)

    def healthy(self, node: Node) -> bool:
        """Whether this node sees every slot served."""
        return str(node.redis.execute_command("CLUSTER INFO")["cluster_state"]) == "ok"

    def id_of(self, node: Node) -> str:
        """The node's name in the cluster."""
        return str(node.redis.execute_command("CLUSTER MYID"))

    def owner(self, slot: int) -> Node:
        """The primary of a slot, as most living nodes see it."""
        for node in self.nodes:
            with contextlib.suppress(RedisError):
                for first, last, primary, *_ in _raw(node, "CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(one for one in self.nodes if one.port == primary[1])
        raise AssertionError(f"nobody serves slot {slot}")

    def begin_move(self, slot: int, to: Node) -> tuple[Node, Node]:
        """Mark a slot as moving. Returns (from, to)."""
        source = self.owner(slot)
        to.redis.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.redis.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.id_of(to))
        return source, to

    def move_keys(self, slot: int, source: Node, to: Node, limit: int = 10) -> int:
        """Move some keys of a moving slot. Returns how many."""
        keys = _raw(source, "CLUSTER", "GETKEYSINSLOT", slot, limit)
        if keys:
            source.redis.execute_command("MIGRATE", to.host, to.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, source: Node, to: Node) -> None:
        """Give the slot to its new owner."""
        for node in (to, source):
            node.redis.execute_command("CLUSTER SETSLOT", slot, "NODE", self.id_of(to))


def _raw(node: Node, *command: Any) -> Any:
    """A command's reply as it comes."""
    connection = node.redis.connection_pool.get_connection()
    try:
        connection.send_command(*command)
        return connection.read_response()
    finally:
        node.redis.connection_pool.release(connection)
