"""What a benchmark found: rows of values, one per round, and the goals they are held against."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.tables import spell


@dataclass(frozen=True)
class Goal:
    """A bound on a row's median."""

    direction: Literal["at least", "at most"]
    bound: float

    def reached_by(self, value: float) -> bool:
        """Whether a median keeps the bound."""
        return value >= self.bound if self.direction == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.direction} {spell(self.bound)}"


def at_least(bound: float) -> Goal:
    """A goal that bigger values reach."""
    return Goal("at least", bound)


def at_most(bound: float) -> Goal:
    """A goal that smaller values reach."""
    return Goal("at most", bound)


@dataclass(frozen=True)
class Row:
    """One figure of a benchmark.

    values: one per round, in `unit`. key: what the table of goals and the pictures find it by, unique in its benchmark.
    """

    what: str
    unit: str
    values: list[float]
    goal: Goal | None = None
    key: str = ""

    def cells(self) -> list[str]:
        """what, median with unit, range, goal, whether it was reached."""
        median = statistics.median(self.values)
        reached = "" if self.goal is None else ("yes" if self.goal.reached_by(median) else "NO")
        extent = f"{spell(min(self.values))} .. {spell(max(self.values))}"
        return [self.what, f"{spell(median)} {self.unit}".strip(), extent, str(self.goal or ""), reached]


@dataclass
class Findings:
    """Everything that one benchmark found.

    rows: what the table shows. raw: every measurement as it was made, for the results file. problems: errors,
    duplicates and complaints in a server's log, in words. took_seconds: the whole of it, servers' starts included.
    """

    rows: list[Row] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    took_seconds: float = 0.0


def ratios(upper: list[float], lower: list[float]) -> list[float]:
    """Each round's own ratio: a machine that is slow for a while is slow for both."""
    return [one / other for one, other in zip(upper, lower, strict=True)]
