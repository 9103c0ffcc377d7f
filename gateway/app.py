"""create_app: every object and every route, on one screen."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from gateway.api.api_keys import KeyRing
from gateway.api.bulk import Bulk
from gateway.api.docs import Docs
from gateway.api.endpoint import Endpoint, Handler
from gateway.api.enqueue import Enqueue
from gateway.api.guard import ADMINS, OPEN, READS, REPORTS, WORKS, WRITES, Door, Guard
from gateway.api.operators import Operators
from gateway.api.producers import Producers
from gateway.api.queue_admin import QueueAdmin
from gateway.api.routing import Router
from gateway.api.tenants import TenantDesk
from gateway.api.waits import Waits
from gateway.api.workers import Workers
from gateway.authentication import Authenticator
from gateway.background import Sweeper
from gateway.config import Settings, names
from gateway.jwts import JwtRules, JwtVerifier
from gateway.limits import TenantLimits
from gateway.metrics import Metrics
from gateway.pool import Pool
from gateway.redis_connections import connect
from gateway.redis_watch import RedisWatch
from gateway.store import scripts
from gateway.store.api_keys import ApiKeys
from gateway.store.idempotency import Idempotency
from gateway.store.inspector import Inspector
from gateway.store.keys import Keys
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.store.tenants import Limits, Tenants
from gateway.task_manager import TaskManager

log = logging.getLogger("gateway")
_CHORES_SECONDS = 2.0
LANES = ("enqueue", "claim", "report", "chore", "read", "limit")


class GatewayApp(Starlette):
    """The gateway as an ASGI application. Starlette runs its life; requests go straight to the router."""

    def __init__(
        self, settings: Settings, redis_url: str, *, pool_size: int = 0, clock: Callable[[], int] | None = None
    ) -> None:
        self.connections = connect(settings, redis_url)
        keys = Keys(settings.redis_key_prefix, cluster=self.connections.cluster)
        gateway = secrets.token_hex(6)
        self.meter = Metrics()
        loaded = scripts.load(keys)
        lanes = {name: self.connections.lane(loaded, self.meter.script) for name in LANES}
        self.store = TaskStore(keys, lanes, gateway, settings.task_queue_size, clock)
        self.registry = Registry(self.connections.redis, keys, self.connections.replicas)
        self.inspector = Inspector(self.store)
        self.tenants = Tenants(self.connections.redis, keys)
        self.limits = TenantLimits(_common(settings), self.tenants, self.store, self.inspector, self.registry)
        self.manager = TaskManager(self.store, self.registry, settings.max_open_polls, self.limits.open_polls)
        self.sweeper = Sweeper(self.store, self.registry)
        self.wakeups = self.connections.wakeups(keys, gateway, self.manager)
        self.store.expect_rings = self.wakeups.expect
        self.watch = RedisWatch(
            self.registry,
            embedded=settings.embedded_redis(),
            strict=settings.redis_check == "refuse",
            kind=self.connections.kind,
            durability=settings.durability,
        )
        self.pool = Pool(self.store, self.registry, self.manager, pool_size, settings.shutdown_timeout_seconds)
        self.store.listener = self.manager
        self.manager.on_alarm, self.manager.on_count = self.sweeper.alarm, self.meter.count
        self.manager.on_dispatch = self.meter.dispatched

        self.api_keys = ApiKeys(self.connections.redis, keys, self.store.now_ms)
        guard = self.guard = Guard(
            _authenticator(settings, self.api_keys), self.limits, by_address=settings.rate_limit_by_address,
            origins=names(settings.cors_origins), hosts=names(settings.allowed_hosts),
            said_open=settings.auth == "none",
        )  # fmt: skip

        def refuse(reason: str) -> None:
            self.store.refusal = guard.refusal = reason

        self.watch.on_refusal = refuse
        body = settings.max_body_bytes
        self.idempotency = Idempotency(self.connections.redis, keys, clock, self.connections.replicas)
        waits = Waits(self.inspector, self.manager)
        enqueue = Enqueue(
            self.store, self.inspector, self.registry, self.manager, waits, self.idempotency, self.limits, body
        )
        producers = Producers(self.store, self.inspector, self.registry, waits, self.limits, body)
        queues = QueueAdmin(self.store, self.inspector, self.registry, self.limits, body)
        key_ring = KeyRing(self.api_keys, body)
        tenants = TenantDesk(self.limits, self.tenants, self.registry, body)
        bulk = Bulk(self.store, self.inspector, self.registry, self.limits, body)
        workers = Workers(self.store, self.registry, self.manager, body)
        operators = Operators(
            self.store, self.inspector, self.registry, self.manager, self.watch, self.meter, guard, settings.warnings()
        )
        docs = Docs()
        routes: list[tuple[str, str, Door, Handler]] = [
            ("POST", "/tasks", WRITES, enqueue.enqueue),
            ("GET HEAD", "/tasks", READS, producers.list_tasks),
            ("GET HEAD", "/tasks/{id}", READS, producers.get),
            ("GET HEAD", "/task", READS, producers.get_by_query),
            ("DELETE", "/tasks/{id}", WRITES, producers.cancel),
            ("PATCH", "/tasks/{id}", WRITES, producers.patch),
            ("POST", "/tasks/{id}/retry", WRITES, producers.retry),
            ("POST", "/tasks/cancel", WRITES, bulk.cancel),
            ("POST", "/tasks/retry", WRITES, bulk.retry),
            ("POST", "/tasks/delete", ADMINS, bulk.delete),
            ("GET POST", "/poll", WORKS, workers.poll),
            ("POST", "/tasks/{id}/heartbeat", REPORTS, workers.heartbeat),
            ("POST", "/tasks/{id}/complete", REPORTS, workers.complete),
            ("POST", "/tasks/{id}/fail", REPORTS, workers.fail),
            ("POST", "/tasks/{id}/release", REPORTS, workers.release),
            ("POST", "/outcomes", REPORTS, workers.outcomes),
            ("POST", "/heartbeats", REPORTS, workers.heartbeats),
            ("GET HEAD", "/workers", READS, workers.list_workers),
            ("POST", "/workers/{id}/drain", ADMINS, workers.drain),
            ("POST", "/workers/{id}/stop", ADMINS, workers.stop),
            ("POST", "/workers/{id}/run", ADMINS, workers.resume),
            ("DELETE", "/workers/{id}", WORKS, workers.sign_off),
            ("GET HEAD", "/queues", READS, operators.queues),
            ("GET HEAD", "/queues/{job_type}", READS, operators.queue),
            ("GET HEAD", "/queues/{job_type}/settings", READS, queues.settings),
            ("PUT", "/queues/{job_type}", ADMINS, queues.put),
            ("PATCH", "/queues/{job_type}", ADMINS, queues.patch),
            ("POST", "/queues/{job_type}/pause", ADMINS, queues.pause),
            ("POST", "/queues/{job_type}/resume", ADMINS, queues.resume),
            ("POST", "/queues/{job_type}/purge", ADMINS, queues.purge),
            ("POST", "/queues/{job_type}/redrive", ADMINS, queues.redrive),
            ("GET HEAD", "/keys", ADMINS, key_ring.list),
            ("POST", "/keys", ADMINS, key_ring.create),
            ("DELETE", "/keys/{id}", ADMINS, key_ring.revoke),
            ("GET HEAD", "/tenants", ADMINS, tenants.list),
            ("GET HEAD", "/tenants/{tenant}", ADMINS, tenants.get),
            ("PUT", "/tenants/{tenant}", ADMINS, tenants.put),
            ("GET HEAD", "/health", OPEN, operators.health),
            ("GET HEAD", "/health/live", OPEN, operators.live),
            ("GET HEAD", "/health/ready", OPEN, operators.ready),
            ("GET HEAD", "/metrics", READS, operators.metrics),
            ("GET HEAD", "/openapi.json", OPEN, docs.openapi),
            ("GET HEAD", "/docs", OPEN, docs.page),
            ("GET HEAD", "/docs/{name}", OPEN, docs.part),
        ]
        self.table = [(methods, path) for methods, path, *_ in routes]
        self.requests = Router(
            [
                (methods, path, Endpoint(path, handler, self.meter.request, guard, door))
                for methods, path, door, handler in routes
            ],
            guard,
        )
        super().__init__(lifespan=_lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.requests(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def drain(self) -> None:
        """Send open polls home, finish what the pool runs, hand back what nobody took."""
        self.manager.close()
        await self.pool.drain()
        await self.manager.settle()


def _common(settings: Settings) -> Limits:
    return Limits(
        settings.rate_limit_per_minute, settings.tenant_max_open_polls, settings.tenant_max_pending,
        settings.tenant_max_stored_bytes, settings.tenant_max_batch, settings.tenant_max_queues,
    )  # fmt: skip


def _authenticator(settings: Settings, api_keys: ApiKeys) -> Authenticator:
    if not settings.authenticates():
        return Authenticator()
    rules = JwtRules(
        settings.jwt_secret, settings.jwks_file, settings.jwks_url, settings.jwt_issuer, settings.jwt_audience
    )
    return Authenticator(JwtVerifier(rules) if rules.given else None, api_keys.find)


async def _keep_running(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Do a chore until it is cancelled, whatever happens to it."""
    while True:
        try:
            await run()
            return
        except Exception:
            log.exception("restarted a chore that failed", extra={"chore": name})
            await asyncio.sleep(1.0)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    assert isinstance(app, GatewayApp)
    await app.watch.look()
    chores = [
        asyncio.create_task(_keep_running(name, run), name=name)
        for name, run in (
            ("topology", app.connections.follow),
            ("wakeups", app.wakeups.run),
            ("sweeper", app.sweeper.run),
            ("polls", app.manager.run),
            ("redis watch", app.watch.run),
            ("pool", app.pool.run),
            ("limits", app.limits.run),
        )
    ]
    try:
        yield
    finally:
        await app.drain()
        for chore in chores:
            chore.cancel()
        _, left = await asyncio.wait(chores, timeout=_CHORES_SECONDS)
        if left:
            log.error("left chores behind", extra={"chores": [chore.get_name() for chore in left]})
        await app.store.close()
        await app.connections.close()


def create_app(
    settings: Settings, redis_url: str, *, pool_size: int = 0, clock: Callable[[], int] | None = None
) -> GatewayApp:
    """Build the gateway.

    redis_url: the Redis to use (the embedded one's socket, too). pool_size: bundled workers for the `default` queue.
    clock: unix ms for tests; otherwise Redis's own.
    """
    return GatewayApp(settings, redis_url, pool_size=pool_size, clock=clock)
