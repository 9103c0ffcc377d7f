"""Whether a series of samples is flat: robust slopes, bounds that follow from the run's length, pictures in text."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence

import msgspec

from tests.soak.samples import Sample

_MIB = 1024 * 1024
_BARS = "▁▂▃▄▅▆▇█"
_BUCKETS = 24
# The first quarter fills caches, pools, allocators and the tasks that are kept.
WARM_UP = 0.25
# The smallest thing that could be kept of each task: a Python object in a set or dict; an entry in a Redis set.
_PYTHON_OBJECT_BYTES = 64
_REDIS_ENTRY_BYTES = 64


class Series(msgspec.Struct, frozen=True):
    """One quantity over the run after warm-up. allowed: growth over that time that is no leak. short: too few tasks
    passed for the smallest leak (one object, file or key per so many tasks) to be larger than `allowed`.
    """

    name: str
    unit: str
    values: list[float]
    growth: float
    allowed: float
    short: bool

    @property
    def verdict(self) -> str:
        """`flat`, `grows`, or `too short to tell`."""
        if self.short:
            return "too short to tell"
        return "flat" if self.growth <= self.allowed else "grows"


def judge(samples: Sequence[Sample]) -> list[Series]:
    """Judge every quantity that must be flat, in the samples after warm-up."""
    rest = samples[int(len(samples) * WARM_UP) :]
    if len(rest) < 2:
        return []
    tasks = rest[-1].ended - rest[0].ended
    found: list[Series] = []

    def add(
        name: str, unit: str, value: Callable[[Sample], float | None], allowed: float | None = None, *,
        smallest_leak: float = 0.0, relative: float | None = None,
    ) -> None:  # fmt: skip
        points = [(one.seconds, point) for one in rest if (point := value(one)) is not None]
        if len(points) < 2:
            return
        seconds, values = [point[0] for point in points], [point[1] for point in points]
        bound = allowed if relative is None else relative * statistics.median(values[: max(1, len(values) // 5)])
        assert bound is not None
        short = smallest_leak <= bound if relative is None else len(points) < 60
        found.append(Series(name, unit, values, growth(seconds, values), bound, short))

    # An eighth of what one object per task would take, for what is kept of one task in eight, or of a connection; and a
    # MiB for allocators, which never give everything back.
    per_gateway = tasks / len(rest[0].gateways)
    for number in range(len(rest[0].gateways)):
        add(
            f"gateway {number + 1}: memory", "MiB", lambda one, n=number: one.gateways[n].memory_bytes / _MIB,
            1 + per_gateway * _PYTHON_OBJECT_BYTES / 8 / _MIB,
            smallest_leak=per_gateway * _PYTHON_OBJECT_BYTES / _MIB,
        )  # fmt: skip
        # One file kept of a thousand tasks; open polls and connections come and go.
        add(
            f"gateway {number + 1}: open files", "", lambda one, n=number: one.gateways[n].open_files, 8,
            smallest_leak=per_gateway / 1000,
        )  # fmt: skip
    add(
        "Redis: used_memory", "MiB", lambda one: one.used_memory_bytes / _MIB,
        1 + tasks * _REDIS_ENTRY_BYTES / 4 / _MIB, smallest_leak=tasks * _REDIS_ENTRY_BYTES / _MIB,
    )  # fmt: skip
    add(
        "Redis: memory", "MiB", lambda one: one.redis.memory_bytes / _MIB,
        4 + tasks * _REDIS_ENTRY_BYTES / 4 / _MIB, smallest_leak=tasks * _REDIS_ENTRY_BYTES / _MIB,
    )  # fmt: skip
    # One key kept of a hundred tasks.
    add("Redis: keys", "", lambda one: one.redis_keys, 300, smallest_leak=tasks / 100)
    add("Redis: clients", "", lambda one: one.redis_clients, 4, smallest_leak=tasks / 1000)
    # CPU per task does not wait for others' turns: it is what latency would be on a machine of our own.
    for name, spent in (
        ("gateways: CPU per task", lambda one: sum(usage.cpu_seconds for usage in one.gateways)),
        ("Redis: CPU per task", lambda one: one.redis.cpu_seconds),
    ):
        costs = _per_task(rest, spent)
        add(name, "ms", lambda one, costs=costs: costs.get(one.seconds), relative=0.3)
    for what in ("post", "dispatch"):
        for place, label, share in ((0, "p50", 0.5), (1, "p99", 1.0)):
            add(f"{what} {label} / control {label}", "", lambda one, w=what, p=place: _ratio(one, w, p), relative=share)
    return found


def shown(samples: Sequence[Sample]) -> list[tuple[str, str, list[float]]]:
    """Name what is shown beside the judged: latencies as they were, depths, the machine."""
    rest = samples[int(len(samples) * WARM_UP) :]
    rows: list[tuple[str, str, Callable[[Sample], float | None]]] = []
    for what in ("post", "dispatch", "control"):
        for place, label in ((0, "p50"), (1, "p99")):
            rows.append((f"{what} {label}", "ms", lambda one, w=what, p=place: getattr(one, f"{w}_ms")[p]))
    rows += [
        ("tasks under way", "", lambda one: one.open),
        ("pending", "", lambda one: one.pending),
        ("processing", "", lambda one: one.processing),
        ("load average", "", lambda one: one.load_average),
    ]
    return [(name, unit, [v for one in rest if (v := value(one)) is not None]) for name, unit, value in rows]


def growth(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Say by how much a series grows from its first to its last point, by the median of all slopes between two points.

    A few wild points move it not at all (Theil and Sen).
    """
    slopes = [
        (values[j] - values[i]) / (seconds[j] - seconds[i])
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if seconds[j] > seconds[i]
    ]
    return statistics.median(slopes) * (seconds[-1] - seconds[0]) if slopes else 0.0


def sparkline(values: Sequence[float]) -> str:
    """Draw a series in a few characters: medians of equal stretches, from its least to its greatest."""
    if not values:
        return ""
    count = min(_BUCKETS, len(values))
    edges = [round(number * len(values) / count) for number in range(count + 1)]
    middles = [statistics.median(values[start:end]) for start, end in itertools.pairwise(edges)]
    low, high = min(middles), max(middles)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((middle - low) * scale)] for middle in middles)


def _ratio(one: Sample, what: str, place: int) -> float | None:
    value, control = getattr(one, f"{what}_ms")[place], one.control_ms[place]
    return value / control if value is not None and control else None


def _per_task(samples: Sequence[Sample], spent: Callable[[Sample], float]) -> dict[float, float]:
    """CPU ms per task that ended, between each sample and the one before, by the sample's time."""
    costs = {}
    for before, after in itertools.pairwise(samples):
        if after.ended > before.ended:
            costs[after.seconds] = (spent(after) - spent(before)) * 1000 / (after.ended - before.ended)
    return costs
