"""The soak in short, and whether its judgement finds what it is for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.soak import flat, leftovers
from tests.soak.__main__ import verdict
from tests.soak.ledger import Ledger, balance
from tests.soak.report import markdown
from tests.soak.samples import Sample, Usage
from tests.soak.soak import Plan, run

_ROOT = Path(__file__).parents[1]
_MIB = 1024 * 1024


async def test_some_seconds_of_mixed_load_lose_nothing_and_leave_named_keys_only(tmp_path: Path) -> None:
    plan = Plan(
        seconds=4, rate=100, folder=tmp_path / "soak", source=_ROOT, sample_seconds=1, retention_seconds=10,
        await_expiry=False,
    )  # fmt: skip
    outcome = await run(plan)
    assert outcome.violations == []
    assert len(outcome.samples) >= 2
    assert outcome.ended + outcome.unseen >= outcome.acknowledged > 0
    # Every kind of load was there.
    for name in ("accepted completed", "accepted failed", "abandoned", "hung up", "heartbeats", "release: 200"):
        assert outcome.counts.get(name), f"{name}: {outcome.counts}"
    assert "Violations: 0." in markdown(plan, outcome)


@pytest.mark.parametrize("seen_before", [True, False], ids=["its end was seen", "its end was not seen"])
@pytest.mark.parametrize("quick_worker", [True, False], ids=["report first", "answer first"])
def test_a_task_that_was_sent_back_is_open_until_its_second_end(seen_before: bool, quick_worker: bool) -> None:
    """A worker's report may be answered before the request that sent the task back is."""
    ledger = Ledger()
    ledger.stored("a")
    if seen_before:
        ledger.seen("a", "failed")
    if quick_worker:
        ledger.reported("a", "completed")
        ledger.reopened("a")
    else:
        ledger.reopened("a")
        assert "a" in ledger.open
        ledger.reported("a", "completed")
    assert not ledger.open
    assert (ledger.acknowledged, ledger.sent_back) == (1, 1)
    assert ledger.ended == (1 if not (seen_before or quick_worker) else 2), "what nobody saw was not counted"


def samples(number: int, tasks: int, leak: dict[str, float], *, noise: float = 0.03) -> list[Sample]:
    """Make up a run of `number` samples and so many tasks. leak: what is kept of each task: bytes, files, keys, ms."""
    rng = random.Random(1)
    made = []

    def swing() -> float:
        return rng.uniform(1 - noise, 1 + noise)

    for one in range(number):
        done = tasks * one // number
        cpu_seconds = done * 0.002 + leak.get("cpu", 0) * done * done / 2
        usage = Usage(
            round(50 * _MIB * swing() + leak.get("gateway", 0) * done / 2),
            round(50 * swing() + leak.get("files", 0) * done), cpu_seconds,
        )  # fmt: skip
        late = 1 + leak.get("late", 0) * done
        made.append(
            Sample(
                seconds=5.0 * one,
                gateways=[usage, usage],
                redis=Usage(10 * _MIB, 20, done * 0.001),
                used_memory_bytes=round(6 * _MIB * swing() + leak.get("redis", 0) * done),
                redis_keys=round(3000 * swing() + leak.get("keys", 0) * done),
                redis_clients=20,
                client_memory_bytes=1,
                load_average=1,
                acknowledged=done,
                ended=done,
                open=1,
                pending=1,
                scheduled=1,
                processing=1,
                post_ms=(2 * late * swing(), 9 * late * swing()),
                dispatch_ms=(3 * swing(), 9 * swing()),
                control_ms=(1 * swing(), 3 * swing()),
            )
        )
    return made


def verdicts(made: list[Sample]) -> dict[str, str]:
    """Judge; by name."""
    return {one.name: one.verdict for one in flat.judge(made)}


def test_what_only_swings_is_flat() -> None:
    assert set(verdicts(samples(480, 240_000, {})).values()) == {"flat"}


