"""What one client's connection may cost, how it is refused, and how a handler hears that the client has gone.

`gateway.protocol_guard` enforces it; handlers meet `Connection` only, as `scope["extensions"]["gateway.connection"]`.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

# Builds the JSON body of a refusal from status, code, detail and the bound that was passed; it has a `request_id`.
Problem = Callable[[int, str, str, int | None], bytes]
# Takes the scope of the request, status, headers, body.
Reply = Callable[[MutableMapping[str, Any], int, list[tuple[bytes, bytes]], bytes], bool]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Bounds of one connection.

    header_bytes: names and values of one request's headers, each with 4 bytes of punctuation. 431.
    header_count: headers of one request. 431.
    url_bytes: the request target. 414.
    body_bytes: the body, declared or as it comes. 413.
    told_body_bytes: the bound that this 413 names, where the application's own is lower.
    header_seconds: from the connection's opening, or the first byte of a later request, to the end of its headers. 408.
    body_seconds: from the end of the headers to the end of a body that the application waits for. 408. Also how long a
        client may neither read a reply nor finish a body that was answered early; those are closed.
    keep_alive_seconds: between a reply and the next request. Closed.
    """

    header_bytes: int = 32 * 1024
    header_count: int = 100
    url_bytes: int = 8 * 1024
    body_bytes: int = 1024 * 1024 + 64 * 1024
    told_body_bytes: int | None = None
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    keep_alive_seconds: float = 75.0

    @property
    def sweep_seconds(self) -> float:
        """How often `sweep` must run: every 2.5 seconds, oftener where a limit is shorter than ten.

        With ten thousand idle polls the sweep is most of what they cost; a deadline may be late by one of it.
        """
        return min(2.5, self.header_seconds / 4, self.body_seconds / 4, self.keep_alive_seconds / 4)


def problem_body(status: int, code: str, detail: str, limit: int | None = None) -> bytes:
    """Build the RFC 9457 body of a refusal, with a request id of its own. Source: protocol, "Conventions"."""
    return json.dumps(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "code": code,
            "request_id": secrets.token_hex(16),
            "retryable": status in (408, 503),
            **({} if limit is None else {"limit": limit}),
        }
    ).encode()


class Connection:
    """The client's end of a connection, for handlers that hold a request open."""

    __slots__ = ("_callback", "closed", "reply")

    def __init__(self, reply: Reply) -> None:
        """reply: answers the running request at once; False where only ASGI's own way can."""
        self.closed = False
        self.reply = reply
        self._callback: Callable[[], object] | None = None

    def on_hang_up(self, callback: Callable[[], object] | None) -> None:
        """Call `callback` once when the client hangs up, at once if it already has; None forgets it.

        It is also forgotten when the reply is complete. It runs in the event loop, must not block and must not raise.
        """
        if self.closed and callback is not None:
            callback()
        else:
            self._callback = callback

    def hang_up(self) -> bool:
        """Mark the client as gone. Returns whether a callback was there to be told."""
        self.closed = True
        callback, self._callback = self._callback, None
        if callback is None:
            return False
        try:
            callback()
        except Exception:  # the protocol has still to tidy up after the connection
            log.exception("hang-up callback failed")
        return True
