"""What large requests may take of memory together. Each takes several times its size until it is answered: without a
bound two hundred clients with a MiB each would take more than a GiB.

A large body counts by the bytes that came, so that nobody holds a place by promising some; when it is whole it waits
for one of a few turns to be worked on.
"""

from __future__ import annotations

import asyncio

from gateway.errors import Overloaded

LARGE_BYTES = 64 * 1024
_MOST_BYTES = 256 * 1024 * 1024
_AT_ONCE = 24
_WAIT_SECONDS = 10.0


class LargeBodies:
    """Large requests under way in this process. Small ones are not counted."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self.taken = 0
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Count bytes that came. Raises Overloaded where there are too many already."""
        if self.held_bytes + size_bytes > _MOST_BYTES:
            raise Overloaded()
        self.held_bytes += size_bytes

    async def take(self) -> None:
        """Wait for a turn. Raises Overloaded after ten seconds."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded() from None
        self.taken += 1

    def end(self, size_bytes: int, *, turn: bool) -> None:
        """A request is answered: its bytes are free, and its turn if it had one."""
        self.held_bytes -= size_bytes
        if turn:
            self.taken -= 1
            self._turns.release()
