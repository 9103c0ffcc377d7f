"""The API's own description: /openapi.json, and a page to read it and try it. Nothing is loaded from elsewhere."""

from __future__ import annotations

from importlib import resources

import msgspec

from gateway.api import openapi
from gateway.api.endpoint import Call, Reply
from gateway.api.operations import OPERATIONS
from gateway.errors import RouteNotFound

_HTML = b"text/html; charset=utf-8"
_SCRIPT = b"text/javascript; charset=utf-8"
# Every part of the page by name: no path is ever put together from a request.
_PARTS = {
    "style.css": b"text/css; charset=utf-8",
    "icon.svg": b"image/svg+xml",
    "app.js": _SCRIPT,
    "elements.js": _SCRIPT,
    "operation.js": _SCRIPT,
    "request.js": _SCRIPT,
    "schema.js": _SCRIPT,
}
_SHIELD = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class Docs:
    """Handlers for /openapi.json and /docs. All is made once, and kept as bytes."""

    def __init__(self) -> None:
        self._openapi = Reply(200, msgspec.json.encode(openapi.document(OPERATIONS)))
        self._page = _part("index.html", _HTML)
        self._parts = {name: _part(name, media) for name, media in _PARTS.items()}

    async def openapi(self, call: Call) -> Reply:
        """GET /openapi.json. 200."""
        call.query()
        return self._openapi

    async def page(self, call: Call) -> Reply:
        """GET /docs. 200."""
        call.query()
        return self._page

    async def part(self, call: Call) -> Reply:
        """GET /docs/{name}. 200, 404."""
        call.query()
        if call.id not in self._parts:
            raise RouteNotFound()
        return self._parts[call.id]


def _part(name: str, media: bytes) -> Reply:
    body = resources.files("gateway.api").joinpath("page", name).read_bytes()
    return Reply(200, body, _SHIELD, media=(b"content-type", media))
