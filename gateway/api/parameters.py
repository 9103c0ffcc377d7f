"""What a request says in its query, read. None stays None; what cannot be read raises InvalidParameter."""

from __future__ import annotations

import re

from gateway.api.times import NO_TIME, parse_time
from gateway.errors import InvalidParameter
from gateway.tasks import Status


def flag(query: dict[str, list[str]], name: str) -> bool:
    """A parameter that is true or false, if it is there."""
    text = query.get(name, ["false"])[0]
    if text not in ("true", "false", "1", "0"):
        raise InvalidParameter(name, "is true or false")
    return text in ("true", "1")


def number(text: str, name: str, low: int, high: int) -> int:
    """A whole number from low to high."""
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or not low <= int(text) <= high:
        raise InvalidParameter(name, f"is a whole number from {low} to {high}")
    return int(text)


def decimal(text: str, name: str, low: float, high: float) -> float:
    """A number of seconds from low to high, fractions allowed."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text, re.ASCII) or not low <= float(text) <= high:
        raise InvalidParameter(name, f"is a number of seconds from {low:g} to {high:g}")
    return float(text)


def time(text: str | None, name: str) -> int | None:
    """RFC 3339 as unix ms."""
    if text is None:
        return None
    # A + of the zone that was not percent-encoded arrives as a space.
    at_ms = parse_time(text if "+" in text or " " not in text[19:] else text[:19] + text[19:].replace(" ", "+"))
    if at_ms is None:
        raise InvalidParameter(name, NO_TIME)
    return at_ms


def matching(text: str | None, name: str, pattern: re.Pattern[str]) -> str | None:
    """A name of this form."""
    if text is not None and not pattern.fullmatch(text):
        raise InvalidParameter(name, "has characters or a length that no such name has")
    return text


def statuses(text: str | None) -> frozenset[Status] | None:
    """`status=` of a list: names, separated by commas."""
    if text is None:
        return None
    try:
        return frozenset(Status(name) for name in text.split(","))
    except ValueError:
        raise InvalidParameter(
            "status", "is one or more of scheduled, pending, processing, retrying, completed, failed, cancelled"
        ) from None


def tag(text: str) -> tuple[str, str]:
    """`name:value`."""
    name, mark, value = text.partition(":")
    if not mark or not name:
        raise InvalidParameter("tag", "is name:value")
    return name, value
