"""The yardstick of `POST /tasks`: a starlette app that echoes a POST, under the gateway's uvicorn settings.

Run as `python -m benchmarks.echo`; HOST and PORT come from the environment.
"""

from __future__ import annotations

import os

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def echo(request: Request) -> Response:
    """POST /echo: 200 with the body that came."""
    return Response(await request.body(), media_type="application/json")


async def ready(request: Request) -> Response:
    """GET /ready: 200."""
    return Response()


app = Starlette(routes=[Route("/echo", echo, methods=["POST"]), Route("/ready", ready)])


if __name__ == "__main__":
    uvicorn.run(
        app,
        host=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
