"""uvicorn's HTTP/1.1 protocol with bounds: on header bytes, URL bytes, body bytes, and on every wait for a client.

uvicorn with httptools has no header limit (a 64 MiB header stalls the process for seconds, before any of our code) and
no receive deadline. `GuardedProtocol` refuses what is too large while it arrives, and `sweep`, called by the server
about once a second, ends connections that keep us waiting. No request pays for a timer: a sweep compares what a
connection is waiting for with what the last sweep saw, so a deadline is late by at most one sweep.

A refusal is `application/problem+json` and closes the connection. It waits its turn behind pipelined requests that came
before it. Reading goes on for a moment afterwards (`LINGER_SECONDS`), since closing with unread bytes resets the
connection and takes the reply away from clients that send all before they read.

Long polls learn of a hang-up by `scope["extensions"]["gateway.connection"]`, a `Connection`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, ClassVar, NoReturn
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.connection import Connection, Limits, Problem, problem_body
from gateway.exchange import Exchange
from gateway.reply_writer import ReplyWriter

LINGER_SECONDS = 2.0
LINGER_BYTES = 8 * 1024 * 1024
# Fed to the parser at a time: what can be parsed past a limit before we look, and how many pipelined requests queue up.
SLICE_BYTES = 16 * 1024
# Of a body without a byte of content: chunk extensions, trailers. More is an attack.
EMPTY_BODY_BYTES = 16 * 1024

log = logging.getLogger(__name__)

# What a connection waits for, as `sweep` sees it.
_FRESH, _HEAD, _BODY, _DRAIN, _IDLE, _BUSY, _WRITE, _CLOSE, _LINGER = range(9)
_WATCHED_HEADERS = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Make the class for a set of limits with `guarded`."""

    limits: ClassVar[Limits] = Limits()
    problem: ClassVar[staticmethod[[int, str, str, int | None], bytes]] = staticmethod(problem_body)

    cycle: Exchange  # the last one parsed

    # Beyond 30 attributes an instance dictionary is no longer shared: 2 KiB for each open poll.
    # fmt: off
    __slots__ = (
        "_backlog", "_body_bytes", "_connection", "_empty_bytes", "_extensions", "_head_bytes", "_held_flow", "_hosts",
        "_in_head", "_in_message", "_lingering", "_mark", "_pending", "_refusal", "_replay", "_requests", "_running",
        "_seen_bytes", "_since", "_stage",
    )
    # fmt: on

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connection = Connection(self._reply_at_once)
        self._writer = ReplyWriter()
        self._extensions: dict[str, object] = {"gateway.connection": self._connection}
        self._backlog = b""  # received behind pipelined requests, not parsed yet
        self._requests = 0
        self._running: RequestResponseCycle | None = None  # the one answered now; `cycle` is the last one parsed
        self._in_message = self._in_head = False
        self._replay: bytes | None = None  # the head of an upgrade request, less its upgrade
        self._refusal: tuple[int, str, str] | tuple[int, str, str, int] | None = None
        self._pending: bytes | None = None  # a refusal behind requests that are still to be answered
        self._lingering = False
        self._seen_bytes = 0
        self._stage = _FRESH
        self._mark = 0
        self._since = self.loop.time()

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._held_flow = _HeldFlow(transport)
        self.flow = self._held_flow

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._discard(data)
        elif self.pipeline or self._backlog:
            self._hold(data)
        elif len(data) > SLICE_BYTES:
            self._feed(data)
        else:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._feed(self._without_upgrade() + data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self._refuse_message()
            else:
                if self._in_message:
                    self._check_unfinished(len(data))

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio reads the answer, uvicorn gives none
        """Keep a half-closed connection for a reply under way, unless someone waits to hear that the client left."""
        cycle = self._running
        told = self._connection.hang_up()
        if told or cycle is None or self.cycle.more_body or cycle.response_started or _awaited(cycle):
            return None
        self.cycle.keep_alive = False  # the last of those pipelined
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        running, self._running = self._running, None
        if running is not None:
            running.disconnected = True
            running.message_event.set()
        self.pipeline.clear()
        self._backlog = b""
        self._connection.hang_up()
        # What points back here, so that nothing waits for the cycle collector, which seldom runs (`serving.py`): some
        # KiB for each connection that ends. A handler that still works keeps its cycle, and that keeps us.
        self.parser = self.cycle = None  # type: ignore[assignment]  # nothing is read or answered any more
        self._connection.reply = _too_late

    # The parser's side. What one slice of data cannot exceed is checked after the slice, not in each callback.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]  # typed for uvicorn's own extensions
        self._requests += 1
        self._in_message = self._in_head = True
        self._hosts = self._head_bytes = self._body_bytes = self._empty_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: it must not change the headers of a request that already runs
        name = name.lower()
        self.headers.append((name, value))
        if name not in _WATCHED_HEADERS:
            return
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            if int(value) > self.limits.body_bytes:
                self._refuse_body()
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked" or self.parser.get_http_version() != "1.1":
                self._refuse(501, "unsupported_transfer_encoding", "The only transfer encoding is chunked, in 1.1.")
        elif value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(400, "bad_request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        if self._hosts != 1 and (self._hosts or version == "1.1"):
            self._refuse(400, "bad_request", "A request has exactly one Host header.")
        if not self.url.isascii():
            self._refuse(400, "bad_request", "A URL is ASCII: percent-encode the rest.")
        refusal = self._head_too_large()
        if refusal is not None:
            self._refuse(*refusal)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._refuse(501, "method_not_supported", "This is no proxy: CONNECT is not supported.")
            self._replay = self._head_without_upgrade(version)
            return
        self._begin(version)
        self._in_head = False
        if not self.pipeline:
            self._running = self.cycle

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_bytes:
            self._refuse_body()
        cycle = self.cycle
        if not cycle.response_complete:
            if cycle.add(body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._replay is not None:
            return  # the message begins again without its upgrade
        self._in_message = False
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _begin(self, version: str) -> None:
        """Hand a request whose head is complete to the application, or queue it behind the one before."""
        scope, parser = self.scope, self.parser
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = cycle = Exchange(
            scope, self.transport, self.flow, self.server_state.default_headers, self.on_response_complete,
            access_log=self.access_log, keep_alive=version == "1.1" and parser.should_keep_alive(),
            expect_100_continue=self.expect_100_continue,
        )  # fmt: skip
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    # The application's side

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._running = None
        self._connection._callback = None  # what `on_hang_up(None)` does, without the call
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._running, app = self.pipeline.pop()
            self._start_asgi_task(self._running, app)
            if self.pipeline:
                return
        if self._backlog:
            backlog, self._backlog = self._backlog, b""
            self._feed(backlog)
        if self._pending is not None and self._running is None:
            self._send_refusal(self._pending)
        elif self.flow.read_paused and not self._backlog and not self.pipeline:
            self._held_flow.release()

    def _reply_at_once(
        self, scope: MutableMapping[str, Any], status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> bool:
        cycle = self._running
        return cycle is not None and cycle.scope is scope and self._writer.write(cycle, status, headers, body)

    # The server's side

    def shutdown(self) -> None:
        """Close at once if idle, after the reply under way if not."""
        if self._lingering:
            self.transport.abort()
        else:
            super().shutdown()

    def abandon(self, status: int, code: str, detail: str) -> None:
        """Refuse the request under way if it has no answer yet, and close. Its task is left to the caller."""
        running = self._running
        self.pipeline.clear()
        if running is None or running.response_started:
            self.transport.abort()
            return
        running.disconnected = True
        self.transport.write(self._reply(status, code, detail))
        self.transport.close()

    def sweep(self, now: float) -> None:
        """End this connection if it kept us waiting beyond its limit. now: the loop's time, seconds."""
        stage, mark = self._waiting_for()
        if stage != self._stage or mark != self._mark:
            # The first head has one deadline with the wait for its first byte.
            if not (stage == _HEAD and self._stage == _FRESH):
                self._since = now
            self._stage, self._mark = stage, mark
        waited_seconds, limits = now - self._since, self.limits
        if stage == _BUSY:
            return
        if stage == _HEAD:
            if waited_seconds >= limits.header_seconds:
                self._refusal = (408, "request_timeout", f"The headers took over {limits.header_seconds:g} seconds.")
                self._refuse_message()
        elif stage == _BODY:
            # A body that nobody asks for, or that we stopped reading, is no fault of the client's.
            if waited_seconds >= limits.body_seconds and _awaited(self.cycle) and not self.flow.read_paused:
                self._refusal = (408, "body_timeout", f"The body took over {limits.body_seconds:g} seconds.")
                self._refuse_message()
        elif stage == _FRESH:
            if waited_seconds >= limits.header_seconds:
                self.transport.close()
        elif stage == _IDLE:
            if waited_seconds >= limits.keep_alive_seconds:
                self.transport.close()
        elif waited_seconds >= (LINGER_SECONDS if stage == _LINGER else limits.body_seconds):
            self.transport.abort()

    def _waiting_for(self) -> tuple[int, int]:
        """What we wait for, and a number that changes with every step forward."""
        if self._lingering:
            return _LINGER, 0
        if self.transport.is_closing():
            return _CLOSE, self.transport.get_write_buffer_size()
        running = self._running
        if running is not None:
            if self.flow.write_paused:
                return _WRITE, self.transport.get_write_buffer_size()
            if running.more_body and not running.response_started:
                return _BODY, self._requests
            return _BUSY, 0
        if self._in_head:
            return _HEAD, self._requests
        if self._in_message:
            return _DRAIN, self._requests
        return (_IDLE if self._requests else _FRESH), self._requests

    # Parsing within bounds

    def _feed(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            if self.pipeline:
                self._hold(data[start:])
                return
            piece = memoryview(data)[start : start + SLICE_BYTES]
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[start + upgrade.args[0] :]
                start = 0
                continue
            except httptools.HttpParserError:
                self._refuse_message()
                return
            start += len(piece)
            if self._in_message:
                self._check_unfinished(len(piece))
                if self._refusal is not None:
                    return

    def _hold(self, data: bytes) -> None:
        """Keep data for after the requests that are queued, and read no more until then."""
        self._backlog += data
        self._held_flow.hold()

    def _discard(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > LINGER_BYTES:
            self.transport.abort()

    def _check_unfinished(self, fed_bytes: int) -> None:
        """Look at a message that is not complete after `fed_bytes` more."""
        if self._in_head:
            self._head_bytes += fed_bytes
            self._refusal = self._head_too_large()
        else:
            # Chunk extensions reach no callback, trailers are dropped: count the bytes since the body last grew.
            self._empty_bytes = 0 if self._body_bytes != self._seen_bytes else self._empty_bytes + fed_bytes
            self._seen_bytes = self._body_bytes
            if self._empty_bytes > EMPTY_BODY_BYTES:
                self._refusal = (400, "bad_request", "The body has too many bytes without content.")
        if self._refusal is not None:
            self._refuse_message()

    def _head_too_large(self) -> tuple[int, str, str] | None:
        limits = self.limits
        if len(self.url) > limits.url_bytes:
            return 414, "url_too_long", f"The URL is longer than {limits.url_bytes} bytes."
        if len(self.headers) > limits.header_count:
            return 431, "headers_too_large", f"There are more than {limits.header_count} headers."
        # Exact where the parser gave them out. The rest is a header without end, or other messages in the same slices.
        if (self._head_bytes > SLICE_BYTES or limits.header_bytes < 2 * SLICE_BYTES) and (
            self._head_bytes > limits.header_bytes + len(self.url) + SLICE_BYTES
            or sum(len(name) + len(value) + 4 for name, value in self.headers) > limits.header_bytes
        ):
            return 431, "headers_too_large", f"The headers are larger than {limits.header_bytes} bytes."
        return None

    def _head_without_upgrade(self, version: str) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version.encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _without_upgrade(self) -> bytes:
        """Begin the message again with a new parser: this one takes a body behind an upgrade for another protocol."""
        head, self._replay = self._replay, None
        assert head is not None, "the parser upgrades only what on_headers_complete let through"
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head

    # Refusing

    def _refuse_body(self) -> NoReturn:
        limit_bytes = self.limits.told_body_bytes or self.limits.body_bytes
        self._refusal = (413, "body_too_large", f"The body is larger than {limit_bytes} bytes.", limit_bytes)
        raise ValueError

    def _refuse(self, status: int, code: str, detail: str) -> NoReturn:
        """Refuse from within a callback of the parser, which stops it."""
        self._refusal = (status, code, detail)
        raise ValueError(code)

    def _refuse_message(self) -> None:
        """Answer the message being read with `_refusal`, or 400, when its turn comes. Nothing is read after it."""
        if self._refusal is None:
            self._refusal = (400, "bad_request", "This is no valid HTTP/1.1 request.")
        if self.transport.is_closing():
            return
        reply = self._reply(*self._refusal)
        self._body_bytes = 0
        cycle = self.cycle
        if self._in_message and not self._in_head:
            if cycle.response_complete or cycle.response_started:
                self.transport.close()  # it has its answer
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if self.pipeline:
                self.pipeline.popleft()
            else:
                self._running = None
        if self._running is None:
            self._send_refusal(reply)
        else:
            self._pending = reply

    def _send_refusal(self, reply: bytes) -> None:
        self._lingering = True
        self._pending = None
        self._connection.hang_up()
        self.transport.write(reply)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._held_flow.release()
        else:
            self.transport.close()

    def _reply(self, status: int, code: str, detail: str, limit: int | None = None) -> bytes:
        """The whole reply that refuses a request."""
        log.debug("refused a request", extra={"status": status, "code": code})
        body = self.problem(status, code, detail, limit)
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        lines += [b"%s: %s" % header for header in self.server_state.default_headers if header[0] != b"connection"]
        lines += [
            b"content-type: application/problem+json",
            b"content-length: %d" % len(body),
            b"x-request-id: %s" % json.loads(body)["request_id"].encode(),
            b"x-content-type-options: nosniff",
            b"cache-control: no-store",
            b"connection: close",
        ]
        if status in (429, 503):
            lines.append(b"retry-after: 1")
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


def guarded(limits: Limits | None = None, problem: Problem = problem_body) -> type[GuardedProtocol]:
    """Make the protocol class for `uvicorn.Config(http=...)`.

    problem: builds the body of a refusal from status, code, detail, and the bound that was passed; has `request_id`.
    """
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits or Limits(), "problem": staticmethod(problem)})


class _HeldFlow(FlowControl):
    """Flow control that an application's `receive` cannot undo while data waits behind pipelined requests."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._held = False

    def hold(self) -> None:
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self._held:
            super().resume_reading()


def _too_late(*_: object) -> bool:
    """Leave a reply to ASGI's own way, which drops it."""
    return False


def _awaited(cycle: RequestResponseCycle) -> bool:
    """Whether the application waits in `receive`, for the body or for the client to leave."""
    return bool(cycle.message_event._waiters)
