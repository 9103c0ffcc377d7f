"""What an operator set for a queue, as it holds in one partition of it, and the pace of its hand-outs."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec

from gateway.queue_settings import NO_SETTINGS, QueueSettings, Unsaid
from gateway.tasks import TaskSpec

ANY_NUMBER = 2**31
_OF_A_RATE_AT_ONCE = Fraction(1, 10)
_LEAST_RATE = 10
# Of the time that one task takes: so much early may it go, since the store reckons with rounded numbers.
_EARLY = Fraction(1, 1000)
_UNSAID = {
    Unsaid.MAX_ATTEMPTS: ("max_attempts",),
    Unsaid.RETRY: ("retry",),
    Unsaid.LEASE: ("lease_ms",),
    Unsaid.RETENTION: ("retention_ms", "failed_retention_ms"),
    Unsaid.TIMEOUT: ("timeout_ms",),
}


class Limits:
    """The settings of a queue. queue_limit: what it may hold unless it has a bound of its own."""

    def __init__(self, queue_limit: int, partition: int = 0) -> None:
        self.queue_limit = queue_limit
        self.partition = partition
        self.settings: QueueSettings = NO_SETTINGS
        # When all that was handed out would have been handed out at the even pace (unix ms).
        self.paid_until_ms = Fraction(0)

    def most_waiting(self) -> int:
        """How many tasks may wait."""
        return self._share(self.settings.max_pending or self.queue_limit)

    def most_of_a_key(self) -> int:
        """How many tasks of one concurrency key may run at a time."""
        return self.settings.max_processing_per_key or 1

    def most_processing(self) -> int | None:
        """How many tasks may run at a time; None: any number."""
        most = self.settings.max_processing
        if most is None or self._alone():
            return most
        return 1 if self._is_older() else max(self._share(max(most - self._older(), 0)), 1)

    def governs(self) -> bool:
        """Whether anything but readiness decides what is handed out."""
        settings = self.settings
        return bool(settings.max_processing or settings.rate_per_second or settings.paused_until_ms)

    def room(self, now_ms: int, leased: int) -> tuple[int, int]:
        """How many tasks may be handed out now, and when more may be (unix ms; 0: not by time alone)."""
        if self.settings.paused_until_ms > now_ms:
            return 0, self.settings.paused_until_ms
        most = self.most_processing()
        free, at_ms = ANY_NUMBER if most is None else max(most - leased, 0), 0
        pace = self._pace()
        if pace is not None and free:
            step_ms, at_once = pace
            owed_ms = self._owed_ms(now_ms)
            paced = math.floor(at_once - owed_ms / step_ms + _EARLY)
            if paced < free:
                free, at_ms = paced, math.ceil(now_ms + owed_ms - (at_once - 1) * step_ms)
        return free, at_ms

    def spend(self, now_ms: int, tasks: int) -> None:
        """Note that so many were handed out."""
        pace = self._pace()
        if pace is not None and tasks:
            self.paid_until_ms = now_ms + self._owed_ms(now_ms) + tasks * pace[0]

    def pause(self, until_ms: int) -> None:
        """Hand nothing out until then."""
        self.settings = msgspec.structs.replace(self.settings, paused_until_ms=until_ms)

    def replace(self, settings: QueueSettings) -> None:
        """Set all of them. With another rate the pace begins anew."""
        before, self.settings = self._pace(), settings
        if self._pace() != before:
            self.paid_until_ms = Fraction(0)

    def fill(self, spec: TaskSpec) -> TaskSpec:
        """Give a task what its producer did not say."""
        changes = {}
        for bit, names in _UNSAID.items():
            value = getattr(self.settings.defaults, names[0])
            if spec.unsaid & bit and value is not None:
                changes |= dict.fromkeys(names, value)
        return msgspec.structs.replace(spec, **changes)

    def _pace(self) -> tuple[Fraction, int] | None:
        """The ms that one task takes, and how many may go at once."""
        given = self.settings.rate_per_second
        if given is None:
            return None
        rate = Fraction(given)
        if not self._alone():
            least = min(Fraction(_LEAST_RATE), rate / (self.settings.partitions + self._older()))
            rate = least if self._is_older() else (rate - self._older() * least) / self.settings.partitions
        return 1000 / rate, max(1, math.floor(rate * _OF_A_RATE_AT_ONCE))

    def _owed_ms(self, now_ms: int) -> Fraction:
        """How far ahead of the pace it is."""
        return max(self.paid_until_ms - now_ms, Fraction(0))

    def _alone(self) -> bool:
        return self.settings.partitions == self.settings.spread == 1 and self.partition == 0

    def _older(self) -> int:
        """How many partitions there are from a time when there were more."""
        return max(self.settings.spread - self.settings.partitions, 0)

    def _is_older(self) -> bool:
        return self.partition >= self.settings.partitions

    def _share(self, limit: int) -> int:
        """This partition's part of what holds for the whole queue."""
        share, rest = divmod(limit, self.settings.partitions)
        return share + (self.partition < rest)
