"""Figures as readers see them: numbers with few digits, medians with their ranges, Markdown tables."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence


def spell(value: float | None) -> str:
    """A number with three digits, or whole from 100 upwards; '' for none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The median, and the least and greatest in brackets where there is more than one."""
    if not values:
        return ""
    if len(values) == 1:
        return spell(values[0])
    return f"{spell(statistics.median(values))} ({spell(min(values))} .. {spell(max(values))})"


def without_folders(words: str) -> str:
    """A message in one line with the folders of its absolute paths cut off: they are a machine's, not a reader's."""
    return re.sub(r"(?<![\w/:.])/(?:[^\s/\"':;|]+/)+", "", " ".join(words.split()))


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], align: str = "---:") -> str:
    """A Markdown table. align: of all columns but the first."""
    lines = [headings, ["---", *[align] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
