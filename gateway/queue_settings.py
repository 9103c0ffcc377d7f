"""What an operator may set for a queue. No I/O; `lua/configure.lua` keeps it, and scripts act by it."""

from __future__ import annotations

import msgspec

from gateway.retries import RetryPolicy
from gateway.tasks import TaskSpec

# A pause without an end.
FOR_EVER_MS = 2**52


class Unsaid:
    """What a producer left out: bits of `TaskSpec.unsaid`. Plain numbers: every enqueue adds them up."""

    MAX_ATTEMPTS = 1
    RETRY = 2
    LEASE = 4
    RETENTION = 8
    TIMEOUT = 16


class Defaults(msgspec.Struct, frozen=True, omit_defaults=True):
    """What tasks of the queue get where their producer did not say; None: the gateway's own. Durations in ms."""

    max_attempts: int | None = None
    retry: RetryPolicy | None = None
    lease_ms: int | None = None
    retention_ms: int | None = None
    timeout_ms: int | None = None

    def fill(self, spec: TaskSpec) -> TaskSpec:
        """Put them where the spec says that its producer said nothing (`TaskSpec.unsaid`)."""
        changes: dict[str, object] = {}
        unsaid = spec.unsaid
        if unsaid & Unsaid.MAX_ATTEMPTS and self.max_attempts is not None:
            changes["max_attempts"] = self.max_attempts
        if unsaid & Unsaid.RETRY and self.retry is not None:
            changes["retry"] = self.retry
        if unsaid & Unsaid.LEASE and self.lease_ms is not None:
            changes["lease_ms"] = self.lease_ms
        if unsaid & Unsaid.RETENTION and self.retention_ms is not None:
            changes["retention_ms"] = changes["failed_retention_ms"] = self.retention_ms
        if unsaid & Unsaid.TIMEOUT and self.timeout_ms is not None:
            changes["timeout_ms"] = self.timeout_ms
        return msgspec.structs.replace(spec, **changes) if changes else spec


NO_DEFAULTS = Defaults()


class QueueSettings(msgspec.Struct, frozen=True):
    """One queue's settings; None: no limit (max_pending: the gateway's; max_processing_per_key: 1).

    partitions: how many new tasks are spread over. paused_until_ms: unix ms, 0: it is not paused. version: rises with
    every change. spread: how many partitions may hold tasks, those of a time when there were more among them.
    """

    max_pending: int | None = None
    max_processing: int | None = None
    rate_per_second: float | None = None
    max_processing_per_key: int | None = None
    defaults: Defaults = NO_DEFAULTS
    partitions: int = 1
    paused_until_ms: int = 0
    version: int = 0
    spread: int = 1

    def bound_of(self, partition: int, queue_limit: int) -> int:
        """How many tasks may wait in one partition; the first has no less than any other. queue_limit: the gateway's.

        As `most_waiting` in lua/prelude.lua.
        """
        share, rest = divmod(self.max_pending or queue_limit, self.partitions)
        return share + (partition < rest)


NO_SETTINGS = QueueSettings()
