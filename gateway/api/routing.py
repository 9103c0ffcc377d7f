"""Finds a route in two dictionary look-ups, however many there are.

Every path of ours is fixed words with at most one variable, in second place: `/tasks/{id}/complete`.
"""

from __future__ import annotations

from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from gateway.api.endpoint import Call, Endpoint, Handler, Reply
from gateway.api.guard import Guard
from gateway.errors import MethodNotAllowed, RouteNotFound

_JOBS = ["api", "v1", "jobs"]


class Router:
    """An ASGI application over a table of (methods, path, endpoint)."""

    def __init__(self, routes: list[tuple[str, str, Endpoint]], guard: Guard) -> None:
        self._guard = guard
        self._not_found = Endpoint("none", _refusing(RouteNotFound()), _ignore, guard)
        self._table: dict[tuple[str, ...], dict[str, Endpoint]] = {}
        for methods, path, endpoint in routes:
            words = tuple("{}" if word.startswith("{") else word for word in path.split("/")[1:])
            for method in methods.split():
                self._table.setdefault(words, {})[method] = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path", b"")
        if b"%" in raw:
            # A percent-encoded slash is part of its word, never another route.
            words = [unquote(word, errors="replace") for word in raw.decode("ascii").split("/")[1:]]
        else:
            words = scope["path"].split("/")[1:]
        jobs = words[:3] == _JOBS
        if jobs:
            words[:3] = ["tasks"]
        methods = self._table.get(tuple(words))
        id = ""
        if methods is None and len(words) > 1 and words[1]:
            id, words[1] = words[1], "{}"
            methods = self._table.get(tuple(words))
        if methods is None:
            await self._not_found(scope, receive, send)
            return
        endpoint = methods.get(scope["method"])
        if endpoint is None:
            allowed = ", ".join(sorted(methods))
            answer: Handler = _refusing(MethodNotAllowed(allowed))
            if scope["method"] == "OPTIONS":
                headers = self._guard.preflight(dict(scope["headers"]), allowed)
                answer = answer if headers is None else _answering(Reply(204, b"", headers))
            await Endpoint("none", answer, _ignore, self._guard)(scope, receive, send)
            return
        await endpoint(scope, receive, send, id, jobs=jobs)


def _ignore(route: str, status: int) -> None: ...


class _refusing:
    def __init__(self, refusal: MethodNotAllowed | RouteNotFound) -> None:
        self._refusal = refusal

    async def __call__(self, call: Call) -> Reply:
        raise self._refusal


class _answering:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def __call__(self, call: Call) -> Reply:
        call.extra = ()
        return self._reply
