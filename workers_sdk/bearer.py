"""The token that requests carry, and how it changes while a program runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

Token = str | Callable[[], str]


def from_file(path: str | Path) -> Callable[[], str]:
    """Take the token that stands in a file, and the new one whenever the file was written anew.

    Raises OSError when it cannot be read now; later the last one read is kept.
    """
    file = Path(path)
    token, known = file.read_text().strip(), file.stat().st_mtime_ns

    def current() -> str:
        nonlocal token, known
        try:
            written = file.stat().st_mtime_ns
            if written != known:
                token, known = file.read_text().strip() or token, written
        except OSError:
            pass  # it is being replaced
        return token

    return current


def chosen(token: Token | None) -> Token | None:
    """What is given; else the file that $GATEWAY_TOKEN_FILE names; else $GATEWAY_TOKEN; else none."""
    if token:
        return token
    file = os.environ.get("GATEWAY_TOKEN_FILE")
    return from_file(file) if file else os.environ.get("GATEWAY_TOKEN") or None
