"""Every refusal the gateway can give: one class is one cause, and one code.

A refusal says what was wrong, where, and what to do next. Its HTTP status stands in `api/problems.py`.
"""

from __future__ import annotations


class Refusal(Exception):
    """A request that is answered with a problem. `retryable`: the same request may succeed later, unchanged.

    members: extra facts for the problem document. retry_after_seconds: how long to wait, where that is known.
    type_uri: the registered problem type, where there is one.
    """

    code = "internal"
    title = "The gateway failed"
    retryable = False
    retry_after_seconds: int | None = None
    type_uri: str | None = None

    def __init__(self, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class InternalError(Refusal):
    """A defect of ours. The log has the traceback under the same request id."""

    retryable = True

    def __init__(self) -> None:
        super().__init__("something went wrong in the gateway; its log has more under this request_id")


# What is wrong with a request's bytes


class EmptyBody(Refusal):
    code, title = "empty_body", "The request has no body"

    def __init__(self) -> None:
        super().__init__("a JSON body is required here")


class BadJson(Refusal):
    code, title = "bad_json", "The body is not JSON"


class BadUtf8(Refusal):
    code, title = "bad_utf8", "The body is not UTF-8"

    def __init__(self, offset: int) -> None:
        super().__init__(f"the body is not valid UTF-8 at byte {offset}", offset=offset)


class TooDeep(Refusal):
    code, title = "too_deep", "The body is nested too deeply"

    def __init__(self, limit: int) -> None:
        super().__init__(f"arrays and objects may be nested {limit} deep", limit=limit)


class UnknownMember(Refusal):
    code, title = "unknown_member", "The body has a member this request does not know"

    def __init__(self, member: str) -> None:
        super().__init__(f"unknown member {member!r}", member=member)


class InvalidMember(Refusal):
    """A member of the body is missing or has a wrong type, range or form."""

    code, title = "invalid_member", "A member of the body is not valid"

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(f"{member}: {reason}" if member else reason, member=member)


class InvalidParameter(Refusal):
    """A query parameter or header is unknown, missing or has a wrong form."""

    code, title = "invalid_parameter", "A parameter of the request is not valid"

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter}: {reason}", parameter=parameter)


class InvalidId(Refusal):
    code, title = "invalid_id", "The id in the path is malformed"

    def __init__(self, rule: str) -> None:
        super().__init__(rule)


class BadCursor(Refusal):
    code, title = "bad_cursor", "The cursor is not one of ours"

    def __init__(self) -> None:
        super().__init__("take `cursor` from next_cursor of the page before, unchanged, with the same filters")


class BodyTooLarge(Refusal):
    code, title = "body_too_large", "The body is too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"a body may have {limit_bytes} bytes; store large data elsewhere and send a link", limit=limit_bytes
        )


class BatchTooLarge(Refusal):
    code, title = "batch_too_large", "The batch has too many items"

    def __init__(self, limit: int, what: str = "a batch") -> None:
        super().__init__(f"{what} may have {limit} items; send several", limit=limit)


class BatchRefused(Refusal):
    code, title = "batch_refused", "An atomic batch was refused as a whole"

    def __init__(self, problems: list[object]) -> None:
        super().__init__("nothing was stored: see `errors` for the items at fault", errors=problems)


class UnsupportedMediaType(Refusal):
    code, title = "unsupported_media_type", "The body's media type is not supported"


class UnsupportedEncoding(Refusal):
    code, title = "unsupported_encoding", "Compressed bodies are not supported"

    def __init__(self) -> None:
        super().__init__("send the body without Content-Encoding")


class HeadersTooLarge(Refusal):
    code, title = "headers_too_large", "The request's headers are too large"


class UrlTooLong(Refusal):
    code, title = "url_too_long", "The request's URL is too long"


class RequestTimeout(Refusal):
    code, title = "request_timeout", "The headers did not arrive in time"
    retryable = True


class BadRequest(Refusal):
    code, title = "bad_request", "The request is not valid HTTP"


# What is wrong with who asks


class Unauthenticated(Refusal):
    code, title = "unauthenticated", "The request does not say who asks"

    def __init__(self) -> None:
        super().__init__("send Authorization: Bearer with a token or an API key")


class InvalidToken(Refusal):
    code, title = "invalid_token", "The token is not valid"

    def __init__(self) -> None:
        super().__init__("the bearer token is none of ours, is over, or was revoked")


