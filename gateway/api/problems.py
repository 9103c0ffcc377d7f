"""Refusals as RFC 9457 problem documents. The only place where a cause meets its HTTP status."""

from __future__ import annotations

import secrets

import msgspec

from gateway import errors
from gateway.errors import Refusal

TYPE_PREFIX = "urn:tasks-gateway:problem:"

STATUS: dict[type[Refusal], int] = {
    errors.EmptyBody: 400,
    errors.BadJson: 400,
    errors.BadUtf8: 400,
    errors.TooDeep: 400,
    errors.UnknownMember: 400,
    errors.InvalidMember: 400,
    errors.InvalidParameter: 400,
    errors.InvalidId: 400,
    errors.BadCursor: 400,
    errors.BadRequest: 400,
    errors.Unauthenticated: 401,
    errors.InvalidToken: 401,
    errors.InsufficientScope: 403,
    errors.ForbiddenJobType: 403,
    errors.ForbiddenTenant: 403,
    errors.ForbiddenOrigin: 403,
    errors.ForbiddenHost: 403,
    errors.ForbiddenForward: 403,
    errors.RouteNotFound: 404,
    errors.TaskNotFound: 404,
    errors.WorkerNotFound: 404,
    errors.QueueNotFound: 404,
    errors.KeyNotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTimeout: 408,
    errors.LeaseLost: 409,
    errors.AlreadyFinished: 409,
    errors.NotFinished: 409,
    errors.AlreadyStarted: 409,
    errors.TaskChanged: 409,
    errors.SettingsChanged: 409,
    errors.UniqueConflict: 409,
    errors.RequestRunning: 409,
    errors.BodyTooLarge: 413,
    errors.BatchTooLarge: 413,
    errors.UrlTooLong: 414,
    errors.UnsupportedMediaType: 415,
    errors.UnsupportedEncoding: 415,
    errors.BatchRefused: 422,
    errors.IdempotencyMismatch: 422,
    errors.TooManyPolls: 429,
    errors.RateLimited: 429,
    errors.QuotaExceeded: 429,
    errors.HeadersTooLarge: 431,
    errors.InternalError: 500,
    errors.IdentityUnavailable: 503,
    errors.QueueFull: 503,
    errors.ShuttingDown: 503,
    errors.StoreUnavailable: 503,
    errors.NotReplicated: 503,
    errors.StoreFull: 503,
    errors.Overloaded: 503,
}

# Every code: its title, and whether the same request may succeed later. Three are the protocol guard's alone.
CODES: dict[str, tuple[str, bool]] = {
    **{cause.code: (cause.title, cause.retryable) for cause in STATUS},
    "body_timeout": ("The body did not arrive in time", True),
    "method_not_supported": ("CONNECT is not supported", False),
    "unsupported_transfer_encoding": ("The only transfer encoding is chunked", False),
}

_encode = msgspec.json.Encoder().encode


def status_of(refusal: Refusal) -> int:
    """The HTTP status of a refusal."""
    return STATUS[type(refusal)]


def document(refusal: Refusal, request_id: str) -> dict[str, object]:
    """The problem document of a refusal. Extra members of the refusal come last."""
    return {
        "type": refusal.type_uri or TYPE_PREFIX + refusal.code,
        "title": refusal.title,
        "status": status_of(refusal),
        "detail": refusal.detail,
        "code": refusal.code,
        "request_id": request_id,
        "retryable": refusal.retryable,
        **refusal.members,
    }


def encode(refusal: Refusal, request_id: str) -> bytes:
    """The problem document as bytes."""
    return _encode(document(refusal, request_id))


def headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """Headers that belong to a refusal: Retry-After, Allow, WWW-Authenticate (RFC 6750, section 3)."""
    found = []
    if refusal.retry_after_seconds is not None:
        found.append((b"retry-after", b"%d" % refusal.retry_after_seconds))
    if isinstance(refusal, errors.Unauthenticated):
        found.append((b"www-authenticate", b'Bearer realm="tasks-gateway"'))
    if isinstance(refusal, errors.InvalidToken):
        found.append((b"www-authenticate", b'Bearer realm="tasks-gateway", error="invalid_token"'))
    if isinstance(refusal, errors.InsufficientScope):
        challenge = f'Bearer realm="tasks-gateway", error="insufficient_scope", scope="{refusal.scope}"'
        found.append((b"www-authenticate", challenge.encode()))
    if isinstance(refusal, errors.RateLimited):
        found += refusal.headers
    if isinstance(refusal, errors.MethodNotAllowed):
        found.append((b"allow", refusal.allowed.encode()))
    return found


def for_server(status: int, code: str, detail: str, limit: int | None = None) -> bytes:
    """The problem document of a refusal that the protocol guard decided on. limit: the bound that was passed."""
    title, retryable = CODES[code]
    document = {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": secrets.token_hex(8),
        "retryable": retryable,
    }
    return _encode(document if limit is None else {**document, "limit": limit})
