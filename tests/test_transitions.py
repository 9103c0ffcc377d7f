"""The transition table is the truth: every state against every verb, on the real store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from gateway.errors import Refusal
from gateway.store.calls import Held
from gateway.store.records import READY_END
from gateway.tasks import FINAL, TRANSITIONS, LeasedTask, Status, TaskSpec, Unique, is_final
from tests import lives
from tests.harness import Clock, Store

_DELAY_MS = 60_000
_LONG_SECONDS = 3600.0


class Life:
    """One task on its way: its id, and the lease that holds it or held it last."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.id = ""
        self.lease: LeasedTask | None = None

    async def enqueue(self, **members: object) -> None:
        self.id = (await lives.enqueue(self.store, **members)).id

    async def claim(self) -> LeasedTask:
        self.lease = await lives.take_one(self.store)
        return self.lease

    async def token(self) -> str:
        """The token that holds the task, else one that does not."""
        status = await lives.status_of(self.store, self.id)
        return self.lease.token if self.lease is not None and status is Status.PROCESSING else "no-such-token"


Step = Callable[[Life], Awaitable[object]]

# How a task comes into a state. `members` are those the case wants of the task.


async def _scheduled(life: Life, **members: object) -> None:
    await life.enqueue(**{"delay_ms": _DELAY_MS, **members})


async def _pending(life: Life, **members: object) -> None:
    await life.enqueue(**members)


async def _processing(life: Life, **members: object) -> None:
    await life.enqueue(**members)
    await life.claim()


async def _retrying(life: Life, **members: object) -> None:
    await _processing(life, **members)
    assert life.lease is not None
    await lives.fail(life.store, life.lease, retry_in_ms=_DELAY_MS)


async def _completed(life: Life, **members: object) -> None:
    await _processing(life, **members)
    assert life.lease is not None
    await lives.complete(life.store, life.lease)


async def _failed(life: Life, **members: object) -> None:
    await _processing(life, **members)
    assert life.lease is not None
    await lives.fail(life.store, life.lease, retryable=False)


async def _cancelled(life: Life, **members: object) -> None:
    await life.enqueue(**members)
    await life.store.tasks.cancel(lives.QUEUE, life.id)


REACH = {
    Status.SCHEDULED: _scheduled, Status.PENDING: _pending, Status.PROCESSING: _processing,
    Status.RETRYING: _retrying, Status.COMPLETED: _completed, Status.FAILED: _failed, Status.CANCELLED: _cancelled,
}  # fmt: skip


# What is done to it.


async def _after_the_delay(life: Life) -> None:
    life.clock.advance(_DELAY_MS / 1000)


async def _after_long(life: Life) -> None:
    life.clock.advance(_LONG_SECONDS)


async def _ask_to_cancel(life: Life) -> None:
    await life.store.tasks.cancel(lives.QUEUE, life.id)


async def _second_attempt(life: Life) -> None:
    assert life.lease is not None
    await lives.fail(life.store, life.lease, retry_in_ms=0)
    await life.claim()


async def _replace_by_one_that_expires(life: Life) -> None:
    spec = TaskSpec("demo", unique=Unique("k", on_conflict="replace"), delay_ms=2 * _DELAY_MS, expires_in_ms=1000)
    assert await life.store.tasks.enqueue(lives.QUEUE, [spec]) == [Held(life.id)]


async def _promote(life: Life) -> None:
    # A claim that takes nothing moves due tasks on, and does nothing else.
    await lives.take(life.store, max=0)


async def _claim(life: Life) -> None:
    await lives.take(life.store)


async def _heartbeat(life: Life) -> None:
    await life.store.tasks.heartbeat(lives.QUEUE, life.id, await life.token(), progress=b"1", lines=["line"])


async def _complete(life: Life) -> None:
    await life.store.tasks.complete(lives.QUEUE, life.id, await life.token(), b"1")


async def _expire(life: Life) -> None:
    await life.store.tasks.expire(lives.QUEUE)


async def _cancel(life: Life) -> None:
    await life.store.tasks.cancel(lives.QUEUE, life.id)


async def _retry(life: Life) -> None:
    await life.store.tasks.retry(lives.QUEUE, life.id)


def _fail(retryable: bool, retry_in_ms: int) -> Step:
    async def step(life: Life) -> None:
        await life.store.tasks.fail(
            lives.QUEUE, life.id, await life.token(), lives.ERROR, lives.ERROR, "no",
            retryable=retryable, retry_in_ms=retry_in_ms,
        )  # fmt: skip

    return step