@pytest.mark.parametrize(
    ("leak", "per_task", "names"),
    [
        ("gateway", 64, ["gateway 1: memory", "gateway 2: memory"]),
        ("gateway", 40, ["gateway 1: memory", "gateway 2: memory"]),  # as closed connections once did
        ("files", 0.0005, ["gateway 1: open files"]),
        ("redis", 64, ["Redis: used_memory"]),
        ("keys", 0.01, ["Redis: keys"]),
        ("cpu", 5e-9, ["gateways: CPU per task"]),
        ("late", 2e-5, ["post p50 / control p50", "post p99 / control p99"]),
    ],
)
def test_a_little_kept_of_each_task_grows(leak: str, per_task: float, names: list[str]) -> None:
    found = verdicts(samples(480, 240_000, {leak: per_task}))
    assert {name for name in names if found[name] != "grows"} == set()


def test_a_run_too_short_for_a_verdict_says_so() -> None:
    assert set(verdicts(samples(12, 600, {"gateway": 64})).values()) == {"too short to tell"}


@pytest.mark.parametrize(
    ("minutes", "violations", "made", "code"),
    [
        (60, [], (200, 200_000, {}), 0),
        (60, [], (200, 200_000, {"gateway": 64}), 1),
        (60, ["lost"], (200, 200_000, {}), 1),
        (0.5, [], (12, 600, {}), 0),
        (10, [], (12, 600, {}), 2),
        (10, ["lost"], (12, 600, {}), 1),
        (10, [], None, 2),
        (0.5, [], None, 0),
    ],
)
def test_a_long_run_that_tells_nothing_is_no_success(
    minutes: float, violations: list[str], made: tuple[int, int, dict[str, float]] | None, code: int
) -> None:
    series = flat.judge(samples(*made)) if made else []
    assert verdict(minutes, violations, series)[0] == code


def test_a_few_wild_samples_are_no_growth() -> None:
    values = [1.0] * 90 + [50.0] * 10
    assert flat.growth([float(number) for number in range(100)], values) == 0


def test_books_that_do_not_agree_are_told() -> None:
    ledger = Ledger()
    for task in ("a", "b", "c"):
        ledger.stored(task)
    ledger.reported("a", "completed")
    ledger.reported("b", "failed")
    assert set(ledger.open) == {"c"}
    assert balance(ledger, [{"enqueued": 3, "completed": 2, "failed": 1}]) == []
    (lost,) = balance(ledger, [{"enqueued": 2, "completed": 1, "failed": 1}])
    assert "3 tasks acknowledged" in lost
    (stuck,) = balance(ledger, [{"enqueued": 3, "completed": 1, "failed": 1}])
    assert "3 lives begun" in stuck
    (twice,) = balance(ledger, [{"enqueued": 3, "failed": 1, "cancelled": 2}])
    assert "1 answers said completed" in twice


def test_a_task_that_ends_before_its_producer_hears_of_it_is_no_longer_open() -> None:
    ledger = Ledger()
    ledger.reported("a", "completed")
    ledger.stored("a")
    assert (ledger.open, ledger.ended) == ({}, 1)


async def test_only_named_keys_may_stay(redis: Redis) -> None:
    await redis.set("tg:{default:mail}:totals", 1)
    await redis.set("tg:{schema}", 1)
    await redis.set("tg:{default:mail}:poll:w1 p1", 1, ex=60)
    await redis.zadd("tg:{default:mail}:completed", {"x": 0})
    await redis.set("arq:job:{default:mail}1", 1)
    found = await leftovers.look(redis)
    assert sorted(found.named) == ["tg:{default:mail}:totals", "tg:{schema}"]
    assert found.mortal == ["tg:{default:mail}:poll:w1 p1"]
    assert sorted(found.strange) == ["arq:job:{default:mail}1", "tg:{default:mail}:completed"]