class IdentityUnavailable(Refusal):
    code, title = "identity_unavailable", "The keys that tokens are checked with cannot be had"
    retryable, retry_after_seconds = True, 5

    def __init__(self) -> None:
        super().__init__("the issuer's keys (JWKS) cannot be fetched; nobody can be let in by them now")


class InsufficientScope(Refusal):
    code, title = "insufficient_scope", "The token does not allow this"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs the scope {scope}", scope=scope)
        self.scope = scope


class ForbiddenJobType(Refusal):
    code, title = "forbidden_job_type", "The token does not allow this job_type"

    def __init__(self, job_type: str) -> None:
        super().__init__("the token is limited to other job_types", job_type=job_type)


class ForbiddenTenant(Refusal):
    code, title = "forbidden_tenant", "The token does not operate the whole"

    def __init__(self) -> None:
        super().__init__("only `admin` of the default tenant sets limits and looks after other tenants")


class ForbiddenOrigin(Refusal):
    code, title = "forbidden_origin", "A page of another site sent this"

    def __init__(self) -> None:
        super().__init__("requests from pages of other sites are refused; CORS_ORIGINS names those that may ask")


class ForbiddenForward(Refusal):
    code, title = "forbidden_forward", "A proxy passed on what nobody was asked for"

    def __init__(self) -> None:
        super().__init__(
            "nobody is asked for a token here, and a proxy hands this on from elsewhere; set JWT_SECRET, JWKS_URL or "
            "API_KEYS, or say AUTH=none to serve anybody"
        )


class ForbiddenHost(Refusal):
    code, title = "forbidden_host", "The gateway does not go by this name"

    def __init__(self) -> None:
        super().__init__(
            "nobody is asked for a token here, so names that a page could have rebound are refused; use the "
            "address, or put the name into ALLOWED_HOSTS"
        )


