"""create_app: every object and every route, on one screen."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from gateway.api.bulk import Bulk
from gateway.api.docs import Docs
from gateway.api.endpoint import Endpoint, Handler
from gateway.api.operators import Operators
from gateway.api.producers import Producers
from gateway.api.routing import Router
from gateway.api.workers import Workers
from gateway.background import Sweeper
from gateway.config import Settings
from gateway.metrics import Metrics
from gateway.pool import Pool
from gateway.redis_watch import RedisWatch
from gateway.store import scripts
from gateway.store.batching import Lane
from gateway.store.connect import Connections
from gateway.store.idempotency import Idempotency
from gateway.store.inspector import Inspector
from gateway.store.keys import Keys
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.store.wakeups import Wakeups
from gateway.task_manager import TaskManager

log = logging.getLogger("gateway")
_CHORES_SECONDS = 2.0
LANES = ("enqueue", "claim", "report", "chore", "read")


class GatewayApp(Starlette):
    """The gateway as an ASGI application. Starlette runs its life; requests go straight to the router."""

    def __init__(
        self, settings: Settings, redis_url: str, *, pool_size: int = 0, clock: Callable[[], int] | None = None
    ) -> None:
        keys = Keys(settings.redis_key_prefix)
        gateway = secrets.token_hex(6)
        self.meter = Metrics()
        self.connections = Connections(redis_url, settings.redis_password)
        loaded = scripts.load(keys)
        lanes = {name: Lane(self.connections.link(), loaded, self.meter.script) for name in LANES}
        self.store = TaskStore(keys, lanes, gateway, settings.task_queue_size, clock)
        self.registry = Registry(self.connections.redis, keys)
        self.inspector = Inspector(self.store)
        self.manager = TaskManager(self.store, self.registry, settings.max_open_polls)
        self.sweeper = Sweeper(self.store, self.registry)
        self.wakeups = Wakeups(self.connections.redis, keys, gateway, self.manager)
        self.watch = RedisWatch(
            self.registry, embedded=settings.embedded_redis(), strict=settings.redis_check == "refuse"
        )
        self.pool = Pool(self.store, self.manager, pool_size, settings.shutdown_timeout_seconds)
        self.store.listener = self.manager
        self.manager.on_alarm, self.manager.on_count = self.sweeper.alarm, self.meter.count
        self.manager.on_dispatch = self.meter.dispatched

        body = settings.max_body_bytes
        self.idempotency = Idempotency(self.connections.redis, keys, clock)
        producers = Producers(self.store, self.inspector, self.registry, self.manager, self.idempotency, body)
        bulk = Bulk(self.store, self.inspector, self.registry, body)
        workers = Workers(self.store, self.registry, self.manager, body)
        operators = Operators(self.store, self.inspector, self.registry, self.manager, self.watch, self.meter)
        docs = Docs()
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/tasks", producers.enqueue),
            ("GET HEAD", "/tasks", producers.list_tasks),
            ("GET HEAD", "/tasks/{id}", producers.get),
            ("GET HEAD", "/task", producers.get_by_query),
            ("DELETE", "/tasks/{id}", producers.cancel),
            ("PATCH", "/tasks/{id}", producers.patch),
            ("POST", "/tasks/{id}/retry", producers.retry),
            ("POST", "/tasks/cancel", bulk.cancel),
            ("POST", "/tasks/retry", bulk.retry),
            ("POST", "/tasks/delete", bulk.delete),
            ("GET POST", "/poll", workers.poll),
            ("POST", "/tasks/{id}/heartbeat", workers.heartbeat),
            ("POST", "/tasks/{id}/complete", workers.complete),
            ("POST", "/tasks/{id}/fail", workers.fail),
            ("POST", "/tasks/{id}/release", workers.release),
            ("POST", "/outcomes", workers.outcomes),
            ("POST", "/heartbeats", workers.heartbeats),
            ("GET HEAD", "/workers", workers.list_workers),
            ("POST", "/workers/{id}/drain", workers.drain),
            ("POST", "/workers/{id}/stop", workers.stop),
            ("POST", "/workers/{id}/run", workers.resume),
            ("DELETE", "/workers/{id}", workers.sign_off),
            ("GET HEAD", "/queues", operators.queues),
            ("GET HEAD", "/queues/{job_type}", operators.queue),
            ("GET HEAD", "/health", operators.health),
            ("GET HEAD", "/health/live", operators.live),
            ("GET HEAD", "/health/ready", operators.ready),
            ("GET HEAD", "/metrics", operators.metrics),
            ("GET HEAD", "/openapi.json", docs.openapi),
            ("GET HEAD", "/docs", docs.page),
            ("GET HEAD", "/docs/{name}", docs.part),
        ]
        self.table = [(methods, path) for methods, path, _ in routes]
        self.requests = Router(
            [(methods, path, Endpoint(path, handler, self.meter.request)) for methods, path, handler in routes]
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
            ("wakeups", app.wakeups.run),
            ("sweeper", app.sweeper.run),
            ("polls", app.manager.run),
            ("redis watch", app.watch.run),
            ("pool", app.pool.run),
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
