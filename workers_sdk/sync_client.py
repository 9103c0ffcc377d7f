"""The client for programs without an event loop: the same calls, blocking. Safe to share between threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from workers_sdk.bearer import Token
from workers_sdk.client import Client
from workers_sdk.tasks import NewTask, Task, TaskOptions

_Value = TypeVar("_Value")


class SyncClient:
    """`Client`, blocking; see there for arguments, returns and errors. Use it with `with`, or close it.

    It runs an event loop in a thread of its own, which ends with `close`.
    """

    def __init__(self, url: str | None = None, *, token: Token | None = None, patience_seconds: float = 10.0) -> None:
        self._client = Client(url, token=token, patience_seconds=patience_seconds)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop all connections and end the thread. Does nothing the second time."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def enqueue(
        self, job_type: str, payload: Any = None, *, idempotency_key: str | None = None, **options: Unpack[TaskOptions]
    ) -> Task:
        """Store one task."""
        return self._run(self._client.enqueue(job_type, payload, idempotency_key=idempotency_key, **options))

    def enqueue_many(self, tasks: Iterable[NewTask | Mapping[str, Any]]) -> list[Task]:
        """Store many tasks."""
        return self._run(self._client.enqueue_many(tasks))

    def get(self, task_id: str) -> Task:
        """Read a task."""
        return self._run(self._client.get(task_id))

    def wait(self, task_id: str, timeout_seconds: float | None = None) -> Task:
        """Wait until a task is final and return it."""
        return self._run(self._client.wait(task_id, timeout_seconds))

    def cancel(self, task_id: str) -> Task:
        """Cancel a task."""
        return self._run(self._client.cancel(task_id))

    def retry(self, task_id: str) -> Task:
        """Send a failed or cancelled task back."""
        return self._run(self._client.retry(task_id))

    def list(
        self,
        *,
        status: str | None = None,
        job_type: str | None = None,
        tags: Mapping[str, str] | None = None,
        worker_id: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
    ) -> Iterator[Task]:
        """Iterate tasks, newest first."""
        tasks = self._client.list(
            status=status,
            job_type=job_type,
            tags=tags,
            worker_id=worker_id,
            created_after=created_after,
            created_before=created_before,
        )

        async def following() -> Task | None:
            return await anext(tasks, None)

        while (task := self._run(following())) is not None:
            yield task

    def _run(self, call: Coroutine[Any, Any, _Value]) -> _Value:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
