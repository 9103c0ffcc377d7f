"""A broken promise, as the checker tells it."""

from __future__ import annotations

import msgspec


class Violation(msgspec.Struct, frozen=True):
    """kind: a short name; task: whose, where it is one task's."""

    kind: str
    task: str
    detail: str
