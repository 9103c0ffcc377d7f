"""From ASGI to a handler and back, without request or response objects in between: this is the hot path.

A handler takes a Call and returns a Reply, or raises a Refusal.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from gateway.api import problems
from gateway.api.guard import OPEN, Door, Guard
from gateway.api.large_bodies import LARGE_BYTES, LargeBodies
from gateway.errors import BodyTooLarge, InternalError, InvalidParameter, Refusal, UnsupportedEncoding
from gateway.identity import NOBODY

log = logging.getLogger("gateway.http")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")
_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
_CONFIRM_SECONDS = 2.0
_start_of_ids = secrets.token_hex(6)
_number_of_ids = itertools.count(1)


class ClientGone(Exception):
    """The client hung up before its request was whole. There is nobody to answer."""


class Call:
    """One request. headers: lower-case names; id: what the path's `{..}` held; identity: who asks; extra: headers
    that its reply gets whatever it is."""

    __slots__ = (
        "_held_bytes",
        "_large",
        "_turn",
        "_whole",
        "extra",
        "headers",
        "id",
        "identity",
        "jobs",
        "method",
        "receive",
        "request_id",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, id: str, large: LargeBodies, *, jobs: bool) -> None:
        self._large = large
        self._turn = False
        self._held_bytes = 0
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.id = id
        self.identity = NOBODY
        self.extra: tuple[tuple[bytes, bytes], ...] = ()
        self.jobs = jobs
        self._whole = False
        given = self.headers.get(b"x-request-id")
        if given is not None and _SANE_ID.fullmatch(given):
            self.request_id = given.decode()
        else:
            self.request_id = f"{_start_of_ids}-{next(_number_of_ids):x}"

    async def body(self, limit_bytes: int) -> bytes:
        """Read the whole body. Raises BodyTooLarge, UnsupportedEncoding, Overloaded, ClientGone."""
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedEncoding()
        declared = self.headers.get(b"content-length")
        if declared is not None and int(declared) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone()
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            self._whole = True
            if len(body) > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            return body
        parts, size = [body], len(body)
        while not self._whole:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._whole = not message.get("more_body", False)
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            if size > LARGE_BYTES:
                self._large.hold(size - self._held_bytes)
                self._held_bytes = size
        if self._held_bytes:
            await self._large.take()
            self._turn = True
        return b"".join(parts)

    def end_turn(self) -> None:
        """Let another large request have its turn: this one is answered, or waits for something else."""
        if self._held_bytes:
            self._large.end(self._held_bytes, turn=self._turn)
            self._held_bytes, self._turn = 0, False

    async def discard_body(self) -> None:
        """Take what is left of the body where the connection closes behind the reply: closing with unread bytes resets
        it, and the reply is lost to a client that sends all before it reads. The server bounds it in bytes and time."""
        closes = self.scope["http_version"] == "1.0" or self.headers.get(b"connection", b"").lower() == b"close"
        if not closes or b"expect" in self.headers or self.connection is None:
            return
        while not self._whole:
            message = await self.receive()
            self._whole = message["type"] == "http.disconnect" or not message.get("more_body", False)

    def query(self, *known: str, repeated: tuple[str, ...] = ()) -> dict[str, list[str]]:
        """Read the query. Raises InvalidParameter for one not known, or given twice without being `repeated`."""
        raw = self.scope["query_string"]
        if not raw:
            return {}
        try:
            if _BAD_PERCENT.search(raw):
                raise ValueError("parse_qsl would take it literally")
            pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=400)
        except (UnicodeDecodeError, ValueError):
            raise InvalidParameter("query", "is not valid percent-encoded UTF-8") from None
        found: dict[str, list[str]] = {}
        for name, value in pairs:
            if name not in known and name not in repeated:
                raise InvalidParameter(
                    name[:100], f"is not known here; known: {', '.join((*known, *repeated)) or 'none'}"
                )
            if name in found and name not in repeated:
                raise InvalidParameter(name, "is given twice")
            found.setdefault(name, []).append(value)
        return found

    @property
    def connection(self) -> Any:
        """The server's view of the connection (see connection.py), or None under another server."""
        return self.scope.get("extensions", {}).get("gateway.connection")


class Reply:
    """An answer. undelivered: called instead of sending when the client is known to be gone."""

    __slots__ = ("body", "headers", "media", "status", "undelivered")

    def __init__(
        self, status: int, body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = (), *,
        media: tuple[bytes, bytes] = _JSON, undelivered: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.status = status
        self.body = body
        self.headers = headers
        self.media = media
        self.undelivered = undelivered


Handler = Callable[[Call], Awaitable[Reply]]


class Endpoint:
    """A route's handler as an ASGI application, behind a guard and its door.

    observe: told (route, status) after each request.
    """

    __slots__ = ("_door", "_guard", "_handler", "_observe", "_route")

    def __init__(
        self, route: str, handler: Handler, observe: Callable[[str, int], None], guard: Guard, door: Door = OPEN
    ) -> None:
        self._route = route
        self._guard = guard
        self._door = door
        self._handler = handler
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send, id: str = "", *, jobs: bool = False) -> None:
        call = Call(scope, receive, id, self._guard.large_bodies, jobs=jobs)
        try:
            await self._answer(call, scope, send)
        finally:
            call.end_turn()

    async def _answer(self, call: Call, scope: Scope, send: Send) -> None:
        try:
            let_in = self._guard.wave_through(call.headers, self._door)
            if let_in is None:
                call.extra = self._guard.cors(call.headers)
                call.identity, extra = await self._guard.admit(scope, call.headers, self._door)
                call.extra += extra
            else:
                call.identity, call.extra = let_in
            begun = time.monotonic()
            reply = await self._handler(call)
            if reply.undelivered is not None and time.monotonic() - begun > _CONFIRM_SECONDS:
                # It waited for long: its key may be revoked, its token over.
                try:
                    await self._guard.confirm(call.headers)
                except Refusal:
                    reply.undelivered()
                    raise
        except Refusal as refusal:
            reply = refusal_reply(refusal, call.request_id)
            await call.discard_body()
        except ClientGone:
            return
        except Exception:
            log.exception("failed to answer", extra={"route": self._route, "request_id": call.request_id})
            reply = refusal_reply(InternalError(), call.request_id)
        if reply.undelivered is not None and (call.connection is not None and call.connection.closed):
            reply.undelivered()
            # Nothing, for a client that closed only its sending half.
            reply = Reply(204)
        await _send(send, reply, call)
        self._observe(self._route, reply.status)


def refusal_reply(refusal: Refusal, request_id: str) -> Reply:
    """A refusal as a reply."""
    return Reply(
        problems.status_of(refusal),
        problems.encode(refusal, request_id),
        tuple(problems.headers(refusal)),
        media=_PROBLEM,
    )


async def _send(send: Send, reply: Reply, call: Call) -> None:
    headers = [*_ALWAYS, *reply.headers, *call.extra, (b"x-request-id", call.request_id.encode())]
    if reply.status not in (204, 304):
        headers.append(reply.media)
        headers.append((b"content-length", b"%d" % len(reply.body)))
    connection = call.connection
    if connection is not None and connection.reply(call.scope, reply.status, headers, reply.body):
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
