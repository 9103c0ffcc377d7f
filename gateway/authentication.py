"""Finds out who asks: the Authorization header into an identity. Source: protocol, "Who may do what"."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gateway.errors import InvalidToken, Unauthenticated
from gateway.identity import ANYBODY, KEY_PREFIX, Identity
from gateway.jwts import LONGEST_TOKEN, JwtVerifier

_MOST_CACHED = 10_000
_JWT_SECONDS = 60.0
# A revoked key is refused by every gateway this much later at the latest.
_KEY_SECONDS = 2.0


class Authenticator:
    """Finds out who asks. jwts, find_key: None where not configured; without both, anybody may do everything.

    find_key: looks an API key up (store/api_keys.py); returns its identity and when it ends (unix seconds), or None.
    """

    def __init__(
        self,
        jwts: JwtVerifier | None = None,
        find_key: Callable[[str], Awaitable[tuple[Identity, float] | None]] | None = None,
    ) -> None:
        self.open = jwts is None and find_key is None
        self._jwts = jwts
        self._find_key = find_key
        self._known: dict[bytes, tuple[Identity, float]] = {}

    def known(self, authorization: bytes | None) -> Identity | None:
        """Who that was, if it was asked a moment ago."""
        if self.open:
            return ANYBODY
        if authorization is None:
            return None
        found = self._known.get(authorization)
        return found[0] if found is not None and found[1] > time.time() else None

    async def identify(self, authorization: bytes | None) -> Identity:
        """Read an Authorization header. Raises Unauthenticated (none), InvalidToken (not one of ours),
        IdentityUnavailable, StoreUnavailable."""
        known = self.known(authorization)
        if known is not None:
            return known
        if authorization is None:
            raise Unauthenticated()
        scheme, _, rest = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthenticated()
        token = rest.strip()
        if not token.isascii() or len(token) > LONGEST_TOKEN:
            raise InvalidToken()
        identity, ends_at = await self._look_up(token.decode())
        # One spelling of each token is remembered, or one token could fill the memory with its spellings.
        if authorization == b"Bearer " + token:
            if len(self._known) >= _MOST_CACHED:
                self._known.clear()
            self._known[authorization] = (identity, ends_at)
        return identity

    async def _look_up(self, token: str) -> tuple[Identity, float]:
        now = time.time()
        if token.startswith(KEY_PREFIX):
            found = await self._find_key(token) if self._find_key is not None else None
            if found is None:
                raise InvalidToken()
            return found[0], min(found[1], now + _KEY_SECONDS)
        if self._jwts is None:
            raise InvalidToken()
        identity, ends_at = await self._jwts.identify(token)
        return identity, min(ends_at, now + _JWT_SECONDS)
