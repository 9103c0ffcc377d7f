"""`gateway token`: a JSON Web Token for development, signed with the gateway's own secret."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from gateway.commands.client import settings
from gateway.commands.output import USAGE, fail, say
from gateway.identity import SCOPES, valid_pattern
from gateway.tasks import TENANT

_HOUR_SECONDS = 3600


def token(
    tenant: Annotated[str | None, typer.Option(help="Its tenant.", show_default="default")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="tasks:write, tasks:read, work or admin; may be repeated.", show_default="all but admin"),
    ] = None,
    job_type: Annotated[
        list[str] | None, typer.Option(help="Only these: a name, or prefix.*; may be repeated.")
    ] = None,
    expires_in: Annotated[float, typer.Option(min=1, help="Seconds until it ends.")] = _HOUR_SECONDS,
    subject: Annotated[str, typer.Option(help="Who it names: `sub`, for the audit log.")] = "developer",
) -> None:
    """Print a token for development, signed with JWT_SECRET. `GATEWAY_TOKEN=$(gateway token)` hands it to commands."""
    chosen = settings()
    if chosen.jwt_secret is None:
        fail(
            "JWT_SECRET is not set (in the environment or .env), so there is nothing to sign a token with. Next: "
            "`openssl rand -base64 32` makes one; with API_KEYS=true take `gateway keys create`; tokens of a JWKS come "
            "from their issuer",
            USAGE,
        )
    for one in scope or []:
        if one not in SCOPES:
            fail(f"--scope {one}: there is no such scope; there are {', '.join(SCOPES)}", USAGE)
    for one in job_type or []:
        if not valid_pattern(one):
            fail(f"--job-type {one}: give a job_type, or a prefix and *", USAGE)
    if tenant is not None and not TENANT.fullmatch(tenant):
        fail(f"--tenant {tenant}: give 1 to 64 letters, digits and . _ -", USAGE)
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": subject, "iat": now, "exp": now + max(1, round(expires_in)), "tenant": tenant,
        "scope": " ".join(scope) if scope else None, "job_types": job_type or None, "iss": chosen.jwt_issuer,
        "aud": chosen.jwt_audience,
    }  # fmt: skip
    import jwt

    given = {name: value for name, value in claims.items() if value is not None}
    say(jwt.encode(given, chosen.jwt_secret, algorithm="HS256"))
