"""What the gateway's refusals are raised as. `code` is the protocol's stable word: one code, one cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers_sdk.tasks import Task


class GatewayError(Exception):
    """The gateway refused a request, or could not be reached.

    status: HTTP status, 0 where no reply came. retryable: the same request may succeed later, unchanged.
    retry_after_seconds: how long to wait before, where the gateway said so. members: further facts of the problem
    document.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int = 0,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
        request_id: str = "",
        members: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.status = status
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id
        self.members = members or {}


class NotFound(GatewayError):
    """404: no such task, worker or route."""


class Conflict(GatewayError):
    """409: the task is in another state, the lease is lost, or a unique key is taken."""


class NotAllowed(GatewayError):
    """401 or 403: the token is missing, bad, or lacks a scope."""


class Unavailable(GatewayError):
    """429 or 503: too much at once, a full queue, or a gateway that drains or lost Redis. Try again later."""


class Unreachable(GatewayError):
    """No reply came. sent: the request may have reached the gateway and taken effect."""

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__("unreachable", detail, retryable=True)
        self.sent = sent


class PartlyRefused(Exception):
    """Some tasks of `enqueue_many` were not stored. results: one entry for each, in order."""

    def __init__(self, results: list[Task | GatewayError]) -> None:
        refused = [one for one in results if isinstance(one, GatewayError)]
        super().__init__(f"{len(refused)} of {len(results)} tasks were not stored; the first: {refused[0]}")
        self.results = results


_BY_STATUS: dict[int, type[GatewayError]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    429: Unavailable,
    503: Unavailable,
}
_KNOWN = {"type", "title", "status", "detail", "code", "request_id", "retryable"}


def refusal(status: int, problem: dict[str, Any], retry_after_seconds: float | None = None) -> GatewayError:
    """Build the error of a problem document (RFC 9457). One that is none of the gateway's (a proxy's) has code
    `http_<status>`."""
    return _BY_STATUS.get(status, GatewayError)(
        str(problem.get("code") or f"http_{status}"),
        str(problem.get("detail") or problem.get("title") or ""),
        status=status,
        retryable=bool(problem.get("retryable", status in (429, 502, 503, 504))),
        retry_after_seconds=retry_after_seconds,
        request_id=str(problem.get("request_id") or ""),
        members={name: value for name, value in problem.items() if name not in _KNOWN},
    )
