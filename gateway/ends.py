"""Ends: who waits here for which task's end."""

from __future__ import annotations

import asyncio

from gateway.store.task_store import TaskStore
from gateway.tasks import Queue

_LOOK_AGAIN_SECONDS = 1.0


class Ends:
    """Wakes those who wait for a task's end when the store rings for it."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._waiting: dict[bytes, set[asyncio.Future[None]]] = {}
        self._closed = False

    async def wait_final(self, queue: Queue, task_id: str, seconds: float) -> None:
        """Return when the task is final (or gone), at the latest after `seconds`."""
        arq_id = self._store.arq_id(queue, task_id)
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(arq_id, set()).add(future)
        try:
            async with asyncio.timeout(seconds):
                found = 1 if self._closed else await self._store.watch(queue, task_id, int(seconds * 1000) + 5000)
                if found == 1:
                    return
                if found == 2:
                    await asyncio.wait([future], timeout=_LOOK_AGAIN_SECONDS)
                    return
                await future
        except TimeoutError:
            return
        finally:
            waiting = self._waiting.get(arq_id, set())
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(arq_id, None)

    def final(self, arq_id: bytes) -> None:
        """Tell who waits for this task's end."""
        for future in self._waiting.get(arq_id, ()):
            if not future.done():
                future.set_result(None)

    def wake(self) -> None:
        """Let everybody look: an end may have been missed."""
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        self.wake()
