"""What who operates the whole does with tenants: list them, look at one, set its limits. Protocol, "Limits"."""

from __future__ import annotations

import msgspec

from gateway.api.admin_messages import LimitsReply, NewLimits, TenantList, TenantRecord
from gateway.api.audit import audit
from gateway.api.codec import read_message
from gateway.api.endpoint import Call, Reply
from gateway.api.ids import tenant_of
from gateway.api.replies import encode
from gateway.errors import ForbiddenTenant
from gateway.limits import TenantLimits
from gateway.store.registry import Registry
from gateway.store.tenants import Limits, Tenants

_new_limits = msgspec.json.Decoder(NewLimits)


class TenantDesk:
    """Handlers for tenants. An administrator may look at its own; only who operates the whole at others."""

    def __init__(self, limits: TenantLimits, tenants: Tenants, registry: Registry, max_body_bytes: int) -> None:
        self._limits = limits
        self._tenants = tenants
        self._registry = registry
        self._max_body_bytes = max_body_bytes

    async def list(self, call: Call) -> Reply:
        """GET /tenants. 200, 403."""
        call.query()
        if not call.identity.operates:
            raise ForbiddenTenant()
        known = {queue.tenant for queue in await self._registry.queues()} | set(await self._tenants.all())
        return Reply(200, encode(TenantList(tenants=sorted(known))))

    async def get(self, call: Call) -> Reply:
        """GET /tenants/{tenant}. 200, 400, 403."""
        call.query()
        tenant = tenant_of(call)
        if tenant != call.identity.tenant and not call.identity.operates:
            raise ForbiddenTenant()
        return await self._reply(tenant)

    async def put(self, call: Call) -> Reply:
        """PUT /tenants/{tenant}. 200 what it may and holds, 400, 403, 413, 415."""
        call.query()
        tenant = tenant_of(call)
        if not call.identity.operates:
            raise ForbiddenTenant()
        given = await read_message(call, _new_limits, self._max_body_bytes)
        own = Limits(**msgspec.structs.asdict(given))
        await self._tenants.put(tenant, own)
        await self._limits.refresh()
        audit(call, "set a tenant's limits", of_tenant=tenant, own=" ".join(self._limits.own_of(tenant)))
        return await self._reply(tenant)

    async def _reply(self, tenant: str) -> Reply:
        queues, pending, stored_bytes = await self._limits.held_by(tenant)
        limits = LimitsReply(**msgspec.structs.asdict(self._limits.of(tenant)))
        own = list(self._limits.own_of(tenant))
        record = TenantRecord(
            tenant=tenant, limits=limits, own=own, queues=queues, pending=pending, stored_bytes=stored_bytes
        )
        return Reply(200, encode(record))
