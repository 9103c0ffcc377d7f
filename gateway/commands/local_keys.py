"""API keys straight in the gateway's Redis, without a gateway: how the first key comes into being.

It is the Redis of the settings: one elsewhere, or the embedded one of DATA_DIR, which is joined where a gateway runs it
and started for the moment where none does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gateway.api.admin_messages import NewKey
from gateway.api.api_keys import key_record
from gateway.commands.client import Unreachable, settings
from gateway.commands.output import USAGE, fail
from gateway.config import Settings
from gateway.embedded import EmbeddedRedis
from gateway.errors import Refusal
from gateway.redis_binary import EmbeddedRedisError
from gateway.redis_connections import connect
from gateway.store.api_keys import ApiKey, ApiKeys
from gateway.store.connect import answering
from gateway.store.keys import Keys
from gateway.tasks import DEFAULT_TENANT


async def create_locally(given: dict[str, Any]) -> dict[str, Any]:
    """Make a key. given: the body that `POST /keys` takes. Returns what that would answer."""
    try:
        wanted = msgspec.convert(given, NewKey)
    except msgspec.ValidationError as error:
        fail(str(error), USAGE)
    async with _opened() as keys:
        secret, made = await keys.create(
            wanted.name, wanted.tenant or DEFAULT_TENANT, tuple(dict.fromkeys(wanted.scopes)),
            tuple(wanted.job_types or ()), round((wanted.expires_in_seconds or 0) * 1000),
        )  # fmt: skip
        return _shown(made, keys) | {"key": secret}


async def list_locally() -> list[dict[str, Any]]:
    """List the keys of all tenants."""
    async with _opened() as keys:
        return [_shown(one, keys) for one in await keys.list()]


async def revoke_locally(key_id: str) -> bool:
    """End a key. False: there is none."""
    async with _opened() as keys:
        return await keys.revoke(key_id)


def _shown(one: ApiKey, keys: ApiKeys) -> dict[str, Any]:
    """A key as `GET /keys` shows it."""
    found: dict[str, Any] = msgspec.to_builtins(key_record(one, keys.now_ms()))
    return found


@asynccontextmanager
async def _opened() -> AsyncIterator[ApiKeys]:
    """The keys in the Redis of the settings. Raises Unreachable."""
    chosen = settings()
    if not chosen.embedded_redis():
        async with _connected(chosen, chosen.redis_location()) as keys:
            yield keys
        return
    embedded = EmbeddedRedis(Path(chosen.data_dir), appendfsync=chosen.appendfsync, accept_empty=chosen.accept_empty)
    try:
        await embedded.start()
    except EmbeddedRedisError as error:
        raise Unreachable(str(error)) from error
    try:
        async with _connected(chosen, f"unix://{embedded.socket_path}") as keys:
            yield keys
    finally:
        await embedded.stop()


@asynccontextmanager
async def _connected(chosen: Settings, url: str) -> AsyncIterator[ApiKeys]:
    try:
        connections = connect(chosen, url)
    except ValueError as error:
        raise Unreachable(f"REDIS_URL: {error}") from error
    try:
        async with answering():
            seconds, micros = await connections.redis.time()
        # Keys end by Redis's clock, as everything does.
        keys = Keys(chosen.redis_key_prefix, cluster=connections.cluster)
        yield ApiKeys(connections.redis, keys, lambda: seconds * 1000 + micros // 1000)
    except Refusal as refusal:
        cause = f" ({refusal.__cause__})" if refusal.__cause__ is not None else ""
        raise Unreachable(f"{refusal.detail}{cause}; `gateway doctor` looks at Redis") from refusal
    finally:
        await connections.close()
