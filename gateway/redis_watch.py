"""Whether the Redis behind us answers, and whether its settings keep what we promise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.errors import StoreUnavailable
from gateway.store.keys import SCHEMA
from gateway.store.registry import Registry, ServerFacts

log = logging.getLogger("gateway.redis")
_WATCH_SECONDS = 2.0
_OLDEST_REDIS = (6, 2)
_FOREIGN = (
    "Redis holds data of version {}, this gateway knows version {}: it neither reads nor writes it. Run the version of "
    "tasks-gateway that wrote it, or a later one; or give this one a prefix of its own (REDIS_QUEUE_KEY)"
)


class RedisWatch:
    """Knows whether Redis answers and whether its settings keep the promise. strict: a bad setting means not ready."""

    def __init__(self, registry: Registry, *, embedded: bool, strict: bool) -> None:
        self._registry = registry
        self._embedded = embedded
        self._strict = strict
        self.answers = False
        self.warnings: list[str] = []
        # Why nothing may be read or written here at all, or ''.
        self.refusal = ""
        self.on_refusal: Callable[[str], None] = lambda refusal: None

    @property
    def ready(self) -> bool:
        """Whether requests can be served."""
        return self.answers and not self.refusal and not (self._strict and self.warnings)

    async def look(self) -> None:
        """Ask Redis now."""
        try:
            facts = await self._registry.server_facts()
            schema = await self._registry.meet_schema()
        except StoreUnavailable:
            if self.answers:
                log.warning("lost Redis")
            self.answers = False
            return
        refusal = "" if schema == SCHEMA else _FOREIGN.format(schema, SCHEMA)
        if refusal and refusal != self.refusal:
            log.error("refused what Redis holds", extra={"reason": refusal})
        if refusal != self.refusal:
            self.refusal = refusal
            self.on_refusal(refusal)
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