class RateLimited(Refusal):
    """The tenant (or the address) asked too often. policy: which limit; the time is rounded up to whole seconds."""

    code, title = "rate_limited", "Too many requests"
    type_uri = "https://iana.org/assignments/http-problem-types#quota-exceeded"
    retryable = True

    def __init__(self, policy: str, limit_per_minute: int, retry_ms: int) -> None:
        super().__init__(f"more than {limit_per_minute} a minute; slow down", **{"violated-policies": [policy]})
        self.retry_after_seconds = max(1, -(-retry_ms // 1000))
        self.headers: tuple[tuple[bytes, bytes], ...] = ()


_COUNTS = {
    "max_pending": ". What workers take makes room",
    "max_stored_bytes": ". What is final counts until its retention ends, or it is deleted",
}


class QuotaExceeded(Refusal):
    """The tenant holds as much as it may. quota: its name, as `GET /tenants` tells it."""

    code, title = "quota_exceeded", "The tenant's quota is used up"
    type_uri = "https://iana.org/assignments/http-problem-types#quota-exceeded"
    retryable, retry_after_seconds = True, 5

    def __init__(self, quota: str, used: int, asked: int, limit: int) -> None:
        super().__init__(
            f"{quota}: {asked} more to {used} would pass {limit}; nothing was stored{_COUNTS.get(quota, '')}",
            quota=quota, used=used, limit=limit, **{"violated-policies": [quota]},
        )  # fmt: skip


# What is wrong with where it goes


class RouteNotFound(Refusal):
    code, title = "not_found", "There is nothing at this address"

    def __init__(self) -> None:
        super().__init__("no such route; /docs and /openapi.json list them all")


class MethodNotAllowed(Refusal):
    code, title = "method_not_allowed", "The address does not take this method"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"use {allowed}", allow=allowed)
        self.allowed = allowed


class TaskNotFound(Refusal):
    code, title = "task_not_found", "There is no such task"

    def __init__(self, task_id: str) -> None:
        super().__init__("no task has this id, or it is past its retention", id=task_id)


class WorkerNotFound(Refusal):
    code, title = "worker_not_found", "There is no such worker"

    def __init__(self, worker_id: str) -> None:
        super().__init__("no worker of this id polled lately", worker_id=worker_id)


class KeyNotFound(Refusal):
    code, title = "key_not_found", "There is no such API key"

    def __init__(self, key_id: str) -> None:
        super().__init__("no API key has this id", id=key_id)


class QueueNotFound(Refusal):
    code, title = "queue_not_found", "There is no such queue"

    def __init__(self, job_type: str) -> None:
        super().__init__("no task was ever enqueued with this job_type", job_type=job_type)


# What is wrong with its moment


class LeaseLost(Refusal):
    code, title = "lease_lost", "The lease token does not hold this task"

    def __init__(self, task_id: str) -> None:
        super().__init__("the lease ended, was given to another, or the task is final; stop working on it", id=task_id)


class AlreadyFinished(Refusal):
    code, title = "already_finished", "The task is already final"

    def __init__(self, task_id: str, status: str) -> None:
        super().__init__(f"the task is {status}", id=task_id, task_status=status)


class AlreadyStarted(Refusal):
    code, title = "already_started", "The task is in a worker's hands"

    def __init__(self, task_id: str) -> None:
        super().__init__("only a waiting task can be changed or deleted; cancel it, or wait for its end", id=task_id)


class TaskChanged(Refusal):
    code, title = "task_changed", "The task changed at the same moment"
    retryable, retry_after_seconds = True, 1

    def __init__(self, task_id: str) -> None:
        super().__init__("somebody else changes this task; repeat the request", id=task_id)


class SettingsChanged(Refusal):
    code, title = "settings_changed", "The queue's settings changed at the same moment"
    retryable, retry_after_seconds = True, 1

    def __init__(self, job_type: str) -> None:
        super().__init__("somebody else changes this queue; repeat the request", job_type=job_type)


class NotFinished(Refusal):
    code, title = "not_finished", "The task is not final yet"

    def __init__(self, task_id: str) -> None:
        super().__init__("only failed and cancelled tasks can be retried", id=task_id)


class IdempotencyMismatch(Refusal):
    code, title = "idempotency_mismatch", "The Idempotency-Key was used for another request"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key came with another request before; take a new key for a new request")


class RequestRunning(Refusal):
    code, title = "request_running", "The request with this Idempotency-Key is still running"
    retryable, retry_after_seconds = True, 1

    def __init__(self) -> None:
        super().__init__("the first request with this Idempotency-Key has not been answered yet; repeat it in a moment")


class UniqueConflict(Refusal):
    code, title = "unique_conflict", "Another task holds the unique key"

    def __init__(self, task_id: str, reason: str = "another task holds this unique_key") -> None:
        super().__init__(f"{reason}; nothing was stored", id=task_id)


class TooManyPolls(Refusal):
    code, title = "too_many_polls", "Too many polls are open"
    retryable, retry_after_seconds = True, 2

    def __init__(self, limit: int, whose: str = "") -> None:
        super().__init__(
            f"{limit} polls {whose}are open here; poll with one connection per worker and `max`", limit=limit
        )


class QueueFull(Refusal):
    code, title = "queue_full", "The queue holds its bound"
    retryable, retry_after_seconds = True, 1

    def __init__(self, queue: str, depth: int, limit: int, partitions: int = 1) -> None:
        where = "" if partitions == 1 else f" in this one of its {partitions} partitions"
        super().__init__(
            f"task pool is full: {queue} holds {depth} of {limit} waiting tasks{where}; nothing was stored",
            queue=queue,
            depth=depth,
            limit=limit,
        )


class ShuttingDown(Refusal):
    code, title = "shutting_down", "The gateway is shutting down"
    retryable, retry_after_seconds = True, 1

    def __init__(self) -> None:
        super().__init__("task pool is closed: this gateway is draining; ask another, or again soon")


class StoreUnavailable(Refusal):
    code, title = "store_unavailable", "Redis is away"
    retryable, retry_after_seconds = True, 1

    def __init__(
        self, detail: str = "Redis did not answer; the request may or may not have taken effect, repeat it"
    ) -> None:
        super().__init__(detail)


class NotReplicated(StoreUnavailable):
    """DURABILITY=replicated: Redis did it, but no replica confirmed it in time, so it may yet be lost.

    outcome: what it did, for who would rather undo it.
    """

    code, title = "not_replicated", "No replica of Redis has it yet"

    def __init__(self, outcome: object = None) -> None:
        super().__init__("Redis did this, but no replica confirmed it in time: it may yet be lost. Repeat the request")
        self.outcome = outcome


class Overloaded(Refusal):
    code, title = "overloaded", "Too many large requests at once"
    retryable, retry_after_seconds = True, 2

    def __init__(self) -> None:
        super().__init__("large bodies wait for their turn here, and this one waited too long; send it again, or less")


class StoreFull(Refusal):
    code, title = "store_full", "Redis is full"
    retryable, retry_after_seconds = True, 5

    def __init__(self, *, partly: bool = False) -> None:
        what = "a part of the batch may be stored, repeat it with the same key" if partly else "nothing was stored"
        super().__init__(f"Redis reached its maxmemory; {what}. Reports of workers still work")
