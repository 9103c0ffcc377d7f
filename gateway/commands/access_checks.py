"""What `gateway doctor` says of who may do what."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dotenv import dotenv_values

from gateway.commands.findings import Finding, ok, problem, warning
from gateway.config import ConfigError, Settings

_CHECK = "access"
_LEAST_VARIETY = 10
_SECRETS = ("JWT_SECRET", "REDIS_PASSWORD", "REDIS_URL", "GATEWAY_TOKEN")


def check_access(settings: Settings) -> Iterator[Finding]:
    """Look at the settings of identity, and at who can read them."""
    try:
        settings.check_exposure()
    except ConfigError as error:
        yield problem(_CHECK, str(error), "the gateway does not start like this: do one of these")
    else:
        yield from _identity(settings) if settings.authenticates() else _open(settings)
    yield from _env_file(Path(".env"))


def _open(settings: Settings) -> Iterator[Finding]:
    if settings.on_loopback():
        yield ok(_CHECK, "open: anybody on this machine may do everything; JWT_SECRET or API_KEYS=true changes that")
    else:
        yield warning(
            _CHECK, f"AUTH=none: anybody who reaches {settings.host} may do everything",
            "set JWT_SECRET or API_KEYS=true, or see that only those who may can reach it",
        )  # fmt: skip


def _identity(settings: Settings) -> Iterator[Finding]:
    keys = [
        name
        for name, value in (
            ("JWT_SECRET", settings.jwt_secret),
            ("JWKS_FILE", settings.jwks_file),
            ("JWKS_URL", settings.jwks_url),
            ("API keys", settings.api_keys or settings.jwt_secret or settings.jwks_file or settings.jwks_url),
        )
        if value
    ]
    yield ok(_CHECK, f"asks who it is: {', '.join(keys)}")
    if settings.jwt_secret is not None and len(set(settings.jwt_secret)) < _LEAST_VARIETY:
        yield warning(_CHECK, "JWT_SECRET looks as if it could be guessed", "make one with `openssl rand -base64 32`")
    if (settings.jwks_file or settings.jwks_url) and settings.jwt_audience is None:
        yield warning(
            _CHECK, "JWT_AUDIENCE is not set: tokens that the issuer made for other services are taken too",
            "set it to the `aud` that tokens for this gateway have",
        )  # fmt: skip
    if settings.jwks_file is not None:
        from gateway.jwts import JwtRules, JwtVerifier

        try:
            JwtVerifier(JwtRules(jwks_file=settings.jwks_file))
        except ConfigError as error:
            yield problem(_CHECK, str(error), "write a JWKS with a public key there, or correct JWKS_FILE")


def _env_file(file: Path) -> Iterator[Finding]:
    if not file.is_file() or not os.access(file, os.R_OK):
        return
    held = [name for name in _SECRETS if dotenv_values(file, interpolate=False).get(name)]
    if held and stat.S_IMODE(file.stat().st_mode) & 0o077:
        yield warning(_CHECK, f".env holds {', '.join(held)}, and other users can read it", "chmod 600 .env")
