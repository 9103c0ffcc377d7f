"""Idempotency keys: the same key and request make the same tasks, once, and get the same reply.

The ids of the tasks are noted before they are made: when the first asker dies half-way, the next one makes the same.
Source: draft-ietf-httpapi-idempotency-key-header-07; idempotency.lua.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.errors import IdempotencyMismatch, NotReplicated, RequestRunning
from gateway.store.connect import answering, replicated
from gateway.store.keys import Keys

KEPT_MS = 86_400_000
_LOCK_MS = 10_000


class Made(msgspec.Struct, frozen=True, array_like=True):
    """What a request will make (the names of its tasks), and when it is done the reply it got: status, task, JSON.

    names: as `TaskStore.make_names` makes them.
    """

    names: tuple[str, ...]
    status: int = 0
    task_id: str = ""
    body: bytes = b""


class Idempotency:
    """The records of idempotency keys. Every method raises StoreUnavailable when Redis does not answer.

    replicas: how many must have a record before its tasks are made.
    """

    def __init__(self, redis: Redis, keys: Keys, clock: Callable[[], int] | None, replicas: int = 0) -> None:
        self._redis = redis
        self._replicas = replicas
        self._source = (files("gateway.store") / "idempotency.lua").read_text()
        self._script = redis.register_script(self._source)
        self._keys = keys
        self._clock = clock

    async def begin(self, tenant: str, key: str, request: Sequence[bytes], names: Sequence[str]) -> tuple[bool, Made]:
        """Ask to work on a request. request: all that makes it this request and no other.

        Returns (True, what it made) when it is done already, else (False, the names to make): ours, or those of a first
        asker that died. Raises IdempotencyMismatch, RequestRunning, NotReplicated.
        """
        fingerprint = hashlib.blake2b(b"\0".join(request), digest_size=16).digest()
        planned = msgspec.msgpack.encode(Made(tuple(names)))
        given = ("begin", fingerprint, _LOCK_MS, KEPT_MS, planned)
        kept = True
        if self._replicas:
            name, now = self._keys.idempotency(tenant, key), self._clock() if self._clock else ""
            # Brings its source along: a script that is not there yet would cost the order of the two.
            reply, kept = await replicated(self._redis, self._replicas, "EVAL", self._source, 1, name, now, *given)
            word, *rest = reply
        else:
            word, *rest = await self._run(tenant, key, *given)
        if word == b"mismatch":
            raise IdempotencyMismatch()
        if word == b"running":
            raise RequestRunning()
        if word != b"done" and not kept:
            # Were the record lost after the tasks are acknowledged, the next asker would make them again.
            raise NotReplicated()
        if not rest:
            return False, Made(tuple(names))
        made = msgspec.msgpack.decode(rest[0], type=Made)
        return word == b"done", msgspec.structs.replace(made, body=zlib.decompress(made.body) if made.body else b"")

    async def finish(self, tenant: str, key: str, made: Made) -> None:
        """Note what the request made, and the reply to give again."""
        packed = msgspec.structs.replace(made, body=zlib.compress(made.body, 1))
        await self._run(tenant, key, "finish", msgspec.msgpack.encode(packed))

    async def pause(self, tenant: str, key: str) -> None:
        """Let the same request be tried again at once, with the same ids: an earlier try may have made them."""
        await self._run(tenant, key, "pause")

    async def abort(self, tenant: str, key: str) -> None:
        """Nothing was made: the key is free again. But after an earlier try that may still make it, this is `pause`."""
        await self._run(tenant, key, "abort")

    async def _run(self, tenant: str, key: str, *args: Any) -> list[Any]:
        now = self._clock() if self._clock else ""
        async with answering():
            reply: list[Any] = await self._script(keys=[self._keys.idempotency(tenant, key)], args=[now, *args])
        return reply
