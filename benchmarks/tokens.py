"""Tokens for gateways that ask for one."""

from __future__ import annotations

import time

import jwt

SECRET = "a secret of the benchmarks, thirty-two bytes or more"


def token(tenant: str = "default") -> str:
    """A token of a tenant that may do everything for an hour."""
    claims = {"exp": int(time.time()) + 3600, "tenant": tenant, "scope": "admin", "sub": "bench"}
    return jwt.encode(claims, SECRET, "HS256")
