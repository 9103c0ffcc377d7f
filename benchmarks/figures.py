"""What a benchmark found: rows of values, one per round, and the goals they are held against."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """A bound on a row's median. stretch: the stricter bound that a later milestone asks for."""

    direction: Literal["at least", "at most"]
    bound: float
    stretch: float | None = None

    def reached_by(self, value: float) -> bool:
        """Whether a median keeps the bound."""
        return value >= self.bound if self.direction == "at least" else value <= self.bound

    def __str__(self) -> str:
        later = "" if self.stretch is None else f" (later {_spell(self.stretch)})"
        return f"{self.direction} {_spell(self.bound)}{later}"


def at_least(bound: float, stretch: float | None = None) -> Goal:
    """A goal that bigger values reach."""
    return Goal("at least", bound, stretch)


def at_most(bound: float, stretch: float | None = None) -> Goal:
    """A goal that smaller values reach."""
    return Goal("at most", bound, stretch)


@dataclass(frozen=True)
class Row:
    """One figure of a benchmark. values: one per round, in `unit`."""

    what: str
    unit: str
    values: list[float]
    goal: Goal | None = None

    def cells(self) -> list[str]:
        """what, median with unit, range, goal, whether it was reached."""
        median = statistics.median(self.values)
        reached = "" if self.goal is None else ("yes" if self.goal.reached_by(median) else "NO")
        extent = f"{_spell(min(self.values))} .. {_spell(max(self.values))}"
        return [self.what, f"{_spell(median)} {self.unit}".strip(), extent, str(self.goal or ""), reached]


@dataclass
class Findings:
    """Everything that one benchmark found.

    rows: what the table shows. raw: every measurement as it was made, for the results file. problems: errors,
    duplicates and complaints in a server's log, in words.
    """

    rows: list[Row] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def ratios(upper: list[float], lower: list[float]) -> list[float]:
    """Each round's own ratio: a machine that is slow for a while is slow for both."""
    return [one / other for one, other in zip(upper, lower, strict=True)]


def _spell(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
