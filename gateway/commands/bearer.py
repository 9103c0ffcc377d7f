"""Which token commands send. It is no argument: other users of the machine could read it in the list of processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values

from gateway.commands.output import USAGE, fail

TokenFile = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        envvar="GATEWAY_TOKEN_FILE",
        help="File with the token or API key to send.",
        show_default="GATEWAY_TOKEN, also of .env",
    ),
]
_ENV_FILE = Path(".env")


def token_of(token_file: str | None) -> str | None:
    """The token to send; None: there is none. token_file: wins over GATEWAY_TOKEN, which wins over .env."""
    if token_file is not None:
        try:
            return _checked(Path(token_file).read_text().strip(), token_file)
        except (OSError, UnicodeDecodeError) as error:
            fail(f"cannot read the token file {token_file}: {getattr(error, 'strerror', None) or error}", USAGE)
    given, where = os.environ.get("GATEWAY_TOKEN", "").strip(), "GATEWAY_TOKEN"
    if not given and _ENV_FILE.is_file():
        found = dotenv_values(_ENV_FILE, interpolate=False).get("GATEWAY_TOKEN")
        given, where = (found or "").strip(), ".env's GATEWAY_TOKEN"
    return _checked(given, where) if given else None


def _checked(token: str, where: str) -> str:
    # Never repeated in a message: it is a secret, however wrong.
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        fail(f"what {where} holds is no token: a token is one line without spaces", USAGE)
    return token
