"""Limits of tenants that have their own."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.store.connect import answering
from gateway.store.keys import Keys


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tenant may use; None: no limit, and in a tenant's own limits: that of all tenants."""

    rate_limit_per_minute: int | None = None
    max_open_polls: int | None = None
    max_pending: int | None = None
    max_stored_bytes: int | None = None
    max_batch: int | None = None
    max_queues: int | None = None

    def over(self, common: Limits) -> Limits:
        """These, and the common ones where these say nothing."""
        return Limits(*(
            getattr(common, name) if getattr(self, name) is None else getattr(self, name)
            for name in self.__struct_fields__
        ))  # fmt: skip


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Limits).decode


class Tenants:
    """Tenants' own limits in Redis. Every method raises StoreUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._key = keys.tenants

    async def all(self) -> dict[str, Limits]:
        """Read them all."""
        async with answering():
            found: Any = await self._redis.hgetall(self._key)  # type: ignore[misc]  # redis-py: sync and async in one type
        return {tenant.decode(): _decode(raw) for tenant, raw in found.items()}

    async def put(self, tenant: str, limits: Limits) -> None:
        """Set a tenant's own limits; with none, forget it."""
        async with answering():
            if limits == Limits():
                await self._redis.hdel(self._key, tenant)  # type: ignore[misc]  # as above
            else:
                await self._redis.hset(self._key, tenant, _encode(limits))  # type: ignore[misc,arg-type]  # as above
