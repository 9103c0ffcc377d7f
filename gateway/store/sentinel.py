"""Finds the primary that sentinels watch over, and keeps every connection on it.

What the sentinels say is believed by the highest configuration epoch, so a minority that was cut off cannot take us
back to the old primary; what the server says of itself (ROLE) is believed over both. While no sentinel answers, the
primary known last is used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError, ReadOnlyError, RedisError, ResponseError

from gateway.store.location import Address

log = logging.getLogger("gateway.redis")
_ASK_SECONDS = 0.4
_GRACE_SECONDS = 0.02
_LOOK_SECONDS = 0.25


class Sentinels:
    """Some sentinels and the primary that they name. Its connections are made by `connection`.

    options: of connections to the primary, as redis-py takes them; password: the sentinels' own.
    """

    def __init__(
        self, addresses: Sequence[Address], master: str, password: str | None, *, tls: bool, **options: Any
    ) -> None:
        self._master = master
        own = {"socket_connect_timeout": _ASK_SECONDS, "password": password, "retry": options.get("retry")}
        self._voices = [_Voice(host, port, own) for host, port in addresses]
        self._make: type[_Primary] = _TlsPrimary if tls else _Primary
        self._options = options
        self._connections: WeakSet[_Primary] = WeakSet()
        self._looking: asyncio.Task[None] | None = None
        self._epoch = -1
        self.primary: Address | None = None

    def connection(self) -> AbstractConnection:
        """Make a connection that finds the primary when it connects."""
        return self._make(sentinels=self, **self._options)

    def pool(self) -> ConnectionPool:
        """Make a pool of such connections."""
        return ConnectionPool(connection_class=self._make, sentinels=self, **self._options)

    def hold(self, connection: _Primary) -> None:
        """Remember a connection, to cut it when the primary is another."""
        self._connections.add(connection)

    async def find(self) -> Address:
        """Ask who the primary is; everybody who asks at once shares one answer.

        Raises ConnectionError when no sentinel answers and none ever did.
        """
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)
        if self.primary is None:
            raise ConnectionError(f"no sentinel knows a primary called {self._master}")
        return self.primary

    async def follow(self) -> None:
        """Watch for a new primary for ever, and cut what still leads to the old one. Cancel it to stop."""
        while True:
            try:
                await self.find()
            except ConnectionError:
                pass
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        """Drop the connections to the sentinels."""
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.gather(*(voice.close() for voice in self._voices))

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is not None:
            log.error("failed to ask the sentinels", exc_info=task.exception())

    async def _look(self) -> None:
        answers: list[tuple[int, Address]] = []
        asked = {voice.asked(self._master) for voice in self._voices}
        while asked:
            # Who is cut off holds up nobody once most have answered.
            grace = _GRACE_SECONDS if len(answers) > len(self._voices) // 2 else None
            done, asked = await asyncio.wait(asked, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            answers += [answer for answer in (task.result() for task in done) if answer is not None]
        if not answers:
            return
        epoch = max(answer[0] for answer in answers)
        named = [address for told, address in answers if told == epoch]
        chosen = max(named, key=named.count)
        if epoch < self._epoch and len(answers) <= len(self._voices) // 2:
            return
        self._epoch = epoch
        before, self.primary = self.primary, chosen
        if before not in (None, chosen):
            log.warning("followed the sentinels to another primary", extra={"primary": f"{chosen[0]}:{chosen[1]}"})
            for connection in list(self._connections):
                # Whoever waits for a reply there would wait in vain: it is cut now, and connects to the new one.
                writer = connection._writer
                if writer is not None and (connection.host, connection.port) != chosen:
                    writer.transport.abort()


class _Voice:
    """One sentinel. It is asked over one connection that is kept."""

    def __init__(self, host: str, port: int, options: dict[str, Any]) -> None:
        self._make: Callable[[], Connection] = lambda: Connection(host=host, port=port, **options)
        self._connection: Connection | None = None
        self._asking: asyncio.Task[tuple[int, Address] | None] | None = None

    def asked(self, master: str) -> asyncio.Task[tuple[int, Address] | None]:
        """Ask for the primary, unless that was asked and is not answered yet."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(master))
        return self._asking

    async def _ask(self, master: str) -> tuple[int, Address] | None:
        """Ask for the primary. Returns the epoch of its election and its address; None: no answer."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                connection = self._connection = self._connection or self._make()
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
                # While a failover ends, the first of the two already names the new primary.
                await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master)
                await connection.send_command("SENTINEL", "MASTER", master)
                address = await connection.read_response(disable_decoding=True)
                facts = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            log.debug("a sentinel refused", extra={"error": str(error)[:200]})
            await self._drop()
            return None
        except (RedisError, OSError, TimeoutError):
            await self._drop()
            return None
        if not address:
            return None
        known = dict(zip(facts[::2], facts[1::2], strict=True))
        return int(known.get(b"config-epoch", 0)), (address[0].decode(), int(address[1]))

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.disconnect(nowait=True)
            except (RedisError, OSError):
                pass


class _Primary(Connection):
    """A connection to whatever is the primary when it connects."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels
        sentinels.hold(self)

    async def connect(self) -> None:
        """Connect to the primary. Raises ConnectionError: none is known, it is away, or it is none any more."""
        if self.is_connected:
            return
        self.host, self.port = await self._sentinels.find()
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py
        await self.send_command("ROLE")
        role, *_ = await self.read_response(disable_decoding=True)
        if role != b"master":
            await self.disconnect(nowait=True)
            raise ConnectionError(f"{self.host}:{self.port} is no primary")

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read a reply. A server that takes no writes is not the one to stay with."""
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError:
            await self.disconnect(nowait=True)
            raise ConnectionError(f"{self.host}:{self.port} is no primary any more") from None


class _TlsPrimary(_Primary, SSLConnection):
    """The same by TLS."""
