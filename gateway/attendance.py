"""Attendance: which workers poll here, noted for all gateways now and then, and what each of them is told to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from gateway.errors import StoreFull, StoreUnavailable
from gateway.store.registry import DirectiveName, Registry, WorkerFacts
from gateway.tasks import DEFAULT_TENANT, Queue

_RETRY_SECONDS = 0.25
_NOTE_WORKERS_SECONDS = 1.0
# Whoever holds a poll open is seen now and then only: ten thousand idle polls must cost next to nothing.
_NOTE_ALL_WORKERS_SECONDS = 20.0
_REREAD_DIRECTIVES_SECONDS = 10.0


class Attendance:
    """Knows the workers that poll this process.

    send_home: ends a worker's open polls, by tenant and id. held: of each open poll its tenant, worker and queues.
    """

    def __init__(
        self,
        registry: Registry,
        now_ms: Callable[[], int],
        send_home: Callable[[str, str], None],
        held: Callable[[], Iterable[tuple[str, str, tuple[Queue, ...]]]],
    ) -> None:
        self._registry = registry
        self._now_ms = now_ms
        self._send_home = send_home
        self._held = held
        self._seen: dict[str, dict[str, WorkerFacts]] = {}
        self._directives: dict[str, dict[str, DirectiveName]] = {DEFAULT_TENANT: {}}
        self._directives_stale = asyncio.Event()
        self._directives_stale.set()

    def see(self, tenant: str, worker_id: str, queues: Iterable[Queue]) -> None:
        """Note that this worker polls for these queues, and see that its tenant's directives are read."""
        names = tuple(queue.job_type for queue in queues)
        self._seen.setdefault(tenant, {})[worker_id] = WorkerFacts(names, self._now_ms())
        if tenant not in self._directives:
            self._directives[tenant] = {}
            self._directives_stale.set()

    def directive(self, tenant: str, worker_id: str) -> DirectiveName:
        """What this worker is told to do, as last heard."""
        known = self._directives.get(tenant)
        if known is None:
            known = self._directives[tenant] = {}
            self._directives_stale.set()
        return known.get(worker_id, "run")

    def forget_worker(self, tenant: str, worker_id: str) -> bool:
        """The worker signed off: do not list it again for what was seen of it before. False: nothing was, lately."""
        return self._seen.get(tenant, {}).pop(worker_id, None) is not None

    def directives_changed(self) -> None:
        """Read the directives again."""
        self._directives_stale.set()

    async def read_directives(self) -> None:
        """Read the directives, for ever: when they changed, and now and then. Cancel it to stop."""
        while True:
            try:
                async with asyncio.timeout(_REREAD_DIRECTIVES_SECONDS):
                    await self._directives_stale.wait()
            except TimeoutError:
                pass
            self._directives_stale.clear()
            for tenant in list(self._directives):
                try:
                    found = await self._registry.directives(tenant)
                except StoreUnavailable:
                    await asyncio.sleep(_RETRY_SECONDS)
                    self._directives_stale.set()
                    break
                changed = {worker for worker in found if self._directives[tenant].get(worker) != found[worker]}
                self._directives[tenant] = found
                for worker in changed:
                    self._send_home(tenant, worker)

    async def note_workers(self) -> None:
        """Tell the registry who was seen, for ever. Cancel it to stop."""
        noted_all = time.monotonic()
        while True:
            await asyncio.sleep(_NOTE_WORKERS_SECONDS)
            if time.monotonic() - noted_all >= _NOTE_ALL_WORKERS_SECONDS:
                noted_all = time.monotonic()
                for tenant, worker_id, queues in self._held():
                    self.see(tenant, worker_id, queues)
            seen, self._seen = self._seen, {}
            for tenant, workers in seen.items():
                if not workers:
                    continue  # the last of them signed off meanwhile
                try:
                    await self._registry.note_workers(tenant, workers)
                except (StoreFull, StoreUnavailable):
                    pass
