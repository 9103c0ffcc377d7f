"""Requests that are held until a task is final: by `wait` or by `Prefer: wait=N`."""

from __future__ import annotations

import re
import time

from gateway.api.endpoint import Call
from gateway.errors import TaskNotFound
from gateway.store.inspector import Inspector
from gateway.task_manager import TaskManager
from gateway.tasks import Queue, Task, is_final

MAX_WAIT_SECONDS = 55.0
_WAIT_PREFERENCE = re.compile(r"""\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?""", re.IGNORECASE)


class Waits:
    """Holds a request for the end of a task; it counts as an open poll of its tenant meanwhile."""

    def __init__(self, inspector: Inspector, manager: TaskManager) -> None:
        self._inspector = inspector
        self._manager = manager

    async def await_end(self, call: Call, queue: Queue, task: Task, seconds: float) -> Task:
        """Hold a request until a task is final, so many seconds at most. Returns the task as it stands then."""
        call.end_turn()
        with self._manager.holding(queue.tenant):
            return await self._await_final(queue, task, seconds)

    async def _await_final(self, queue: Queue, task: Task, seconds: float) -> Task:
        deadline = time.monotonic() + seconds
        while not is_final(task.status) and not self._manager.closed:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            await self._manager.wait_final(queue, task.id, left)
            try:
                task = await self._inspector.get(queue, task.id, with_gone=True)
            except TaskNotFound:
                # It ended and was forgotten meanwhile; the last sight of it is the best answer there is.
                break
        return task


def preferred_wait(call: Call) -> int | None:
    """The seconds of `Prefer: wait=N`, 55 at most. None: it was not said. Source: RFC 7240."""
    header = call.headers.get(b"prefer")
    if header is None:
        return None
    for preference in header.decode("latin-1").split(","):
        match = _WAIT_PREFERENCE.fullmatch(preference)
        if match:
            return min(int(match[1]), int(MAX_WAIT_SECONDS))
    return None
