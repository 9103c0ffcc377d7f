"""What administrators do with API keys: make, list, revoke. Protocol, "Who may do what"."""

from __future__ import annotations

import msgspec

from gateway.api.admin_messages import KeyList, KeyRecord, MadeKey, NewKey, Revoked
from gateway.api.audit import audit
from gateway.api.codec import read_message
from gateway.api.endpoint import Call, Reply
from gateway.api.replies import encode
from gateway.api.times import format_time
from gateway.errors import ForbiddenJobType, ForbiddenTenant, InvalidId, KeyNotFound
from gateway.store.api_keys import ApiKey, ApiKeys
from gateway.tasks import ID, ID_RULE

_new_key = msgspec.json.Decoder(NewKey)


class KeyRing:
    """Handlers for API keys. An administrator has those of its tenant, who operates the whole those of all."""

    def __init__(self, api_keys: ApiKeys, max_body_bytes: int) -> None:
        self._api_keys = api_keys
        self._max_body_bytes = max_body_bytes

    async def create(self, call: Call) -> Reply:
        """POST /keys. 201 with the secret, 400, 403, 415."""
        call.query()
        _check_wide(call)
        given = await read_message(call, _new_key, self._max_body_bytes)
        tenant = given.tenant or call.identity.tenant
        if tenant != call.identity.tenant and not call.identity.operates:
            raise ForbiddenTenant()
        ttl_ms = round((given.expires_in_seconds or 0) * 1000)
        scopes = tuple(dict.fromkeys(given.scopes))
        secret, made = await self._api_keys.create(given.name, tenant, scopes, tuple(given.job_types or ()), ttl_ms)
        audit(call, "created an API key", key_id=made.id, key_name=made.name, of_tenant=tenant, scopes=" ".join(scopes))
        facts = msgspec.structs.asdict(key_record(made, made.created_at_ms))
        return Reply(201, encode(MadeKey(**facts, key=secret)))

    async def list(self, call: Call) -> Reply:
        """GET /keys. 200."""
        call.query()
        _check_wide(call)
        tenant = None if call.identity.operates else call.identity.tenant
        now_ms = self._api_keys.now_ms()
        return Reply(200, encode(KeyList(keys=[key_record(one, now_ms) for one in await self._api_keys.list(tenant)])))

    async def revoke(self, call: Call) -> Reply:
        """DELETE /keys/{id}. 200, 400, 404."""
        call.query()
        _check_wide(call)
        if not ID.fullmatch(call.id):
            raise InvalidId(ID_RULE)
        tenant = None if call.identity.operates else call.identity.tenant
        if not await self._api_keys.revoke(call.id, tenant):
            raise KeyNotFound(call.id)
        audit(call, "revoked an API key", key_id=call.id)
        return Reply(200, encode(Revoked(id=call.id, revoked=True)))


def key_record(one: ApiKey, now_ms: int) -> KeyRecord:
    """A key as replies show it. now_ms: by Redis's clock, to tell whether it is over."""
    return KeyRecord(
        id=one.id,
        name=one.name,
        tenant=one.tenant,
        scopes=list(one.scopes),
        created_at=format_time(one.created_at_ms),
        job_types=list(one.job_types) or None,
        expires_at=format_time(one.expires_at_ms) if one.expires_at_ms else None,
        expired=0 < one.expires_at_ms <= now_ms,
    )


def _check_wide(call: Call) -> None:
    """Who is limited to some job_types must not make a key without that limit."""
    if call.identity.job_types:
        raise ForbiddenJobType("*")