def _release(delay_ms: int) -> Step:
    async def step(life: Life) -> None:
        await life.store.tasks.release(lives.QUEUE, life.id, await life.token(), delay_ms=delay_ms)

    return step


VERBS: dict[str, list[Step]] = {
    "promote": [_promote],
    "claim": [_claim],
    "heartbeat": [_heartbeat],
    "complete": [_complete],
    "fail": [_fail(True, _DELAY_MS), _fail(True, 0), _fail(False, 0)],
    "release": [_release(0), _release(_DELAY_MS)],
    "expire": [_expire],
    "cancel": [_cancel],
    "retry": [_retry],
}

# What the allowed ways need: members of the task, and what happens between the state and the verb.
WAYS: dict[tuple[Status, str], list[tuple[dict[str, object], list[Step]]]] = {
    (Status.SCHEDULED, "promote"): [({}, [_after_the_delay])],
    (Status.RETRYING, "promote"): [({}, [_after_the_delay])],
    (Status.PENDING, "claim"): [({}, []), ({"expires_in_ms": 1000}, [_after_the_delay])],
    (Status.PROCESSING, "fail"): [({}, []), ({}, [_ask_to_cancel])],
    (Status.PROCESSING, "release"): [({}, []), ({}, [_second_attempt]), ({}, [_ask_to_cancel])],
    (Status.PROCESSING, "expire"): [
        ({}, [_after_the_delay]), ({"max_attempts": 1}, [_after_the_delay]), ({}, [_ask_to_cancel, _after_the_delay]),
    ],
    (Status.SCHEDULED, "expire"): [({}, [_after_the_delay]), ({"expires_in_ms": 1000}, [_after_the_delay])],
    (Status.PENDING, "expire"): [({"expires_in_ms": 1000}, [_after_the_delay])],
    (Status.RETRYING, "expire"): [
        ({}, [_after_the_delay]), ({"unique": Unique("k")}, [_replace_by_one_that_expires, _after_the_delay]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("verb", TRANSITIONS)
@pytest.mark.parametrize("state", Status)
async def test_a_verb_does_to_a_state_what_the_table_says(
    state: Status, verb: str, store: Store, clock: Clock, redis: Redis
) -> None:
    allowed = TRANSITIONS[verb].get(state)
    if allowed is None:
        for step in VERBS[verb]:
            life = Life(store, clock)
            await REACH[state](life)
            assert await lives.status_of(store, life.id) is state
            before = await lives.keyspace(redis)
            try:
                await step(life)
            except Refusal:
                pass
            assert await lives.keyspace(redis) == before
            await redis.flushdb()
        return
    reached = set()
    for members, between in WAYS.get((state, verb), [({}, [])]):
        for step in VERBS[verb]:
            life = Life(store, clock)
            await REACH[state](life, **members)
            for happening in between:
                await happening(life)
            await step(life)
            status = await lives.status_of(store, life.id)
            assert status is not None
            reached.add(status)
            score = await redis.zscore(lives.ARQ_QUEUE, store.tasks.arq_id(lives.QUEUE, life.id))
            assert (score is None) == is_final(status)
            if status is Status.PENDING:
                assert score is not None
                assert score < READY_END
            await redis.flushdb()
    assert reached == allowed


@pytest.mark.parametrize("state", [state for state in Status if state not in FINAL])
async def test_a_sweep_before_its_time_changes_nothing(state: Status, store: Store, clock: Clock, redis: Redis) -> None:
    await REACH[state](Life(store, clock), expires_in_ms=50_000)
    before = await lives.keyspace(redis)
    clock.advance(29.999)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.keyspace(redis) == before


@pytest.mark.parametrize("state", sorted(FINAL))
async def test_a_final_task_stays_as_it_is_for_its_retention(
    state: Status, store: Store, clock: Clock, redis: Redis
) -> None:
    await REACH[state](Life(store, clock))
    before = await lives.keyspace(redis)
    clock.advance(_LONG_SECONDS)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.keyspace(redis) == before


def test_the_table_names_every_state_and_lets_only_an_operator_leave_a_final_one() -> None:
    for verb, moves in TRANSITIONS.items():
        for state in moves:
            assert not is_final(state) or verb == "retry"
    left = {state for moves in TRANSITIONS.values() for state in moves}
    entered = {after for moves in TRANSITIONS.values() for afters in moves.values() for after in afters}
    assert left == set(Status) - {Status.COMPLETED}
    assert entered | {Status.SCHEDULED} == set(Status)
