"""The API's own description: /openapi.json and a page to read it."""

from __future__ import annotations

from gateway.api.endpoint import Call, Reply
from gateway.config import Settings


class Docs:
    """Handlers for /openapi.json and /docs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def openapi(self, call: Call) -> Reply:
        """GET /openapi.json. 200."""
        return Reply(200, b"{}")

    async def page(self, call: Call) -> Reply:
        """GET /docs. 200."""
        return Reply(200, b"")
