"""API keys: `tgw_` and 32 random bytes, shown once. Redis keeps their SHA-256, so that a dump gives none away.

The key is 256 random bits: nobody guesses it, so its hash needs neither salt nor slowness. It is looked up by its
hash: what a comparison could leak of time says nothing of the key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.identity import KEY_PREFIX, Identity
from gateway.store.connect import answering
from gateway.store.keys import Keys

_LONGEST_KEY = 100
_FOR_EVER_SECONDS = float(2**40)


class ApiKey(msgspec.Struct, frozen=True):
    """One key, without its secret. Times are unix ms; expires_at_ms 0: never. hash: SHA-256 of the secret, hex."""

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    job_types: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int = 0
    hash: str = ""


class ApiKeys:
    """The API keys in Redis. Every method raises StoreUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis, keys: Keys, now_ms: Callable[[], int]) -> None:
        self._redis = redis
        self._key = keys.api_keys
        self.now_ms = now_ms

    async def create(
        self, name: str, tenant: str, scopes: tuple[str, ...], job_types: tuple[str, ...] = (), ttl_ms: int = 0
    ) -> tuple[str, ApiKey]:
        """Make a key. ttl_ms 0: it never ends. Returns its secret, to be shown once, and its record."""
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        now_ms = self.now_ms()
        ends_ms = now_ms + ttl_ms if ttl_ms else 0
        made = ApiKey(secrets.token_hex(6), name, tenant, scopes, job_types, now_ms, ends_ms, _hash(secret))
        async with answering():
            await self._redis.hset(self._key, made.hash, msgspec.msgpack.encode(made))  # type: ignore[misc,arg-type]  # redis-py
        return secret, made

    async def find(self, secret: str) -> tuple[Identity, float] | None:
        """Say who holds a key, and when it ends (unix seconds). None: nobody, or it is over."""
        if len(secret) > _LONGEST_KEY:
            return None
        digest = _hash(secret)
        async with answering():
            raw: Any = await self._redis.hget(self._key, digest)  # type: ignore[misc]  # as above
        if raw is None:
            return None
        found = msgspec.msgpack.decode(raw, type=ApiKey)
        over = 0 < found.expires_at_ms <= self.now_ms()
        if over or not hmac.compare_digest(found.hash, digest):
            return None
        ends_at = found.expires_at_ms / 1000 if found.expires_at_ms else _FOR_EVER_SECONDS
        return Identity(found.tenant, f"key:{found.id}", frozenset(found.scopes), found.job_types), ends_at

    async def list(self, tenant: str | None = None) -> list[ApiKey]:
        """List the keys, of one tenant or of all, oldest first; also those that are over."""
        async with answering():
            raws: Any = await self._redis.hvals(self._key)  # type: ignore[misc]  # as above
        found = [msgspec.msgpack.decode(raw, type=ApiKey) for raw in raws]
        chosen = [one for one in found if tenant in (None, one.tenant)]
        return sorted(chosen, key=lambda one: (one.created_at_ms, one.id))

    async def revoke(self, id: str, tenant: str | None = None) -> bool:
        """End a key; every gateway refuses it within two seconds. False: there is none."""
        for one in await self.list(tenant):
            if one.id == id:
                async with answering():
                    return bool(await self._redis.hdel(self._key, one.hash))  # type: ignore[misc]  # as above
        return False


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
