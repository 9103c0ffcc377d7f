"""RFC 3339 times on the wire, unix ms inside."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache

from gateway.errors import InvalidMember

NO_TIME = "is no RFC 3339 time with a zone, such as 2030-01-31T08:00:00Z"
_MAX_AHEAD_MS = 3660 * 86_400_000
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)


@lru_cache(maxsize=4096)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def format_time(at_ms: int) -> str:
    """Write unix ms as RFC 3339 in UTC with milliseconds."""
    second, ms = divmod(at_ms, 1000)
    return f"{_second(second)}.{ms:03d}Z"


def parse_time(text: str) -> int | None:
    """Read RFC 3339 with a zone as unix ms. None: it is none (no zone, a leap second, a day that is not, ..)."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        at = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        ms = int(((fraction or ".0") + "00")[1:4])
        return int(at.timestamp()) * 1000 + ms
    except (ValueError, OverflowError):
        return None


def parse_ahead(text: str, member: str) -> int:
    """Read a member that says when something is to be, as unix ms: past, or at most ten years ahead.

    Raises InvalidMember.
    """
    at_ms = parse_time(text)
    if at_ms is None:
        raise InvalidMember(member, NO_TIME)
    if not 0 <= at_ms <= time.time() * 1000 + _MAX_AHEAD_MS:
        raise InvalidMember(member, "is before 1970 or more than ten years ahead")
    return at_ms
