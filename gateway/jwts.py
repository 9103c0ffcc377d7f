"""Verifies JSON Web Tokens, by RFC 8725: the algorithm is fixed by the key and never taken from the token, `exp` is
required, and no header of a token (`jku`, `x5u`, `jwk`) makes us fetch or trust anything.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import jwt
import msgspec
from jwt.exceptions import PyJWTError

from gateway.config import ConfigError
from gateway.errors import IdentityUnavailable, InvalidToken
from gateway.identity import DEFAULT_SCOPES, SCOPES, Identity, valid_pattern
from gateway.tasks import DEFAULT_TENANT, TENANT

log = logging.getLogger("gateway.identity")
LONGEST_TOKEN = 8192
_LEEWAY_SECONDS = 10
_REFRESH_SECONDS = 60.0
_REFRESH_AT_MOST_EVERY_SECONDS = 10.0
_KEEP_STALE_SECONDS = 86_400.0
_FETCH_SECONDS = 5
_MOST_BYTES = 1024 * 1024
_SHORTEST_RSA_BITS = 2048
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_Keys = dict[str, tuple[Any, str]]


class JwtRules(msgspec.Struct, frozen=True):
    """Which tokens are accepted. secret: HS256; jwks_file or jwks_url: RS256, ES256, EdDSA by the key's type."""

    secret: str | None = None
    jwks_file: str | None = None
    jwks_url: str | None = None
    issuer: str | None = None
    audience: str | None = None

    @property
    def given(self) -> bool:
        """Whether any key is configured."""
        return bool(self.secret or self.jwks_file or self.jwks_url)


class JwtVerifier:
    """Verifies tokens by a secret, or by the keys of a JWKS. Raises ConfigError for a file without a usable key."""

    def __init__(self, rules: JwtRules) -> None:
        self._rules = rules
        self._keys: _Keys = {}
        self._loaded_at = float("-inf")
        self._asked_at = float("-inf")
        self._loading = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        if rules.jwks_file is not None:
            self._keys = _file_keys(rules.jwks_file)
            self._loaded_at = time.monotonic()

    async def identify(self, token: str) -> tuple[Identity, float]:
        """Verify a token. Returns who it names and when it ends (unix seconds). Raises InvalidToken,
        IdentityUnavailable (the keys cannot be had)."""
        if len(token) > LONGEST_TOKEN:
            raise InvalidToken()
        header, claims = _parts(token)
        key, algorithm = await self._key(header)
        required = ["exp"] + ["iss"] * bool(self._rules.issuer) + ["aud"] * bool(self._rules.audience)
        try:
            jwt.decode(
                token, key, algorithms=[algorithm], issuer=self._rules.issuer, audience=self._rules.audience,
                leeway=_LEEWAY_SECONDS, options={"require": required, "verify_aud": self._rules.audience is not None},
            )  # fmt: skip
        except (PyJWTError, ValueError, TypeError, OverflowError):
            raise InvalidToken() from None
        return _identity_of(claims), float(claims["exp"])

    async def _key(self, header: dict[str, Any]) -> tuple[Any, str]:
        if header.get("alg") == "HS256" and self._rules.secret is not None:
            return self._rules.secret, "HS256"
        kid = header.get("kid", "")
        if not isinstance(kid, str) or not (self._rules.jwks_file or self._rules.jwks_url):
            raise InvalidToken()
        age = time.monotonic() - self._loaded_at
        if not self._keys or age > _KEEP_STALE_SECONDS or self._chosen(kid) is None:
            await self._refresh()
        elif age > _REFRESH_SECONDS and self._refreshing is None:
            # The keys at hand serve while new ones are fetched.
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        if time.monotonic() - self._loaded_at > _KEEP_STALE_SECONDS:
            raise IdentityUnavailable()
        found = self._chosen(kid)
        if found is None or header.get("alg") != found[1]:
            raise InvalidToken()
        return found

    def _chosen(self, kid: str) -> tuple[Any, str] | None:
        if not kid and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _refresh(self) -> None:
        """Read the keys again, at most every ten seconds whatever tokens ask for. Old keys stay while that fails."""
        async with self._loading:
            if time.monotonic() - self._asked_at < _REFRESH_AT_MOST_EVERY_SECONDS:
                return
            self._asked_at = time.monotonic()
            try:
                if self._rules.jwks_file is not None:
                    self._keys = await asyncio.to_thread(_file_keys, self._rules.jwks_file)
                elif self._rules.jwks_url is not None:
                    self._keys = await asyncio.to_thread(_fetch_keys, self._rules.jwks_url)
                self._loaded_at = time.monotonic()
            except (OSError, ValueError, ConfigError) as error:
                log.warning("could not read the JWKS", extra={"error": str(error)[:200]})

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A token's header and claims, unverified. Raises InvalidToken for what is not one strict compact form."""
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise InvalidToken()
    header, claims = _object(match[1]), _object(match[2])
    _decoded(match[3])
    if any(name in header for name in ("crit", "b64", "zip")):
        raise InvalidToken()
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise InvalidToken()
    for name in ("exp", "nbf", "iat"):
        moment = claims.get(name, 0)
        if isinstance(moment, bool) or not isinstance(moment, int | float) or not 0 <= moment < 2**40:
            raise InvalidToken()
    return header, claims


