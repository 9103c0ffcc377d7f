"""What `gateway doctor` found: one line a check, and what to do about it."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One check's outcome. check: what was looked at. do: the next step, where one is needed."""

    level: Level
    check: str
    text: str
    do: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", check, text)


def warning(check: str, text: str, do: str) -> Finding:
    """It works, but somebody should know."""
    return Finding("warning", check, text, do)


def problem(check: str, text: str, do: str) -> Finding:
    """It does not work, or tasks may be lost."""
    return Finding("problem", check, text, do)
