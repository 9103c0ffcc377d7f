"""The task store against a model of it; every state against every verb; and proof that the comparison would notice.

The long form: `python -m tests.model --minutes 10`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from gateway.errors import InternalError
from gateway.queue_settings import FOR_EVER_MS, QueueSettings
from gateway.store.calls import Claim
from gateway.tasks import TaskSpec
from tests.harness import RedisServer
from tests.model.bench import Bench, Call
from tests.model.machine import StoreMachine
from tests.model.pair import JOB_TYPES, NOBODY, Pair
from tests.model.spread import SpreadMachine

_DEMO = JOB_TYPES[0]
_ERROR = b'{"message":"no"}'
# What the runs must have met, or they proved little; what is rarer is left to the walks and the long form.
_MET = frozenset({
    "enqueue stored", "enqueue held", "enqueue QueueFull", "enqueue UniqueConflict", "enqueue BatchRefused",
    "claim served", "claim registered", "heartbeat kept", "heartbeat LeaseLost",
    "complete completed", "complete LeaseLost", "fail retrying", "release pending", "release scheduled",
    "expire lapsed", "expire timed_out", "expire expired", "expire promoted", "expire purged", "cancel True",
    "cancel False", "patch None", "delete None", "configure", "configure StaleSettings", "purge", "claim held back",
    "claim without room",
})  # fmt: skip


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=steps, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate,), print_blob=False,
    )  # fmt: skip


@pytest.fixture
def make_bench(redis_server: RedisServer) -> Iterator[Callable[..., Bench]]:
    """Benches over the run's Redis."""
    made = []

    def make(change: Callable[[str, str], str] | None = None) -> Bench:
        made.append(Bench(redis_server.url, change) if change else Bench(redis_server.url))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def test_the_store_does_what_the_model_does(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    run_state_machine_as_test(StoreMachine.over(bench), settings=_settings(40, 50))
    assert bench.calls >= 1000
    assert set(bench.seen) >= _MET, f"never met: {_MET - set(bench.seen)}"


def test_a_queue_is_spread_as_its_settings_say(make_bench: Callable[..., Bench]) -> None:
    run_state_machine_as_test(SpreadMachine.over(make_bench()), settings=_settings(30, 40))


def _everything(pair: Pair) -> tuple[list[str], dict[str, list[str]]]:
    """Lead one task into each state, and each way to stand in it. Returns all ids, and the tokens each ever had."""
    tokens: dict[str, list[str]] = {}

    def enqueue(**members: Any) -> str:
        ulid = pair.ulid()
        call = Call("enqueue", _DEMO, "gw1", ([([(ulid, TaskSpec(_DEMO, b"1", **members))], False)],))
        ((stored,),) = pair.make(call)
        tokens[stored[1]] = []
        return str(stored[1])

    def claim() -> None:
        polls, _, _ = pair.make(Call("claim", _DEMO, "gw1", ([Claim("w1", 1, seed=pair.seed())], False, 0, 0)))
        for task_id, token, _, _ in polls[0]:
            tokens[task_id].append(token)

    def claimed(**members: Any) -> str:
        task_id = enqueue(priority=0, **members)
        claim()
        assert tokens[task_id], "another task was handed out"
        return task_id

    def report(verb: str, task_id: str, *rest: Any) -> None:
        pair.make(Call(verb, _DEMO, "gw1", ([(task_id, tokens[task_id][-1], *rest)],)))

    def change(verb: str, task_id: str) -> None:
        pair.make(Call(verb, _DEMO, "gw1", ([task_id],)))

    def fail(task_id: str, retryable: bool = True, wait_ms: int = 600_000) -> None:
        report("fail", task_id, _ERROR, _ERROR, retryable, wait_ms, 0)

    ids = [claimed(lease_ms=10_000)]  # its lease will be over, and nobody swept
    ids.append(claimed(timeout_ms=10_000))  # so will its time
    ids.append(claimed(lease_ms=10_000, max_attempts=1))
    ids.append(claimed(lease_ms=10_000))
    change("cancel", ids[-1])
    ids.append(claimed(retention_ms=0))
    report("complete", ids[-1], b"1")  # it will be past its retention, and nobody swept
    ids.append(enqueue(delay_ms=10_000))  # it will be due, and nobody moved it
    ids.append(claimed())
    fail(ids[-1], wait_ms=10_000)  # likewise
    ids.append(claimed())
    report("complete", ids[-1], b"1")
    ids.append(claimed())
    fail(ids[-1], retryable=False)
    ids.append(claimed())
    change("cancel", ids[-1])
    report("release", ids[-1], 0, False, None)
    ids.append(claimed())
    report("release", ids[-1], 600_000, False, None)
    ids.append(claimed())
    fail(ids[-1])
    ids.append(enqueue(delay_ms=600_000))
    ids.append(enqueue(delay_ms=600_000))
    change("cancel", ids[-1])
    ids.append(claimed())
    fail(ids[-1], retryable=False)
    change("retry", ids[-1])
    claim()
    ids.append(claimed())
    report("heartbeat", ids[-1], 600_000, b"1", ["line"])
    ids.append(claimed())
    fail(ids[-1], wait_ms=0)
    claim()
    ids.append(claimed())
    change("cancel", ids[-1])
    ids.append(claimed(concurrency_key="k"))
    ids.append(enqueue(concurrency_key="k"))
    claim()  # it is held back
    ids.append(enqueue(priority=3))
    ids.append(enqueue(priority=3))
    change("delete", ids[-1])
    tokens[f"{_DEMO}~{NOBODY}"] = []
    pair.pass_time(pair.now_ms + 10_001)
    return [*ids, f"{_DEMO}~{NOBODY}"], tokens


_REPORTS: dict[str, list[tuple[Any, ...]]] = {
    "heartbeat": [(0, b"", ()), (60_000, b"2", ("one", "two"))],
    "complete": [(b"2",)],
    "fail": [(_ERROR, _ERROR, True, 60_000, 0), (_ERROR, _ERROR, True, 0, 20_000), (_ERROR, _ERROR, False, 0, 0)],
    "release": [(0, False, None), (0, True, None), (60_000, False, None)],
}


_CHANGES = ("cancel", "retry", "delete")
_THE_TASK = object()
# What takes one task, or none.
_OTHERS: dict[str, list[tuple[Any, ...]]] = {
    "claim": [([Claim("w1", 50, seed="last")], True, 0, 0), ([Claim("w1", 0, seed="last")], False, 0, 0)],
    "expire": [(1,), (200,)],
    "purge": [()],
    "configure": [(QueueSettings(max_processing_per_key=2), None, b""), (None, None, FOR_EVER_MS)],
    "ring": [()],
    "patch": [(_THE_TASK, {"priority": 0}, None), (_THE_TASK, {"payload": b"2"}, b"0"), (_THE_TASK, {}, b"+60000")],
    "watch": [(_THE_TASK, 300_000)],
}


def _walk(bench: Bench, verb: str, which: str = "the last token", limit: int = 1000) -> None:
    """Let a verb meet every state, in one batch where it takes one, and then again, as if its reply were lost."""
    for rest in _REPORTS.get(verb) or _OTHERS.get(verb) or [()]:
        pair = Pair(bench, 1000)
        ids, tokens = _everything(pair)
        pair.bound(limit)
        if verb in _REPORTS:
            place = {"the last token": -1, "a token before": 0}.get(which)
            known = [tokens[one][place] if tokens[one] and place is not None else "none" for one in ids]
            calls = [([(task_id, token, *rest) for task_id, token in zip(ids, known, strict=True)],)]
        elif verb in _CHANGES:
            calls = [(ids,)]
        else:
            tasks = ids if _THE_TASK in rest else ids[:1]
            calls = [tuple(task_id if one is _THE_TASK else one for one in rest) for task_id in tasks]
        for arguments in calls:
            pair.make(Call(verb, _DEMO, "gw1", arguments))
            if verb != "claim":
                pair.make(Call(verb, _DEMO, "gw1", arguments))
        pair.drain()


@pytest.mark.parametrize("which", ["the last token", "a token before", "no token of theirs"])
@pytest.mark.parametrize("verb", _REPORTS)
def test_a_report_meets_every_state(make_bench: Callable[..., Bench], verb: str, which: str) -> None:
    _walk(make_bench(), verb, which)


@pytest.mark.parametrize("verb", [*_CHANGES, *_OTHERS])
def test_any_other_verb_meets_every_state(make_bench: Callable[..., Bench], verb: str) -> None:
    _walk(make_bench(), verb)


def test_a_full_queue_takes_no_task_back_from_any_state(make_bench: Callable[..., Bench]) -> None:
    _walk(make_bench(), "retry", limit=5)


_LIMITS = [
    QueueSettings(max_processing=2), QueueSettings(rate_per_second=0.5), QueueSettings(rate_per_second=40.0),
    QueueSettings(max_processing_per_key=2), QueueSettings(max_pending=3), QueueSettings(),
]  # fmt: skip


def _walk_limits(bench: Bench) -> None:
    """Set one limit after the other, and claim before and when time lets more go; then pause, likewise."""
    pair = Pair(bench, 100)

    def configure(settings: QueueSettings | None, until_ms: int | bytes = b"") -> None:
        pair.make(Call("configure", _DEMO, "gw2", (settings, None, until_ms)))

    def claim() -> None:
        for early_ms in (None, 1, 0, None):
            if early_ms is not None:
                pair.pass_time(max(pair.now_ms, pair.queues[_DEMO].resumes_ms(pair.now_ms) - early_ms))
            pair.make(Call("claim", _DEMO, "gw1", ([Claim("w1", 3, seed=pair.seed())], True, 0, 0)))

    def enqueue() -> None:
        items = [(pair.ulid(), TaskSpec(_DEMO, concurrency_key="k" if number % 2 else None)) for number in range(8)]
        pair.make(Call("enqueue", _DEMO, "gw1", ([(items, False)],)))

    for limit in _LIMITS:
        configure(limit)
        enqueue()
        claim()
        lease = pair.queues[_DEMO].all(lambda task: task.lease)[0]
        assert lease.lease is not None
        pair.make(Call("fail", _DEMO, "gw1", ([(lease.id, lease.lease.token, _ERROR, _ERROR, True, 0, 2_000)],)))
        claim()
    for until_ms in (pair.now_ms + 5_000, b"+7000", b"+100"):
        enqueue()
        configure(None, until_ms)
        claim()
    pair.drain()


def _walk_held(bench: Bench) -> None:
    """Hold a task back while two gateways wait; then let it go, by more room and by the end of the one that ran."""
    for let_go in (
        Call("configure", _DEMO, "gw3", (QueueSettings(max_processing_per_key=2), None, b"")),
        Call("expire", _DEMO, "gw3", (200,)),
    ):
        pair = Pair(bench, 100)
        pair.make(Call("configure", _DEMO, "gw3", (QueueSettings(max_processing=9), None, b"")))
        spec = TaskSpec(_DEMO, concurrency_key="k", max_attempts=1, lease_ms=10_000)
        pair.make(Call("enqueue", _DEMO, "gw3", ([([(pair.ulid(), spec), (pair.ulid(), spec)], False)],)))
        for gateway in ("gw3", "gw1", "gw2"):
            pair.make(Call("claim", _DEMO, gateway, ([Claim("w", 1, seed=pair.seed())], True, 0, 0)))
        pair.pass_time(pair.now_ms + 10_001)
        pair.make(let_go)
        assert len(pair.queues[_DEMO].published) == 1
        pair.drain()


def test_of_what_is_let_go_as_many_hear_as_can_be_served(make_bench: Callable[..., Bench]) -> None:
    _walk_held(make_bench())


def test_each_limit_holds_to_the_ms(make_bench: Callable[..., Bench]) -> None:
    _walk_limits(make_bench())


# (verb of the script that is broken, or "" for what several share; what stands there when it is loaded, constants in
# their places; what is put in its place; the verb whose walk notices it, or "" for runs by chance)
_BROKEN = {
    "no token is compared": ("", "or lease[1] ~= token then", "then", "complete"),
    "no lease ever ends": ("", "if now > lease[9] then", "if false then", ""),
    "attempts are not counted": ("claim", "attempts_in(attempts) + 1", "1", ""),
    "tasks are due a second early": (
        "", "local due = redis.call('ZRANGEBYSCORE', QUEUE, 2 ^ 40, exclusive(math.min(now + 1,",
        "local due = redis.call('ZRANGEBYSCORE', QUEUE, 2 ^ 40, exclusive(math.min(now + 1001,", "",
    ),
    "priorities are not kept": ("", "return priority * 2 ^ 38 +", "return 2 ^ 38 +", ""),
    "a finished task keeps its key": ("", "  release_unique(id, options)\n  local trailed", "  local trailed", ""),
    "a released attempt counts": (
        "release", "redis.call('DECR', 'arq:retry:' .. id)", "redis.call('GET', 'arq:retry:' .. id)", "release",
    ),
    "a deleted task leaves its history": (
        "", "'arq:retry:' .. id, OURS .. 'trail:' .. entry,", "'arq:retry:' .. id,", "delete",
    ),
    "the bound is not kept": ("enqueue", "taken + room <= limit", "taken <= limit", ""),
    "a queue has no bound of its own": ("", "part_of(settings().max_pending or limit,", "part_of(limit,", "limits"),
    "any number runs at a time": ("", "if set.max_processing then free =", "if false then free =", "limits"),
    "any number of a key runs at a time": (
        "claim", ">= settings().max_processing_per_key then", ">= 2 ^ 31 then", "held",
    ),
    "what was held back stays so": ("", "id) == 1 then unhold(key) end", "id) == 1 then return end", ""),
    "what is let go is rung for twice": ("configure", "ready_count() - unheld,", "ready_count(),", "held"),
    "what a sweep lets go is rung for twice": ("expire", "waiting - unheld,", "waiting,", "held"),
    "a pause is over early": (
        "", "if set.paused_until_ms > now then", "if set.paused_until_ms > now + 1000 then", "limits",
    ),
    "no pace is kept": ("", "arrival = arrival + tasks * step", "arrival = arrival", "limits"),
    "a slower rate holds up a faster one": ("configure", "~= before.rate_per_second then", "== 0 then", "limits"),
    "each partition has all of a limit": ("", "return math.floor(limit / partitions) +", "return limit +", "spread"),
    "a partition keeps the settings that it had": (
        "configure", "local fresh = copied or",
        "if copied then return { 'ok', now, 0, 0, 0, 0 } end local fresh = copied or", "spread",
    ),
    "a purge leaves what is held back": ("purge", "exclusive(2 ^ 50), 'LIMIT'", "exclusive(2 ^ 49), 'LIMIT'", "purge"),
}  # fmt: skip


@pytest.mark.parametrize("name", _BROKEN)
def test_a_broken_store_is_noticed(make_bench: Callable[..., Bench], name: str) -> None:
    verb, stands, instead, walked = _BROKEN[name]
    changed = []

    def change(of: str, source: str) -> str:
        if verb not in ("", of):
            return source
        changed.append(stands in source)
        return source.replace(stands, instead)

    bench = make_bench(change)
    assert any(changed), f"the scripts no longer say {stands!r}: break them in another way"

    def runs() -> None:
        if walked == "spread":
            run_state_machine_as_test(SpreadMachine.over(bench), settings=_settings(100, 40))
        elif walked in ("limits", "held"):
            {"limits": _walk_limits, "held": _walk_held}[walked](bench)
        elif walked:
            _walk(bench, walked, "no token of theirs" if walked == "complete" else "the last token")
        else:
            run_state_machine_as_test(StoreMachine.over(bench), settings=_settings(100, 50))

    with pytest.raises((AssertionError, InternalError)):
        runs()
