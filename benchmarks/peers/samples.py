"""Reads the samples of a run: by contender and measure, and round by round."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.peers.contenders import GATEWAY

BATCHED = f"{GATEWAY}, batches of 100"
OURS = (GATEWAY, f"{GATEWAY}, batches of 10", BATCHED)

Found = dict[str, Any]  # a results file
Rounds = dict[int, float]  # a value for each round


def of(found: Found, name: str, measure: str, durability: str = "always") -> list[Found]:
    """The samples of a contender."""
    wanted = (name, measure, durability)
    return [each for each in found["samples"] if (each["contender"], each["measure"], each["durability"]) == wanted]


def rates(found: Found, name: str, measure: str, durability: str = "always") -> list[float]:
    """Its jobs a second."""
    return [sample["per_second"] for sample in of(found, name, measure, durability)]


def rounds(found: Found, name: str, measure: str) -> Rounds:
    """Its jobs a second, by round."""
    return {sample["round"]: sample["per_second"] for sample in of(found, name, measure)}


def latency_rounds(found: Found, name: str, share: str) -> Rounds:
    """A percentile of its latency when idle, by round, in ms."""
    return {sample["round"]: sample["latency_ms"][share] for sample in of(found, name, "latency")}


def paired(combine: Callable[[float, float], float], one: Rounds, other: Rounds) -> Rounds:
    """Both put together, of the rounds in which both were measured."""
    return {number: combine(one[number], other[number]) for number in one.keys() & other.keys()}


def ratios(upper: Rounds, lower: Rounds) -> list[float]:
    """Each round's own ratio."""
    return list(paired(operator.truediv, upper, lower).values())


def medians(found: Found, measure: str) -> dict[str, float]:
    """Everybody's median of jobs a second."""
    values = {name: rates(found, name, measure) for name in contenders(found)}
    return {name: statistics.median(each) for name, each in values.items() if each}


def latency(found: Found, name: str) -> dict[str, float]:
    """The medians of its percentiles when idle, in ms."""
    samples = [sample["latency_ms"] for sample in of(found, name, "latency")]
    return {share: statistics.median(each[share] for each in samples) for share in samples[0]} if samples else {}


def contenders(found: Found) -> list[str]:
    """Who was measured, ourselves first."""
    seen = {sample["contender"] for sample in found["samples"]}
    return [name for name in [*OURS, *found["contenders"]] if name in seen]
