"""A Redis Cluster: who serves which slot, and a client that asks the right node.

The map is read from any node that answers, again whenever a node says MOVED or fails, and now and then besides.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterParser
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.store.location import Address

log = logging.getLogger("gateway.redis")
_ASK_SECONDS = 0.5
_REFRESH_SECONDS = 5.0
_SHORTEST_GAP_SECONDS = 0.1
_REDIRECTS = 50
_PAUSE_SECONDS = 0.05
_EACH_SECONDS = 1.0
# Where the first key stands in what our client sends; a command that is not here names it first.
_KEY_PLACES = {"EVALSHA": 3, "EVAL": 3}
_KEYLESS = frozenset({"INFO", "PUBLISH", "TIME", "CONFIG GET"})


class Slots:
    """Which primary serves which slot, and connections to it. seeds: some nodes; options: of connections."""

    def __init__(self, seeds: Sequence[Address], *, tls: bool, **options: Any) -> None:
        self._seeds = tuple(seeds)
        self._options = {**options, "parser_class": ClusterParser}
        self._kind: type[Connection] = SSLConnection if tls else Connection
        self._owners: list[Address | None] = [None] * 16384
        self._reading: asyncio.Task[None] | None = None
        self._doubted = asyncio.Event()
        self.nodes: frozenset[Address] = frozenset()
        self.on_change: list[Callable[[], None]] = []

    def owner(self, slot: int) -> Address | None:
        """The primary of a slot, as far as we know."""
        return self._owners[slot]

    def moved(self, slot: int, address: Address) -> None:
        """Note what a node said of a slot, and read the whole map soon."""
        if self._owners[slot] != address:
            self._owners[slot] = address
            self.nodes |= {address}
            self._tell()
        self.doubt()

    def doubt(self) -> None:
        """A node failed, or its view differs: read the map again soon."""
        self._doubted.set()

    def connection(self, address: Address) -> AbstractConnection:
        """Make a connection to a node."""
        return self._kind(host=address[0], port=address[1], **self._options)

    def pool(self, address: Address) -> ConnectionPool:
        """Make a pool of connections to a node."""
        return ConnectionPool(connection_class=self._kind, host=address[0], port=address[1], **self._options)

    async def read(self) -> None:
        """Read the map; everybody who wants it at once shares one reading. What nobody answers stays as it is."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
            self._reading.add_done_callback(self._read_done)
        await asyncio.shield(self._reading)

    async def follow(self) -> None:
        """Keep the map fresh for ever. Cancel it to stop."""
        while True:
            self._doubted.clear()
            await self.read()
            await asyncio.sleep(_SHORTEST_GAP_SECONDS)
            try:
                async with asyncio.timeout(_REFRESH_SECONDS * random.uniform(0.8, 1.0)):
                    await self._doubted.wait()
            except TimeoutError:
                pass

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()

    def _read_done(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled() and task.exception() is not None:
            log.error("failed to read the slots", exc_info=task.exception())

    async def _read(self) -> None:
        known = list(self.nodes)
        random.shuffle(known)
        for address in dict.fromkeys([*known, *self._seeds]):
            found = await self._ask(address)
            if found is None:
                continue
            owners: list[Address | None] = [None] * 16384
            for first, last, (host, port, *_), *_ in found:
                # A node that does not know its own name leaves it out: it is the one that we asked.
                owner = (host.decode() if host else address[0], int(port))
                owners[first : last + 1] = [owner] * (last + 1 - first)
            if owners != self._owners:
                self._owners = owners
                self.nodes = frozenset(owner for owner in owners if owner is not None)
                self._tell()
            return

    async def _ask(self, address: Address) -> list[Any] | None:
        connection = self.connection(address)
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
                await connection.send_command("CLUSTER", "INFO")
                await connection.send_command("CLUSTER", "SLOTS")
                state = await connection.read_response(disable_decoding=True)
                found: list[Any] = await connection.read_response(disable_decoding=True)
            # A node that was cut off from the others knows an old map.
            return found if b"cluster_state:ok" in state else None
        except (RedisError, OSError, TimeoutError):
            return None
        finally:
            await connection.disconnect(nowait=True)

    def _tell(self) -> None:
        for hear in self.on_change:
            hear()


class ClusterClient(Redis):
    """The plain client's commands, each sent to the node of its first key. One call concerns one slot.

    A command that finds its slot moving waits until it has moved: the caller bounds that in time.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._clients: dict[Address, Redis] = {}
        super().__init__()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command; a script is loaded everywhere, and a cluster answers when one of its nodes does."""
        if args[0] in ("SCRIPT LOAD", "PING"):
            return (await self.each(*args))[0]
        return await self.redirected(_key_of(args), lambda client: _send(client, args, options))

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Pipeline:
        """Collect commands that concern one slot."""
        return _ClusterPipeline(self)

    async def each(self, *args: Any) -> list[Any]:
        """Send one command to every primary. Returns the answers of those that give one soon.

        Raises ConnectionError when none does.
        """
        if not self._slots.nodes:
            await self._slots.read()

        async def ask(node: Address) -> Any:
            async with asyncio.timeout(_EACH_SECONDS):
                return await _send(self._client(node), args, {})

        replies = await asyncio.gather(*(ask(node) for node in sorted(self._slots.nodes)), return_exceptions=True)
        answers = [reply for reply in replies if not isinstance(reply, BaseException)]
        if len(answers) < len(replies):
            self._slots.doubt()
        if not answers:
            raise ConnectionError("no node of the cluster answers")
        return answers

    async def redirected(self, key: Any, call: Callable[[Redis], Any]) -> Any:
        """Make a call to the node of a key (None: any), and again where it is redirected to."""
        slot = random.randrange(16384) if key is None else key_slot(key.encode() if isinstance(key, str) else key)
        for _ in range(_REDIRECTS):
            owner = self._slots.owner(slot)
            if owner is None:
                await self._slots.read()
                owner = self._slots.owner(slot)
            if owner is None:
                raise ConnectionError("no node of the cluster serves this slot")
            try:
                return await call(self._client(owner))
            except MovedError as error:
                self._slots.moved(error.slot_id, (error.host or owner[0], error.port))
            except (AskError, TryAgainError, ClusterDownError):
                self._slots.doubt()
                await asyncio.sleep(_PAUSE_SECONDS)
            except ResponseError:
                raise
            except (RedisError, OSError):
                self._slots.doubt()
                raise
        raise ConnectionError("the cluster sent us from node to node")

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Drop all connections."""
        for client in self._clients.values():
            await client.aclose()
            await client.connection_pool.disconnect()
        self._clients.clear()
        await super().aclose(close_connection_pool)

    def _client(self, address: Address) -> Redis:
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = Redis(connection_pool=self._slots.pool(address))
        return client


class _ClusterPipeline(Pipeline):
    """Commands of one slot, sent together."""

    def __init__(self, cluster: ClusterClient) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, False, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was collected. Raises the first error among the replies."""
        commands, self.command_stack = self.command_stack, []
        if not commands:
            return []
        for script in self.scripts:
            await self._cluster.script_load(script.script)
        self.scripts.clear()

        async def send(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                pipe.command_stack = list(commands)
                return await pipe.execute(raise_on_error)

        return await self._cluster.redirected(_key_of(commands[0][0]), send)  # type: ignore[no-any-return]  # untyped


async def _send(client: Redis, args: Sequence[Any], options: dict[str, Any]) -> Any:
    return await client.execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py


def _key_of(args: Sequence[Any]) -> Any:
    command = str(args[0]).upper()
    return None if command in _KEYLESS else args[_KEY_PLACES.get(command, 1)]
