"""One request and its reply over kept-alive connections. The only module that knows the HTTP library.

Nothing is repeated here: who asks knows whether a repetition is safe.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any
from urllib.request import getproxies

import aiohttp
import msgspec

from workers_sdk.bearer import Token, chosen
from workers_sdk.errors import GatewayError, Unreachable, refusal

DEFAULT_URL = "http://127.0.0.1:8080"
_CONNECT_SECONDS = 5.0
# Less than the gateway keeps an idle connection: a request sent into a closing one would be lost.
_IDLE_SECONDS = 4.0
# aiohttp wants larger bodies as files; the gateway refuses them anyhow.
_LARGE_BYTES = 1 << 20
_JSON = {"content-type": "application/json"}
_problem = msgspec.json.Decoder(dict[str, Any])


class Reply(msgspec.Struct, frozen=True):
    """A reply. headers: names in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def retry_after_seconds(self) -> float | None:
        """The Retry-After header, where it is a number."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdecimal() else None

    def error(self) -> GatewayError:
        """What this reply refuses, as an error."""
        try:
            problem = _problem.decode(self.body)
        except msgspec.DecodeError:
            problem = {}
        return refusal(self.status, problem, self.retry_after_seconds())


class Transport:
    """Connections to one gateway. url: without it $GATEWAY_URL, then port 8080 here; token: a bearer token, or a
    function that returns it, asked before each request. Use it in one event loop, and close it there."""

    def __init__(self, url: str | None = None, token: Token | None = None) -> None:
        self.url = (url or os.environ.get("GATEWAY_URL") or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url} is no http or https address, such as {DEFAULT_URL}")
        self._token = chosen(token)
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
    ) -> Reply:
        """Send one request and read its whole reply, whatever its status. body: JSON text.

        A token that was renewed while its last one was refused is tried at once.
        Raises Unreachable when no whole reply came within `timeout_seconds`.
        """
        token = self._current_token()
        reply = await self._request(method, path, body, headers, token, timeout_seconds)
        if reply.status == 401 and self._current_token() != token:
            # Nothing was done for who was not known.
            reply = await self._request(method, path, body, headers, self._current_token(), timeout_seconds)
        return reply

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        token: str | None,
        timeout_seconds: float,
    ) -> Reply:
        if self._session is None:
            # No bound on connections: the callers bound themselves, and a long poll must not keep a heartbeat waiting.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                # Looking for a proxy costs each request a hop to another thread.
                trust_env=bool(getproxies()),
            )
        sent = {**_JSON, **(headers or {})} if body is not None else {**(headers or {})}
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        data = io.BytesIO(body) if body is not None and len(body) > _LARGE_BYTES else body
        limits = aiohttp.ClientTimeout(total=timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        try:
            async with self._session.request(
                method, self.url + path, data=data, headers=sent, timeout=limits, allow_redirects=False
            ) as reply:
                return Reply(reply.status, reply.headers, await reply.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(f"no connection to {self.url}: {error}", sent=False) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or f"nothing came within {timeout_seconds:g} s"
            raise Unreachable(f"no reply from {self.url}: {reason}", sent=True) from error

    def _current_token(self) -> str | None:
        if self._token is None or isinstance(self._token, str):
            return self._token
        try:
            return self._token().strip()
        except Exception as error:  # the caller's own function: it may do anything
            raise Unreachable(f"no token could be had: {type(error).__name__}", sent=False) from error

    async def close(self) -> None:
        """Drop all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
