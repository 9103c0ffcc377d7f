"""Writes a whole reply in one piece. uvicorn writes its head and its body one after the other: two system calls, two
packets, two wake-ups of a client that waits for both. Measured at 64 connections: a fifth of what a short reply costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

Header = tuple[bytes, bytes]
_CLOSE = b"connection: close"
_END = (b"", b"")
_BREAKS = b"\r\n\0"
# Copying a larger body into one piece costs more than a second write does.
_MOST_BYTES = 64 * 1024


class ReplyWriter:
    """Writes replies for one connection. The server's own headers change once a second and are spelled once each."""

    __slots__ = ("_own", "_spelled")

    def __init__(self) -> None:
        self._own: list[Header] | None = None
        self._spelled = b""

    def write(self, cycle: RequestResponseCycle, status: int, headers: Sequence[Header], body: bytes) -> bool:
        """Answer the cycle's request and end it. False: not in one piece; send it the long way."""
        if cycle.waiting_for_100_continue:
            # Its body was never asked for, and its sender may leave it out: what comes next could be either.
            cycle.keep_alive = False
        if (
            cycle.response_started
            or cycle.disconnected
            or cycle.flow.write_paused
            or len(body) > _MOST_BYTES
            or cycle.scope["method"] == "HEAD"
        ):
            return False
        if cycle.default_headers is not self._own:
            self._own = cycle.default_headers
            self._spelled = _spell(self._own)
        lines = [b": ".join(header) for header in headers]
        if not cycle.keep_alive:
            lines.append(_CLOSE)
        lines += _END
        head = STATUS_LINE[status] + self._spelled + b"\r\n".join(lines)
        # No value may break its line: what stands in some comes from requests. Two bytes break each line that is ours.
        if len(head) - len(head.translate(None, _BREAKS)) != 2 * (len(self._own) + len(lines)):
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(head + body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


def _spell(headers: Sequence[Header]) -> bytes:
    return b"".join([part for name, value in headers for part in (name, b": ", value, b"\r\n")])
