"""Serves the gateway's application, or the echo, under a server of choice, each set up as well as it can be.

Run as `python -m benchmarks.served SERVER gateway|echo`; HOST, PORT and the gateway's settings come from the
environment.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette

from benchmarks import echo as echo_app
from gateway.app import create_app
from gateway.config import load
from gateway.processes import BACKLOG, listen
from gateway.server import loop_factory, make_server

# granian takes no more requests at a time than its backlog, unless told: open polls are requests, too.
_MOST_REQUESTS = 16_384
_GRACE_SECONDS = 10


def gateway() -> Starlette:
    """Make the gateway's application, with the garbage collector as `gateway serve` sets it."""
    _calm_collector()
    settings = load(env_file=None)
    return create_app(settings, settings.redis_location())


def echo() -> Starlette:
    """Make the echo, with the same."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield

    _calm_collector()
    return Starlette(routes=echo_app.app.routes, lifespan=lifespan)


def _calm_collector() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _guarded(app: str, *, uvloop: bool) -> None:
    async def run() -> None:
        served: Any = globals()[app]()
        hooks = {"on_signal": served.manager.close, "before_shutdown": served.drain} if app == "gateway" else {}
        server = make_server(served, shutdown_seconds=_GRACE_SECONDS, log_level="warning", **hooks)
        await server.serve([listen(os.environ["HOST"], int(os.environ["PORT"]))])

    with asyncio.Runner(loop_factory=loop_factory() if uvloop else asyncio.new_event_loop) as runner:
        runner.run(run())


def _uvicorn(app: str, *, http: Literal["httptools", "h11"]) -> None:
    listener = listen(os.environ["HOST"], int(os.environ["PORT"]))
    config = uvicorn.Config(
        f"benchmarks.served:{app}", factory=True, loop="uvloop", http=http, ws="none", lifespan="on", access_log=False,
        log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS, backlog=BACKLOG,
    )  # fmt: skip
    uvicorn.Server(config).run([listener])


def _granian(app: str, *, runtime: str, threads: int = 1) -> None:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
    from granian.log import LogLevels

    Granian(
        f"benchmarks.served:{app}", factory=True, address=os.environ["HOST"], port=int(os.environ["PORT"]),
        interface=Interfaces.ASGI, loop=Loops.uvloop, http=HTTPModes.http1, websockets=False,
        runtime_mode=RuntimeModes(runtime), runtime_threads=threads, blocking_threads=1,
        log_level=LogLevels.warning, backlog=BACKLOG, backpressure=_MOST_REQUESTS,
    ).serve()  # fmt: skip


SERVERS: dict[str, Callable[[str], None]] = {
    "ours": lambda app: _guarded(app, uvloop=True),
    "ours, asyncio": lambda app: _guarded(app, uvloop=False),
    "uvicorn": lambda app: _uvicorn(app, http="httptools"),
    "uvicorn, h11": lambda app: _uvicorn(app, http="h11"),
    "granian, st": lambda app: _granian(app, runtime="st"),
    "granian, mt": lambda app: _granian(app, runtime="mt"),
    "granian, mt, 2 threads": lambda app: _granian(app, runtime="mt", threads=2),
}


if __name__ == "__main__":
    SERVERS[sys.argv[1]](sys.argv[2])