def _decoded(segment: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (binascii.Error, ValueError):
        raise InvalidToken() from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != segment:
        raise InvalidToken()
    return raw


def _object(segment: str) -> dict[str, Any]:
    try:
        found = json.loads(_decoded(segment), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidToken() from None
    if not isinstance(found, dict):
        raise InvalidToken()
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands there twice")
    return found


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


def _identity_of(claims: dict[str, Any]) -> Identity:
    tenant = claims.get("tenant", DEFAULT_TENANT)
    subject = claims.get("sub", "")
    if not isinstance(tenant, str) or not TENANT.fullmatch(tenant) or not isinstance(subject, str):
        raise InvalidToken()
    try:
        subject.encode()
    except UnicodeEncodeError:
        # Half of a pair: a name that no log could hold.
        raise InvalidToken() from None
    scope = claims.get("scope", claims.get("scopes"))
    if scope is None:
        scopes = DEFAULT_SCOPES
    elif isinstance(scope, str):
        scopes = frozenset(scope.split())
    elif isinstance(scope, list) and all(isinstance(one, str) for one in scope):
        scopes = frozenset(scope)
    else:
        raise InvalidToken()
    job_types = claims.get("job_types")
    if job_types is None:
        return Identity(tenant, subject[:200], scopes & frozenset(SCOPES))
    if not isinstance(job_types, list) or not job_types:
        raise InvalidToken()
    if not all(isinstance(one, str) and valid_pattern(one) for one in job_types):
        raise InvalidToken()
    return Identity(tenant, subject[:200], scopes & frozenset(SCOPES), tuple(job_types))


def _read_keys(raw: bytes) -> _Keys:
    """Read a JWKS: signature keys of types we know, by `kid`. Raises ConfigError when there is none."""
    try:
        entries = json.loads(raw)["keys"]
        found: _Keys = {}
        for entry in entries:
            algorithm = _ALGORITHMS.get(entry.get("kty", ""))
            if algorithm is None or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
                continue
            key = jwt.PyJWK(entry, algorithm=algorithm).key
            if entry["kty"] == "RSA" and getattr(key, "key_size", 0) < _SHORTEST_RSA_BITS:
                raise ConfigError(f"a key of the JWKS is an RSA key of less than {_SHORTEST_RSA_BITS} bits")
            found[str(entry.get("kid", ""))] = (key, algorithm)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PyJWTError) as error:
        raise ConfigError(f"the JWKS cannot be read: {error}") from error
    if not found:
        raise ConfigError("the JWKS has no RS256, ES256 or EdDSA signature key")
    return found


def _file_keys(path: str) -> _Keys:
    try:
        return _read_keys(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"JWKS_FILE cannot be read: {error.strerror or error}") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _fetch_keys(url: str) -> _Keys:
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - https or loopback, see config
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(request, timeout=_FETCH_SECONDS) as reply:
        return _read_keys(reply.read(_MOST_BYTES))
