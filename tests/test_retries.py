"""How long a failed task waits. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.retries import DEFAULT_RETRY, MAX_DELAY_SECONDS, RetryPolicy, delay_ms

policies = some.builds(
    RetryPolicy,
    backoff=some.sampled_from(("exponential", "linear", "fixed")),
    base_seconds=some.floats(0, 86_400),
    factor=some.floats(1, 100),
    max_seconds=some.floats(0, MAX_DELAY_SECONDS),
    jitter=some.booleans(),
)
attempts = some.integers(1, 1000)
shares = some.floats(0, 1, exclude_max=True)


def waits(policy: RetryPolicy, number: int = 6) -> list[int]:
    return [delay_ms(policy, attempt) for attempt in range(1, number + 1)]


def test_exponential_multiplies_from_attempt_to_attempt() -> None:
    assert waits(RetryPolicy(jitter=False)) == [1000, 2000, 4000, 8000, 16_000, 32_000]
    assert waits(RetryPolicy("exponential", 0.5, 3.0, 10.0, False)) == [500, 1500, 4500, 10_000, 10_000, 10_000]


def test_linear_adds_the_base_each_time() -> None:
    assert waits(RetryPolicy("linear", 2.5, max_seconds=11, jitter=False)) == [2500, 5000, 7500, 10_000, 11_000, 11_000]


def test_fixed_is_always_the_base() -> None:
    assert waits(RetryPolicy("fixed", 7.0, jitter=False)) == [7000] * 6


def test_explicit_delays_win_over_the_backoff_and_the_last_repeats_without_jitter() -> None:
    assert waits(RetryPolicy("fixed", 99.0, max_seconds=1, delays_seconds=(0, 1.5, 60))) == [0, 1500, *[60_000] * 4]


def test_full_jitter_is_a_share_of_the_whole() -> None:
    policy = RetryPolicy()
    assert delay_ms(policy, 4, lambda: 0.5) == 4000
    assert delay_ms(policy, 4, lambda: 0.999_999) == 8000
    assert delay_ms(policy, 4, lambda: 0.0) == 100


@pytest.mark.parametrize(("base", "least_ms"), [(1.0, 100), (100.0, 100), (0.5, 50), (0.01, 1), (0.0, 0)])
def test_a_jittered_wait_is_never_a_hot_loop(base: float, least_ms: int) -> None:
    assert delay_ms(RetryPolicy(base_seconds=base), 1, lambda: 0.0) == least_ms


def test_the_thousandth_attempt_of_the_steepest_rule_is_capped_not_an_error() -> None:
    assert delay_ms(RetryPolicy(factor=1e300, jitter=False), 1000) == 3_600_000


@given(policies, attempts, shares)
def test_every_wait_is_between_none_and_the_cap(policy: RetryPolicy, attempt: int, share: float) -> None:
    assert 0 <= delay_ms(policy, attempt, lambda: share) <= round(policy.max_seconds * 1000)


@given(policies, attempts)
def test_waits_never_shrink_from_attempt_to_attempt(policy: RetryPolicy, attempt: int) -> None:
    def share() -> float:
        return 0.75

    assert delay_ms(policy, attempt, share) <= delay_ms(policy, attempt + 1, share)


@given(policies, attempts, shares)
def test_jitter_only_shortens(policy: RetryPolicy, attempt: int, share: float) -> None:
    steady = RetryPolicy(policy.backoff, policy.base_seconds, policy.factor, policy.max_seconds, False)
    assert delay_ms(policy, attempt, lambda: share) <= delay_ms(steady, attempt)


@given(some.lists(some.floats(0, MAX_DELAY_SECONDS), min_size=1, max_size=100), attempts)
def test_explicit_delays_are_taken_as_they_are(delays: list[float], attempt: int) -> None:
    policy = RetryPolicy(delays_seconds=tuple(delays))
    assert delay_ms(policy, attempt) == round(delays[min(attempt, len(delays)) - 1] * 1000)


def test_the_default_spreads_25_attempts_over_hours_not_days() -> None:
    longest = sum(delay_ms(DEFAULT_RETRY, attempt, lambda: 0.999_999) for attempt in range(1, 25))
    assert 3_600_000 < longest < 86_400_000
