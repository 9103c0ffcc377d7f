"""Run the gateway under uvicorn, and stop it so that nobody is kept waiting.

uvicorn waits for open requests before it tells the application to stop, so a poll of 25 s holds up a restart by 25 s.
`GatewayServer` sends polls home first. One signal stops gracefully, a second one now, a third kills the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from email.utils import formatdate

import uvicorn
from uvicorn._types import ASGI3Application

from gateway.connection import Limits, Problem, problem_body
from gateway.processes import BACKLOG, STOP_SIGNALS
from gateway.protocol_guard import GuardedProtocol, guarded

# Connections looked at before others get a turn: a fraction of a millisecond.
SWEEP_BATCH = 250
_POLL_SECONDS = 0.005

log = logging.getLogger(__name__)


class GatewayServer(uvicorn.Server):
    """A uvicorn server whose stop sends open polls home first, and which sweeps its connections' deadlines.

    before_shutdown: awaited after the first signal while connections are still accepted, to answer open polls. Its
        failure is logged and does not stop the stop.
    on_signal: called at once by the first signal, to turn readiness off.
    signals: whether to take SIGINT and SIGTERM; false for servers that tests run side by side.

    `config.timeout_graceful_shutdown` seconds after the signal, requests still open are answered 503 `shutting_down`
    and cancelled. After a second signal `serve` raises SystemExit with 128 + the signal's number.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        before_shutdown: Callable[[], Awaitable[None]] | None = None,
        on_signal: Callable[[], object] | None = None,
        *,
        signals: bool = True,
    ) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown
        self._on_signal = on_signal
        self._signals = signals
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._housekeeping: asyncio.Task[None] | None = None
        self._main: asyncio.Task[object] | None = None

    def stop(self) -> None:
        """Stop gracefully, as the first signal does. A stop before the start is complete cancels the start."""
        if self._stopping.is_set():
            return
        self.should_exit = True
        self._stopping.set()
        if self._on_signal is not None:
            self._on_signal()
        if self.started:
            self._set_default_headers()
        elif self._main is not None:
            self._main.cancel()

    def force(self) -> None:
        """Stop now, as the second signal does: connections are reset, requests cancelled, the lifespan is cut short."""
        self.force_exit = True
        self._forced.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._main = asyncio.current_task()
        quiet = _DropCancelled()
        logging.getLogger("uvicorn.error").addFilter(quiet)
        try:
            await super().serve(sockets)
        except asyncio.CancelledError:
            if self.started or not self._captured_signals:
                raise
        finally:
            logging.getLogger("uvicorn.error").removeFilter(quiet)
            if self._housekeeping is not None:
                self._housekeeping.cancel()
        if self._captured_signals and (self.force_exit or not self.started):
            raise SystemExit(128 + self._captured_signals[-1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        protocol_class = self.config.http_protocol_class
        assert issubclass(protocol_class, GuardedProtocol), "the config's protocol comes from `guarded`"
        await super().startup(sockets)
        self._housekeeping = asyncio.create_task(self._keep_house(protocol_class.limits.sweep_seconds))

    async def main_loop(self) -> None:
        # Setting `should_exit` from outside works as with uvicorn, a tick later.
        while not self.should_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.1)
        self.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drain = asyncio.create_task(self._drain(sockets or []))
        forced = asyncio.create_task(self._forced.wait())
        await asyncio.wait((drain, forced), return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not drain.done():
            drain.cancel()
            self._stop_listening(sockets or [])
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await self._cancel_requests()
            await asyncio.wait((drain,), timeout=1.0)
            return
        await drain

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if not self._signals or threading.current_thread() is not threading.main_thread():
            yield
            return
        # uvicorn raises what it captured again, which would end a graceful stop as a death by signal.
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._take_signal, number)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def _take_signal(self, number: int) -> None:
        self._captured_signals.append(number)
        if not self._stopping.is_set():
            log.info("stopping", extra={"signal": signal.Signals(number).name})
            self.stop()
            return
        log.warning("stopping at once", extra={"signal": signal.Signals(number).name})
        self.force()
        for each in STOP_SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(each)

    async def _keep_house(self, sweep_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._set_default_headers()
            for number, connection in enumerate(list(self.server_state.connections)):
                if number % SWEEP_BATCH == SWEEP_BATCH - 1:
                    await asyncio.sleep(0)
                if connection not in self.server_state.connections:
                    continue
                try:
                    connection.sweep(loop.time())  # type: ignore[union-attr]  # uvicorn types its own protocols only
                except Exception:
                    log.exception("sweep of a connection failed")
            await asyncio.sleep(sweep_seconds)

    def _set_default_headers(self) -> None:
        headers = list(self.config.encoded_headers)
        if self.config.date_header:
            headers.insert(0, (b"date", formatdate(usegmt=True).encode()))
        if self._stopping.is_set():
            headers.append((b"connection", b"close"))
        self.server_state.default_headers = headers

    async def _drain(self, sockets: Sequence[socket.socket]) -> None:
        deadline = None
        if self.config.timeout_graceful_shutdown is not None:
            deadline = asyncio.get_running_loop().time() + self.config.timeout_graceful_shutdown
        for connection in list(self.server_state.connections):
            if connection.cycle is not None:  # type: ignore[union-attr]  # as above
                connection.cycle.keep_alive = False  # type: ignore[union-attr]  # as above
        try:
            async with asyncio.timeout_at(deadline):
                if self._before_shutdown is not None:
                    try:
                        await self._before_shutdown()
                    except Exception:
                        log.exception("before_shutdown failed")
                self._stop_listening(sockets)
                for connection in list(self.server_state.connections):
                    connection.shutdown()
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  # uvicorn tells nobody
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            self._stop_listening(sockets)
            log.warning("cancelled requests at the end of the grace", extra={"requests": len(self.server_state.tasks)})
            for connection in list(self.server_state.connections):
                connection.abandon(503, "shutting_down", "The gateway is stopping: try again.")  # type: ignore[union-attr]  # as above
            await self._cancel_requests()
        await self.lifespan.shutdown()

    def _stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()

    async def _cancel_requests(self) -> None:
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel("the server stops")
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)


def make_server(
    app: ASGI3Application,
    *,
    limits: Limits | None = None,
    shutdown_seconds: float = 30.0,
    log_level: str = "info",
    on_signal: Callable[[], object] | None = None,
    before_shutdown: Callable[[], Awaitable[None]] | None = None,
    access_log: bool = False,
    problem: Problem = problem_body,
    signals: bool = True,
) -> GatewayServer:
    """Put `app` behind the guarded protocol. Run it with `await server.serve([listen(host, port)])`.

    shutdown_seconds: from the signal until requests still open are cancelled.
    log_level: of uvicorn's own loggers; handlers are left as they are.
    The rest: see `GatewayServer` and `guarded`.
    """
    config = uvicorn.Config(
        app,
        http=guarded(limits, problem),
        interface="asgi3",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=log_level,
        access_log=access_log,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
    )
    config.timeout_graceful_shutdown = shutdown_seconds  # type: ignore[assignment]  # typed in whole seconds, used as any
    return GatewayServer(config, before_shutdown, on_signal, signals=signals)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The event loop to serve in, for `asyncio.Runner(loop_factory=...)`: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class _DropCancelled(logging.Filter):
    """Keep a traceback of each request that we cancel ourselves out of uvicorn's log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
