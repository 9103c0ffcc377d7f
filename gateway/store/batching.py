"""Group commit: while one call to Redis is under way, requests collect; the next call takes them all.

A Link is one connection, used for one pipeline at a time. A Lane is a link with requests in front of it. There is no
timer: an idle lane sends at once, a busy one sends bigger batches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

from gateway.errors import InternalError, NotReplicated, Refusal, StoreFull, StoreUnavailable
from gateway.store.keys import QueueKeys
from gateway.store.scripts import Script

log = logging.getLogger("gateway.store")
Argument = bytes | str | int
_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # tuples of any length
Entry: TypeAlias = "tuple[Any, asyncio.Future[Any]]"
# Redis has no write that is always one, needs no key to exist and no memory: this is one for a full Redis, too.
_MARK = b"redis.call('PERSIST', KEYS[1]) return redis.call('SET', KEYS[1], '', 'PX', 60000)"
REPLICA_MS = 1000
_AWAY = (
    "LOADING", "READONLY", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY", "UNKILLABLE",
    "MOVED", "ASK",
)  # fmt: skip


# While several tenants are active, one call takes so much work of each: nobody waits behind another's backlog. Where a
# call takes long whatever it carries (fsync, replicas), it carries more, of all together 10,000 a second: that adds
# little to its time.
_FAIR_SHARE = 8
_LARGEST_FAIR_SHARE = 64
_FAIR_PER_SECOND = 10_000
_ACTIVE_SECONDS = 1.0


class Link:
    """One connection to Redis and the discipline of its use: whole pipelines, a deadline, never a half-read reply."""

    def __init__(self, connect: Callable[[], AbstractConnection], timeout_seconds: float) -> None:
        self._make = connect
        self._timeout_seconds = timeout_seconds
        self._connection: AbstractConnection | None = None

    async def call(self, commands: Sequence[bytes], *, repeat: bool) -> list[Any]:
        """Send packed commands, read as many replies. Error replies come back as exceptions in the list.

        repeat: send again, once, when the connection breaks (only for what is safe to run twice).
        Raises StoreUnavailable when Redis cannot be reached, breaks off or stays silent.
        """
        fresh = self._connection is None
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        try:
            return await self._attempt(commands, deadline)
        except StoreUnavailable:
            # A connection that broke while it was idle says nothing about Redis now.
            if fresh or not repeat:
                raise
        replies = await self._attempt(commands, deadline)
        # The first try may have done what a full Redis refuses now: nobody can say that nothing was stored.
        return [StoreUnavailable() if _is_full(reply) else reply for reply in replies]

    async def _attempt(self, commands: Sequence[bytes], deadline: float) -> list[Any]:
        try:
            async with asyncio.timeout_at(deadline):
                connection = self._connection
                if connection is not None and _ended(connection):
                    await self.close()
                    connection = None
                if connection is None:
                    connection = self._make()
                    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
                    self._connection = connection
                await connection.send_packed_command([b"".join(commands)], check_health=False)
                replies: list[Any] = []
                for _ in commands:
                    try:
                        replies.append(await connection.read_response(disable_decoding=True))
                    except ResponseError as error:
                        replies.append(error)
                return replies
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:
            # uvloop tells who writes to a connection that is closed already by a RuntimeError.
            await self.close()
            raise StoreUnavailable() from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Drop the connection; the next call makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.disconnect(nowait=True)
            except (RedisError, OSError):
                pass


def _ended(connection: AbstractConnection) -> bool:
    """Whether the other end hung up while we were idle, as when Redis restarts: nothing was sent in vain yet."""
    reader, writer = connection._reader, connection._writer
    if reader is None or writer is None:
        return True
    # An end by FIN, one by RST, and one that we noticed ourselves.
    return reader.at_eof() or reader.exception() is not None or writer.transport.is_closing()


class Verb(Protocol):
    """How one script is called with many requests at once."""

    name: str
    repeat: bool
    batch: int
    promises: bool

    def weight(self, item: Any) -> int:
        """How much of a batch a request takes."""

    def arguments(self, items: list[Any]) -> list[Argument]:
        """ARGV of one call."""

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        """One outcome per request, in order; an exception is raised to its caller."""


class Lane:
    """Requests to Redis that share calls.

    observe: told (verb, seconds, requests) after each call. replicas: how many must have what a call promises before
    it is answered. redirect: asked about a call that failed; True: it takes care of its requests.
    """

    def __init__(
        self,
        link: Link,
        scripts: dict[str, Script],
        observe: Callable[[str, float, int], None],
        *,
        replicas: int = 0,
        redirect: Callable[[Verb, QueueKeys, list[Entry], BaseException], bool] | None = None,
    ) -> None:
        self._link = link
        self._scripts = scripts
        self._observe = observe
        self._replicas = replicas
        self._redirect = redirect
        self._pending: dict[tuple[str, QueueKeys], tuple[Verb, list[Entry]]] = {}
        self._running: asyncio.Task[None] | None = None
        self._active: dict[str, float] = {}
        # About how long a call takes at least.
        self._quickest_seconds = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, verb: Verb, keys: QueueKeys, item: Any) -> asyncio.Future[Any]:
        """Put a request into the next call. The future gives its outcome or raises a Refusal."""
        loop = self._loop
        if loop is None:
            # Asked for once: up to Python 3.11 every look is a system call.
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        entry = self._pending.get((verb.name, keys))
        if entry is None:
            self._pending[verb.name, keys] = (verb, [(item, future)])
        else:
            entry[1].append((item, future))
        if self._running is None:
            self._running = loop.create_task(self._drain())
        return future

    def take(self, verb: Verb, keys: QueueKeys, entries: list[Entry]) -> None:
        """Put requests into the next call that another lane could not serve."""
        self._pending.setdefault((verb.name, keys), (verb, []))[1].extend(entries)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._drain())

    async def close(self) -> None:
        """Wait for what is under way, then drop the connection."""
        if self._running is not None:
            await asyncio.wait([self._running])
        await self._link.close()

    async def _drain(self) -> None:
        try:
            while self._pending:
                await self._commit(self._turn())
        finally:
            self._running = None

    def _turn(self) -> dict[tuple[str, QueueKeys], tuple[Verb, list[Entry]]]:
        """Take what the next call carries: all that waits, or a fair share of it while several tenants are active."""
        taken, self._pending = self._pending, {}
        now = time.monotonic()
        for _, keys in taken:
            self._active[keys.tenant] = now
        if len(self._active) == 1:
            return taken
        for tenant in [tenant for tenant, at in self._active.items() if at < now - _ACTIVE_SECONDS]:
            del self._active[tenant]
        if len(self._active) == 1:
            return taken
        turn: dict[tuple[str, QueueKeys], tuple[Verb, list[Entry]]] = {}
        partly: dict[tuple[str, QueueKeys], tuple[Verb, list[Entry]]] = {}
        share = int(self._quickest_seconds * _FAIR_PER_SECOND / len(self._active))
        left = dict.fromkeys(self._active, min(max(share, _FAIR_SHARE), _LARGEST_FAIR_SHARE))
        for key, (verb, entries) in taken.items():
            tenant, number = key[1].tenant, 0
            while number < len(entries) and left[tenant] > 0:
                left[tenant] -= verb.weight(entries[number][0])
                number += 1
            if not number:
                self._pending[key] = (verb, entries)
                continue
            turn[key] = (verb, entries[:number])
            if number < len(entries):
                partly[key] = (verb, entries[number:])
        # What got nothing goes first next time: one busy queue or verb of a tenant must not starve its others.
        self._pending.update(partly)
        return turn

    async def _commit(self, pending: dict[tuple[str, QueueKeys], tuple[Verb, list[Entry]]]) -> None:
        calls: list[tuple[Verb, QueueKeys, list[Entry]]] = []
        commands: list[bytes] = []
        arguments: list[tuple[Argument, ...]] = []
        repeat = True
        for (_, keys), (verb, entries) in pending.items():
            repeat = repeat and verb.repeat
            for chunk in _chunks(verb, entries):
                try:
                    given = (*keys.declared, *verb.arguments([item for item, _ in chunk]))
                    command = _pack(("EVALSHA", self._scripts[verb.name].sha, *given))
                except Exception:
                    log.exception("failed to encode a call", extra={"verb": verb.name})
                    _refuse(chunk, InternalError())
                    continue
                calls.append((verb, keys, chunk))
                commands.append(command)
                arguments.append(given)
        if not commands:
            return
        waits = self._waits(calls)
        started = time.perf_counter()
        try:
            replies = await self._link.call(commands + waits, repeat=repeat)
            kept = self._kept(replies, len(commands))
            missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if missing:
                # Redis forgot its scripts. It may forget them again at any moment: these calls bring theirs along.
                whole = [_pack(("EVAL", self._scripts[calls[i][0].name].source, *arguments[i])) for i in missing]
                again = await self._link.call(whole + waits, repeat=False)
                kept = self._kept(again, len(whole))
                for i, reply in zip(missing, again, strict=True):
                    replies[i] = reply
        except StoreUnavailable as refusal:
            # Who came meanwhile has waited for the same silence: nobody waits for two of them.
            late, self._pending = self._pending, {}
            for _, _, chunk in calls:
                _refuse(chunk, refusal)
            for _, chunk in late.values():
                _refuse(chunk, refusal)
            if self._redirect is not None:
                self._redirect(calls[0][0], calls[0][1], [], refusal)
            return
        except BaseException as error:
            for _, _, chunk in calls:
                _refuse(chunk, StoreUnavailable())
            if not isinstance(error, Exception):
                raise
            log.exception("a call to Redis failed unexpectedly")
            return
        seconds = time.perf_counter() - started
        self._quickest_seconds = min(seconds, self._quickest_seconds * 1.05 + 1e-6)
        for (verb, keys, chunk), reply in zip(calls, replies, strict=True):
            self._observe(verb.name, seconds, len(chunk))
            if (
                self._redirect is not None
                and isinstance(reply, BaseException)
                and self._redirect(verb, keys, chunk, reply)
            ):
                continue
            _answer(verb, chunk, reply, kept=kept or not verb.promises)

    def _waits(self, calls: list[tuple[Verb, QueueKeys, list[Entry]]]) -> list[bytes]:
        """What goes behind the calls of a commit, so that their promises outlive the primary."""
        if not self._replicas:
            return []
        keys = next((keys for verb, keys, _ in calls if verb.promises), None)
        if keys is None:
            return []
        # WAIT asks for what this connection wrote. A call that finds its work done already writes nothing, though it
        # may have been done by another connection a moment ago: the mark makes WAIT cover that, too.
        mark = _pack(("EVAL", _MARK, 1, keys.replicated_key))
        return [mark, _pack(("WAIT", self._replicas, REPLICA_MS))]

    def _kept(self, replies: list[Any], calls: int) -> bool:
        """Whether enough replicas have it. Takes the replies to `_waits` off."""
        waited = replies[calls:]
        del replies[calls:]
        if not waited:
            return True
        marked, replicas = waited
        return not isinstance(marked, BaseException) and isinstance(replicas, int) and replicas >= self._replicas


def _chunks(verb: Verb, entries: list[Entry]) -> list[list[Entry]]:
    """Cut requests into calls of at most `batch`, or one request that is larger by itself."""
    if len(entries) == 1:
        return [entries]
    chunks: list[list[Entry]] = []
    room = 0
    for entry in entries:
        weight = verb.weight(entry[0])
        if weight > room or not chunks:
            chunks.append([])
            room = verb.batch
        chunks[-1].append(entry)
        room -= weight
    return chunks


def _is_full(reply: object) -> bool:
    """Whether Redis refused a command because it is full; a script's error names the reason in its text."""
    return isinstance(reply, OutOfMemoryError) or (
        isinstance(reply, ResponseError) and "OOM command not allowed" in str(reply)
    )


