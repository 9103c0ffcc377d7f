"""Whether the Redis behind us answers, and whether its settings keep what we promise."""

from __future__ import annotations

import asyncio
import logging

from gateway.errors import StoreUnavailable
from gateway.store.registry import Registry, ServerFacts

log = logging.getLogger("gateway.redis")
_WATCH_SECONDS = 2.0
_OLDEST_REDIS = (6, 2)


class RedisWatch:
    """Knows whether Redis answers and whether its settings keep the promise. strict: a bad setting means not ready."""

    def __init__(self, registry: Registry, *, embedded: bool, strict: bool) -> None:
        self._registry = registry
        self._embedded = embedded
        self._strict = strict
        self.answers = False
        self.warnings: list[str] = []

    @property
    def ready(self) -> bool:
        """Whether requests can be served."""
        return self.answers and not (self._strict and self.warnings)

    async def look(self) -> None:
        """Ask Redis now."""
        try:
            facts = await self._registry.server_facts()
        except StoreUnavailable:
            if self.answers:
                log.warning("lost Redis")
            self.answers = False
            return
        warnings = _complaints(facts, embedded=self._embedded)
        for warning in warnings:
            if warning not in self.warnings:
                log.warning("found Redis at fault", extra={"warning": warning})
        if not self.answers:
            log.info("reached Redis", extra={"version": ".".join(map(str, facts.version))})
        self.answers, self.warnings = True, warnings

    async def run(self) -> None:
        """Look for ever. Cancel it to stop."""
        while True:
            await self.look()
            await asyncio.sleep(_WATCH_SECONDS if self.answers else _WATCH_SECONDS / 8)


def _complaints(facts: ServerFacts, *, embedded: bool) -> list[str]:
    complaints = []
    if facts.version[:2] < _OLDEST_REDIS:
        complaints.append("Redis is older than 6.2; upgrade it")
    if facts.maxmemory and facts.maxmemory_policy != "noeviction":
        complaints.append(
            f"maxmemory-policy is {facts.maxmemory_policy}: Redis may throw tasks away; set it to noeviction"
        )
    if not facts.aof and not embedded:
        complaints.append("appendonly is off: tasks are lost when Redis restarts; set appendonly yes")
    return complaints
