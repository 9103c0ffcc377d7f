"""A worker: handlers by job type, and a loop that polls, runs and reports.

worker = Worker("http://127.0.0.1:8080", concurrency=8)

@worker.task("image_resize")
async def resize(payload: Resize, ctx: Context) -> dict[str, int]:
    ...

worker.run()
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from workers_sdk.bearer import Token
from workers_sdk.context import Context
from workers_sdk.handlers import Handler
from workers_sdk.session import Session, Settings
from workers_sdk.tasks import LeasedTask
from workers_sdk.transport import Transport

log = logging.getLogger("workers_sdk")
_JOB_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Hook = TypeVar("_Hook", bound=Callable[..., Any])


class Worker:
    """Works on tasks of a gateway.

    url: the gateway; without it $GATEWAY_URL, then http://127.0.0.1:8080. token: a bearer token or API key,
    or a function that returns the current one, asked before each request; without it what the file of
    $GATEWAY_TOKEN_FILE holds, then $GATEWAY_TOKEN.
    worker_id: a name that no other running worker has; without it the host's, the process's id and some random letters.
    concurrency: most handlers at once, async ones and threads together.
    wait_seconds: how long a poll is held while there is nothing to do, 0..55.
    lease_seconds: asks for leases of this length instead of each task's own; heartbeats go out at a third of it.
    stop_seconds: how long a stopping worker lets handlers finish before it interrupts them.
    interrupt_seconds: how long an interrupted handler has to notice, before its task is reported without it.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: Token | None = None,
        worker_id: str | None = None,
        concurrency: int = 10,
        wait_seconds: float = 25.0,
        lease_seconds: float | None = None,
        stop_seconds: float = 30.0,
        interrupt_seconds: float = 5.0,
    ) -> None:
        self.url = url
        self.token = token
        self.worker_id = worker_id or _default_id()
        self.concurrency = concurrency
        self.wait_seconds = wait_seconds
        self.lease_seconds = lease_seconds
        self.stop_seconds = stop_seconds
        self.interrupt_seconds = interrupt_seconds
        self._handlers: dict[str, Handler] = {}
        self._hooks: dict[str, list[Callable[..., Any]]] = {"start": [], "end": [], "task_start": [], "task_end": []}
        self._session: Session | None = None

    def task(self, job_type: str, *, timeout_seconds: float | None = None) -> Callable[[_Function], _Function]:
        """Make a function the handler of a job type; it stays callable as it is.

        It may take the payload and a `Context` (a parameter with that annotation, or called `ctx`), either, or neither.
        The payload is decoded as its annotation says: a msgspec Struct, dataclass, TypedDict, list, dict, ...; plain
        JSON without one. An async function runs in the event loop, a plain one in a thread. What it returns is the
        result.
        timeout_seconds: how long one attempt may take; then it is interrupted and tried again.

        Raises ValueError for a bad or taken job type, TypeError for a function that cannot be a handler.
        """
        if not _JOB_TYPE.fullmatch(job_type):
            raise ValueError(f"{job_type!r}: a job type is 1 to 128 letters, digits and . _ : -")
        if job_type in self._handlers:
            raise ValueError(f"{job_type!r} has a handler already")

        def register(function: _Function) -> _Function:
            self._handlers[job_type] = Handler(job_type, function, timeout_seconds)
            return function

        return register

    def on_start(self, hook: _Hook) -> _Hook:
        """Call this (async or plain, no arguments) before the first poll: open pools, load models."""
        self._hooks["start"].append(hook)
        return hook

    def on_end(self, hook: _Hook) -> _Hook:
        """Call this (async or plain, no arguments) after the last report, also when the worker failed."""
        self._hooks["end"].append(hook)
        return hook

    def on_task_start(self, hook: _Hook) -> _Hook:
        """Call this (async or plain) with the Context before each attempt. What it raises fails the attempt."""
        self._hooks["task_start"].append(hook)
        return hook

    def on_task_end(self, hook: _Hook) -> _Hook:
        """Call this (async or plain) after each attempt with the Context and `completed`, `failed`, `released` or
        `lost`."""
        self._hooks["task_end"].append(hook)
        return hook

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then stop gracefully; a second signal interrupts the handlers at once.

        Raises NotAllowed when the gateway refuses the token (401), or what it may do (403).
        """
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self.work(signals=True))

    async def work(self, *, signals: bool = False) -> None:
        """Work in the running loop until `stop`. Cancelled: interrupts handlers, gives tasks back, signs off.

        signals: also stop on SIGTERM and SIGINT.
        Raises NotAllowed as `run` does, after it has finished what it had.
        """
        if not self._handlers:
            raise RuntimeError("the worker has no handlers: decorate functions with @worker.task")
        if self._session is not None:
            raise RuntimeError("the worker runs already")
        settings = Settings(
            worker_id=self.worker_id,
            concurrency=self.concurrency,
            wait_seconds=self.wait_seconds,
            lease_seconds=self.lease_seconds,
            stop_seconds=self.stop_seconds,
            interrupt_seconds=self.interrupt_seconds,
        )
        transport = Transport(self.url, self.token)
        self._session = session = Session(
            settings,
            self._handlers,
            transport,
            self._task_started if self._hooks["task_start"] else None,
            self._task_ended if self._hooks["task_end"] else None,
        )
        facts = {"worker_id": self.worker_id, "url": transport.url}
        try:
            with _stopped_by_signals(session) if signals else _nothing():
                try:
                    await self._call("start")
                    log.info(
                        "started", extra={**facts, "task_types": list(self._handlers), "concurrency": self.concurrency}
                    )
                    await session.run()
                finally:
                    await self._call("end")
        finally:
            await transport.close()
            self._session = None
            log.info("stopped", extra=facts)

    def stop(self, *, hurry: bool = False) -> None:
        """Stop polling, let handlers finish within `stop_seconds`, report, sign off. Call it in the worker's loop.

        hurry: interrupt handlers at once.
        """
        if self._session is not None:
            self._session.stop(hurry=hurry)

    async def call(self, job_type: str, payload: Any = None, *, context: Context | None = None) -> Any:
        """Run a handler without a gateway, as in a test: the payload goes through JSON, as it would.

        context: what the handler is given, to look at its progress and lines afterwards, or to interrupt it.
        Returns what the handler returns, raises what it raises; InvalidPayload for a payload that does not fit,
        KeyError for a job type without a handler.
        """
        handler = self._handlers[job_type]
        encoded = msgspec.json.encode(payload)
        context = context or self.context(job_type, payload)
        arguments = handler.arguments(encoded, context)
        async with asyncio.timeout(handler.timeout_seconds):
            if handler.in_thread:
                return await asyncio.to_thread(handler, arguments)
            return await handler(arguments)

    def context(self, job_type: str, payload: Any = None, *, attempt: int = 1) -> Context:
        """A Context for `call`."""
        task = LeasedTask(
            id="test",
            job_type=job_type,
            status="processing",
            payload_json=msgspec.Raw(msgspec.json.encode(payload)),
            attempt=attempt,
            max_attempts=max(attempt, 25),
            lease_token="none",  # noqa: S106 - not a secret: there is no lease
            lease_seconds=30.0,
        )
        return Context(task, self.worker_id)

    async def _call(self, name: str, *arguments: Any) -> None:
        for hook in self._hooks[name]:
            found = hook(*arguments)
            if inspect.isawaitable(found):
                await found

    async def _task_started(self, context: Context) -> None:
        await self._call("task_start", context)

    async def _task_ended(self, context: Context, word: str) -> None:
        await self._call("task_end", context, word)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _stopped_by_signals(session: Session) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    heard = 0

    def hear(number: signal.Signals) -> None:
        nonlocal heard
        heard += 1
        log.info("was told to stop", extra={"signal": number.name})
        session.stop(hurry=heard > 1)

    for number in _SIGNALS:
        loop.add_signal_handler(number, hear, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: it saves a third of a worker's CPU."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _default_id() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip(".-_") or "worker"
    return f"{host[:80]}-{os.getpid()}-{secrets.token_hex(3)}"
