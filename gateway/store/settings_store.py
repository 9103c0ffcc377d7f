"""What operators set for queues: read, changed, and brought to every partition."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from gateway.queue_settings import NO_SETTINGS, QueueSettings
from gateway.store.batching import Argument
from gateway.store.caller import Caller
from gateway.store.calls import StaleSettings
from gateway.store.partitions import Partitions
from gateway.store.settings_format import read_settings, write_settings
from gateway.tasks import Queue

_MOST_KNOWN = 10_000
_Fields = dict[str, bytes | str | int]


class SettingsStore:
    """Queues' settings, and which partitions each has. Queues given are whole ones."""

    def __init__(self, caller: Caller, partitions: Partitions) -> None:
        self._caller = caller
        self._partitions = partitions
        self._known: dict[Queue, QueueSettings] = {}

    def known(self, queue: Queue) -> QueueSettings:
        """What this process last heard; scripts say when that is stale."""
        return self._known.get(queue, NO_SETTINGS)

    def heard_spread(self, queue: Queue, spread: int) -> None:
        """Note how many partitions of a queue may hold tasks, as its first one tells."""
        if not queue.partition and self._partitions.heard(queue, spread):
            self._caller.listener.spread(queue, self._partitions.all_of(queue))

    def heard_noted(self, every: Sequence[Queue]) -> None:
        """Note which partitions ever were, as the registry lists them: none may be left alone with its tasks."""
        for queue in self._partitions.noted(every):
            self._caller.listener.spread(queue, self._partitions.all_of(queue))

    async def read(self, queue: Queue) -> QueueSettings:
        """Read what an operator set for a queue. Source: lua/settings.lua."""
        fields = await self._caller.submit_read("settings", queue, None)
        found = read_settings(fields)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[queue] = found
        self.heard_spread(queue, found.spread)
        return found

    async def parts(self, queue: Queue) -> list[Queue]:
        """List a queue's partitions that may hold tasks, as they are now. Most queues have one."""
        await self.read(queue)
        return self._partitions.all_of(queue)

    async def copy(self, part: Queue, settings: QueueSettings) -> None:
        """Bring a further partition's settings up to those of its queue."""
        item = (part, b"=%d" % settings.version, settings.paused_until_ms, write_settings(settings))
        try:
            await self._submit(item)
        except StaleSettings as stale:
            # Another change overtook this one; or a replica took over that lacks the change that this has a copy of.
            if (await self.read(part.whole)).version < stale.version:
                above = (part.whole, b">%d" % stale.version, b"", None)
                await self._submit(above)
                await self.copy(part, await self.read(part.whole))

    async def configure(
        self, queue: Queue, settings: QueueSettings | None, *, version: int | None = None, pause: Argument = b""
    ) -> QueueSettings:
        """Replace a queue's settings (None: leave them), pause it or end its pause. Returns them as they are then.

        version: only if they are still of this version. pause: until then (unix ms, 0: go on), b"" as it is.
        Further partitions get theirs one after the other; who got no answer asks again.
        Raises StaleSettings: they changed meanwhile. Source: lua/configure.lua.
        """
        fields = None if settings is None else write_settings(settings)
        given: Argument = b"" if version is None else version
        held = last = await self._submit((queue, given, pause, fields))
        while held and settings is not None and settings.max_processing_per_key is not None:
            # More of each key may run: what was held back is let go, some hundred tasks a call.
            now_held = await self._submit((queue, b"", b"", fields))
            if now_held >= last:
                break
            held = last = now_held
        return await self._copy_to_all(queue)

    async def _copy_to_all(self, queue: Queue) -> QueueSettings:
        fresh = await self.read(queue)
        for part in self._partitions.all_of(queue)[1:]:
            await self.copy(part, fresh)
        return fresh

    async def forget_older(self, queue: Queue) -> None:
        """Give the present partitions the whole of the limits again, once those of a time when there were more are
        worked off: nothing happens while they hold tasks that are not completed."""
        known = await self.read(queue)
        if known.spread <= known.partitions:
            return
        older = [queue.part(number) for number in range(known.partitions, known.spread)]
        counts = await asyncio.gather(*(self._caller.submit_read("stats", part, None) for part in older))
        # What failed or was cancelled may be sent back.
        holding = [
            number
            for number, (_, ready, due, leased, _, failed, cancelled, *_) in enumerate(counts, 1)
            if ready or due or leased or failed or cancelled
        ]
        spread = known.partitions + max(holding, default=0)
        if spread == known.spread:
            return
        fields = write_settings(msgspec.structs.replace(known, spread=spread))
        try:
            await self._submit((queue, b"<%d" % known.version, b"", fields))
        except StaleSettings:
            return
        await self._copy_to_all(queue)

    def _submit(self, item: tuple[Queue, Argument, Argument, _Fields | None]) -> asyncio.Future[int]:
        return self._caller.submit("report", "configure", self._caller.keys.of(item[0]), item)