def refusal_of(error: BaseException, verb: str) -> Refusal:
    """Translate an error reply of Redis; what is a refusal already stays one."""
    if isinstance(error, Refusal):
        return error
    if _is_full(error):
        return StoreFull()
    text = str(error)
    name = type(error).__name__
    if text.startswith(_AWAY) or name in (
        "ReadOnlyError",
        "BusyLoadingError",
        "MasterDownError",
        "ClusterDownError",
        "TryAgainError",
    ):
        return StoreUnavailable(f"Redis cannot write now: {text.split('.')[0][:120]}")
    log.error("a script failed", extra={"verb": verb, "error": text[:500]})
    return InternalError()


def _answer(verb: Verb, chunk: list[Entry], reply: Any, *, kept: bool) -> None:
    if isinstance(reply, BaseException):
        _refuse(chunk, refusal_of(reply, verb.name))
        return
    try:
        outcomes = verb.outcomes(reply, [item for item, _ in chunk])
    except Exception:
        log.exception("failed to read a reply", extra={"verb": verb.name})
        _refuse(chunk, InternalError())
        return
    for (_, future), outcome in zip(chunk, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        elif not kept:
            future.set_exception(NotReplicated(outcome))
        else:
            future.set_result(outcome)


def _refuse(chunk: list[Entry], refusal: Refusal) -> None:
    for _, future in chunk:
        if not future.done():
            future.set_exception(refusal)
