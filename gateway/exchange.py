"""One request and its reply: uvicorn's cycle, made cheaper to set up and to read a short body from.

Most requests come in one piece and are answered in one piece; whatever else happens is left to uvicorn's own ways.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from uvicorn._types import ASGIReceiveEvent, HTTPScope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Exchange(RequestResponseCycle):
    """What a connection knows of one request. Attributes that most requests never change are the class's."""

    logger = logging.getLogger("uvicorn.error")
    access_logger = logging.getLogger("uvicorn.access")
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0
    # Bytes while it is one piece, as nearly always.
    body: bytes | bytearray = b""  # type: ignore[assignment]  # uvicorn begins with an empty bytearray

    def __init__(
        self,
        scope: HTTPScope,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: list[tuple[bytes, bytes]],
        on_response: Callable[..., None],
        *,
        access_log: bool,
        keep_alive: bool,
        expect_100_continue: bool,
    ) -> None:
        self.scope = scope
        self.transport = transport
        self.flow = flow
        self.access_log = access_log
        self.default_headers = default_headers
        self.message_event = asyncio.Event()
        self.on_response = on_response
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_100_continue

    def add(self, body: bytes) -> int:
        """Take a piece of the body. Returns how many bytes wait to be read by the application."""
        if not self.body:
            self.body = body
        elif isinstance(self.body, bytearray):
            self.body += body
        else:
            self.body = bytearray(self.body) + body
        return len(self.body)

    async def receive(self) -> ASGIReceiveEvent:
        """Give the whole body at once where it is here, as nearly always; otherwise wait as uvicorn does."""
        if (
            self.more_body
            or self.disconnected
            or self.response_complete
            or self.waiting_for_100_continue
            or self.flow.read_paused
            or not self.message_event.is_set()
        ):
            return await super().receive()
        self.message_event.clear()
        body, self.body = self.body, b""
        return cast(ASGIReceiveEvent, {"type": "http.request", "body": bytes(body), "more_body": False})
