"""The machine: hypothesis chooses calls, time and mishaps; the store and the model must agree after every step."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.queue_settings import FOR_EVER_MS, Defaults, QueueSettings
from gateway.retries import RetryPolicy
from gateway.store.calls import Claim
from gateway.store.inspector import Filter
from gateway.tasks import Queue, Status, TaskSpec, Unique
from tests.model.bench import GATEWAYS, Bench, Call
from tests.model.pair import JOB_TYPES, NOBODY, START_MS, Pair

_DAY_MS = 86_400_000
_ERRORS = (b'{"message":"no"}', b'{"type":"timeout","message":"late","details":{"a":[1]}}')

job_types = st.sampled_from((*JOB_TYPES[:1] * 3, *JOB_TYPES[1:]))
gateways = st.sampled_from((*GATEWAYS[:1] * 3, *GATEWAYS[1:]))
# Which of the tasks or leases there are, the newest first.
picks = st.integers(0, 11)
uniques = st.builds(
    Unique,
    key=st.sampled_from("ab"),
    until=st.sampled_from(("finished", "started")),
    for_ms=st.sampled_from((0, 0, 0, 10_000, 60_000)),
    on_conflict=st.sampled_from(("return", "reject", "replace")),
)
retries = st.sampled_from((
    RetryPolicy(backoff="fixed", base_seconds=0, jitter=False),
    RetryPolicy(backoff="fixed", base_seconds=5, jitter=False),
    RetryPolicy(backoff="exponential", base_seconds=1, factor=3, max_seconds=20, jitter=False),
    RetryPolicy(delays_seconds=(0, 10)),
))  # fmt: skip
specs = st.fixed_dictionaries({
    "priority": st.sampled_from((2, 2, 2, 0, 1, 3)),
    "delay_ms": st.sampled_from((0, 0, 0, 0, 1, 500, 60_000)),
    # From the moment of the call; 0: none.
    "run_at_ms": st.sampled_from((0, 0, 0, 0, -5000, 1, 30_000)),
    "max_attempts": st.sampled_from((25, 2, 1)),
    "retry": retries,
    "lease_ms": st.sampled_from((30_000, 10_000)),
    "timeout_ms": st.sampled_from((0, 0, 20_000)),
    "expires_in_ms": st.sampled_from((0, 0, 0, 1, 15_000, 90_000)),
    "retention_ms": st.sampled_from((_DAY_MS, 60_000, 10_000, 0)),
    "failed_retention_ms": st.sampled_from((30 * _DAY_MS, 60_000, 0)),
    "title": st.sampled_from((None, "t")),
    "tags": st.sampled_from(({}, {"team": "a"}, {"team": "b"})),
    "unique": st.one_of(st.none(), st.none(), uniques),
    "concurrency_key": st.sampled_from((None, None, "k", "k", "l")),
    "unsaid": st.sampled_from((0, 0, 31, 1, 22)),
})  # fmt: skip
# Rates of which a task takes whole ms, so that no rounding decides.
bounds = st.sampled_from((3, 8))
processing = st.sampled_from((1, 2, 3))
rates = st.sampled_from((0.5, 20.0, 40.0))
of_a_key = st.sampled_from((1, 2, 3))
defaults = st.just(Defaults(
    max_attempts=3, retry=RetryPolicy(backoff="linear", base_seconds=2, jitter=False), lease_ms=20_000,
    retention_ms=20_000, timeout_ms=25_000,
))  # fmt: skip
settings = st.one_of(
    st.builds(QueueSettings, max_processing=processing),
    st.builds(QueueSettings, rate_per_second=rates),
    st.builds(QueueSettings, max_processing_per_key=of_a_key, max_pending=bounds, defaults=defaults),
    st.builds(QueueSettings, max_processing=processing, rate_per_second=rates, max_processing_per_key=of_a_key),
    st.just(QueueSettings()),
)
# Until so many ms from now; bytes: no less than that; None: it goes on.
pauses = st.sampled_from((None, None, None, 5_000, 5_000, 60_000, b"+5000", b"+40000", FOR_EVER_MS))
batches = st.tuples(st.lists(specs, min_size=1, max_size=4), st.booleans())
claims = st.fixed_dictionaries({
    "worker_id": st.sampled_from(("w1", "w2")),
    "max": st.sampled_from((1, 1, 2, 5, 0)),
    "lease_ms": st.sampled_from((0, 0, 20_000)),
    # How many polls back it was made first; None: it has none.
    "poll": st.sampled_from((None, None, 0, 1, 2)),
})  # fmt: skip
retry_waits = st.sampled_from((0, 0, 1, 7_000))


class StoreMachine(RuleBasedStateMachine):
    """Calls the store and the model alike."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.polls = [f"p{number}" for number in range(3)]

    @classmethod
    def over(cls, bench: Bench) -> type[StoreMachine]:
        """The machine that drives this bench."""
        return type("StoreMachine", (cls,), {"bench": bench})

    @initialize(
        limit=st.sampled_from((100, 12, 5)),
        operated=st.booleans(),
        chosen=settings,
        first=st.lists(batches, min_size=1, max_size=3),
    )
    def begin(
        self, limit: int, operated: bool, chosen: QueueSettings, first: list[tuple[list[dict[str, Any]], bool]]
    ) -> None:
        """An empty Redis, and a few tasks. operated: somebody sets and pauses queues; chosen: the first settings."""
        self.pair = Pair(self.bench, limit)
        self.operated = operated
        if operated:
            self._set(JOB_TYPES[0], GATEWAYS[0], chosen, None)
        self.enqueue(JOB_TYPES[0], GATEWAYS[0], first)

    # What happens.

    @rule(job_type=job_types, gateway=gateways, chosen=st.lists(batches, min_size=1, max_size=2))
    def enqueue_more(self, job_type: str, gateway: str, chosen: list[tuple[list[dict[str, Any]], bool]]) -> None:
        self.enqueue(job_type, gateway, chosen)

    def enqueue(self, job_type: str, gateway: str, chosen: list[tuple[list[dict[str, Any]], bool]]) -> None:
        """Make requests that share a call. chosen: members of tasks, and whether all or none, per request."""
        calls = []
        # Whether two requests share a call, too, when they are made again by other settings is nobody's promise.
        for members, atomic in chosen if self.pair.knows_the_settings(gateway, job_type) else chosen[:1]:
            items = []
            for one in members:
                ulid = self.pair.ulid()
                offset_ms = one["run_at_ms"]
                if offset_ms:
                    one = {**one, "delay_ms": 0, "run_at_ms": self.pair.now_ms + offset_ms}
                items.append((ulid, TaskSpec(job_type, b"%d" % self.pair.names, **one)))
            calls.append((items, atomic))
        self._make(Call("enqueue", job_type, gateway, (calls,)))

    @rule(job_type=job_types, gateway=gateways, chosen=st.lists(claims, min_size=1, max_size=2),
          stays=st.booleans(), others=st.sampled_from((0, 0, 2)), waited_ms=st.sampled_from((0, 5000)))  # fmt: skip
    def claim(
        self, job_type: str, gateway: str, chosen: list[dict[str, Any]], stays: bool, others: int, waited_ms: int
    ) -> None:
        wanted = []
        for one in chosen:
            back, poll_id = one["poll"], ""
            if back is not None:
                if back == 0:
                    self.polls.append(f"p{len(self.polls)}")
                poll_id = self.polls[-1 - back]
            wanted.append(Claim(one["worker_id"], one["max"], one["lease_ms"], poll_id, self.pair.seed()))
        self._make(Call("claim", job_type, gateway, (wanted, stays, others, waited_ms)))

    @rule(gateway=gateways, take=st.integers(1, 5))
    def take(self, gateway: str, take: int) -> None:
        """Claim where most of the tasks are."""
        wanted = [Claim("w1", take, seed=self.pair.seed())]
        self._make(Call("claim", JOB_TYPES[0], gateway, (wanted, True, 0, 0)))

    @precondition(lambda self: self.operated)
    @rule(job_type=job_types, gateway=gateways, take=st.integers(1, 5), past_ms=st.sampled_from((-1, 0, 0, 1, 100)))
    def take_when_there_is_room(self, job_type: str, gateway: str, take: int, past_ms: int) -> None:
        """Claim when, or just before, time lets more be handed out than now."""
        at_ms = self.pair.queues[job_type].resumes_ms(self.pair.now_ms) + past_ms
        if self.pair.now_ms < at_ms < FOR_EVER_MS - 1:
            self.pair.pass_time(at_ms)
        wanted = [Claim("w1", take, seed=self.pair.seed())]
        self._make(Call("claim", job_type, gateway, (wanted, True, 0, 0)))

    @precondition(lambda self: self.any_lease())
    @rule(job_type=job_types, gateway=gateways, chosen=st.lists(st.tuples(
        picks, st.sampled_from((0, 0, 10_000, 60_000)), st.sampled_from((b"", b"1", b'{"at":2}')),
        st.sampled_from((0, 0, 1, 2, 90))), min_size=1, max_size=3))  # fmt: skip
    def heartbeat(self, job_type: str, gateway: str, chosen: list[tuple[int, int, bytes, int]]) -> None:
        job_type = self._leased(job_type)
        reports = [
            (*self._lease(job_type, pick), lease_ms, progress, [f"line {number}" for number in range(lines)])
            for pick, lease_ms, progress, lines in chosen
        ]
        self._make(Call("heartbeat", job_type, gateway, (reports,)))

    @precondition(lambda self: self.any_lease())
    @rule(job_type=job_types, gateway=gateways, chosen=st.lists(
        st.tuples(picks, st.sampled_from((b"null", b'{"pages":12}', b"12345678901234567890123"))),
        min_size=1, max_size=3))  # fmt: skip
    def complete(self, job_type: str, gateway: str, chosen: list[tuple[int, bytes]]) -> None:
        job_type = self._leased(job_type)
        reports = [(*self._lease(job_type, pick), result) for pick, result in chosen]
        self._make(Call("complete", job_type, gateway, (reports,)))

    @precondition(lambda self: self.any_lease())
    @rule(job_type=job_types, gateway=gateways, own_rule=st.booleans(), pause_ms=st.sampled_from((0, 0, 3_000, 20_000)),
          chosen=st.lists(st.tuples(picks, st.sampled_from(_ERRORS), st.sampled_from((True, True, False)), retry_waits),
                          min_size=1, max_size=3))  # fmt: skip
    def fail(
        self, job_type: str, gateway: str, own_rule: bool, pause_ms: int, chosen: list[tuple[int, bytes, bool, int]]
    ) -> None:
        if not self.operated:
            pause_ms = 0
        # A wait by the task's own rule takes a look first: such reports do not share a call with others.
        job_type = self._leased(job_type)
        reports = [
            (
                *self._lease(job_type, pick),
                error,
                _ERRORS[0],
                retryable or own_rule,
                None if own_rule else wait_ms,
                pause_ms * (pick % 2),
            )
            for pick, error, retryable, wait_ms in chosen
        ]
        self._make(Call("fail", job_type, gateway, (reports,)))

    @precondition(lambda self: self.any_lease())
    @rule(job_type=job_types, gateway=gateways, chosen=st.lists(
        st.tuples(picks, retry_waits, st.booleans(), st.one_of(st.none(), st.tuples(
            st.sampled_from(("w1", "w2")), st.integers(1, 2)))), min_size=1, max_size=3))  # fmt: skip
    def release(self, job_type: str, gateway: str, chosen: list[tuple[int, int, bool, tuple[str, int] | None]]) -> None:
        job_type = self._leased(job_type)
        reports = [
            (*self._lease(job_type, pick), wait_ms, front, (poll[0], self.polls[-poll[1]]) if poll else None)
            for pick, wait_ms, front, poll in chosen
        ]
        self._make(Call("release", job_type, gateway, (reports,)))

    @rule(job_type=job_types, gateway=gateways, limit=st.sampled_from((200, 200, 2, 1)))
    def expire(self, job_type: str, gateway: str, limit: int) -> None:
        tasks = self.pair.queues[job_type].tasks.values()
        ends = sorted(task.ending.record_until_ms for task in tasks if task.ending is not None)
        if len(ends) > limit and ends[limit - 1] == ends[limit]:
            # Which of those that end at one ms goes first is nobody's promise.
            limit = 200
        self._make(Call("expire", job_type, gateway, (limit,)))

    @rule(job_type=job_types, gateway=gateways, chosen=st.lists(picks, min_size=1, max_size=3))
    def cancel(self, job_type: str, gateway: str, chosen: list[int]) -> None:
        self._make(Call("cancel", job_type, gateway, ([self._id(job_type, pick) for pick in chosen],)))

    @precondition(lambda self: any(queue.all(lambda task: task.ending) for queue in self.pair.queues.values()))
    @rule(gateway=gateways, chosen=st.lists(picks, min_size=1, max_size=3))
    def retry(self, gateway: str, chosen: list[int]) -> None:
        job_type = max(JOB_TYPES, key=lambda one: len(self.pair.queues[one].all(lambda task: task.ending)))
        ended = [task.id for task in self.pair.queues[job_type].all(lambda task: task.ending)]
        ids = [ended[pick % len(ended)] if pick < 9 else self._id(job_type, pick) for pick in chosen]
        self._make(Call("retry", job_type, gateway, (ids,)))

    @rule(job_type=job_types, gateway=gateways, chosen=st.lists(picks, min_size=1, max_size=2))
    def delete(self, job_type: str, gateway: str, chosen: list[int]) -> None:
        self._make(Call("delete", job_type, gateway, ([self._id(job_type, pick) for pick in chosen],)))

    @rule(job_type=job_types, gateway=gateways, pick=picks,
          changes=st.fixed_dictionaries({}, optional={"priority": st.integers(0, 3), "tags": st.just({"team": "c"}),
                                                      "payload": st.just(b'{"patched":true}')}),
          due=st.sampled_from((None, None, b"0", b"+0", b"+20000", 25_000, -1)))  # fmt: skip
    def patch(self, job_type: str, gateway: str, pick: int, changes: dict[str, Any], due: bytes | int | None) -> None:
        if isinstance(due, int):
            due += self.pair.now_ms
        if due is not None:
            changes = {**changes, "run_at_ms": due if isinstance(due, int) else 0, "delay_ms": 0}
        self._make(Call("patch", job_type, gateway, (self._id(job_type, pick), changes, due)))

    @precondition(lambda self: self.operated)
    @rule(job_type=job_types, gateway=gateways, what=st.sampled_from(("set", "set", "pause", "pause", "purge")),
          chosen=settings, behind=st.sampled_from((None, 0, 1)), until=pauses)  # fmt: skip
    def operate(
        self, job_type: str, gateway: str, what: str, chosen: QueueSettings, behind: int | None, until: Any
    ) -> None:
        """Change settings, pause or resume, or purge. behind: how many versions ago settings were read; None: never."""
        if what == "purge":
            self._make(Call("purge", job_type, gateway, ()))
        elif what == "set":
            version = self.pair.queues[job_type].limits.settings.version
            self._set(job_type, gateway, chosen, None if behind is None else version - behind)
        else:
            if isinstance(until, int) and until < FOR_EVER_MS:
                until += self.pair.now_ms
            self._make(Call("configure", job_type, gateway, (None, None, 0 if until is None else until)))

    @rule(job_type=job_types, gateway=gateways, pick=picks)
    def watch_or_pass_a_ring_on_or_forget_the_scripts(self, job_type: str, gateway: str, pick: int) -> None:
        if pick == 10:
            self.bench.run(self.bench.redis.script_flush())
        elif pick % 3:
            self._make(Call("watch", job_type, gateway, (self._id(job_type, pick), 300_000)))
        else:
            self._make(Call("ring", job_type, gateway, ()))

    @rule(wait_ms=st.sampled_from((1, 1, 999, 5000, 5000, 10_001, 31_000, 61_000, _DAY_MS)))
    def wait(self, wait_ms: int) -> None:
        self.pair.pass_time(self.pair.now_ms + wait_ms)

    @rule(pick=picks, past_ms=st.integers(-1, 1))
    def wait_for_the_next(self, pick: int, past_ms: int) -> None:
        """Until just before, at, or just after something is due, lapses or ends."""
        now_ms = self.pair.now_ms
        moments = {at for queue in self.pair.queues.values() for at in queue.moments()}
        moments |= {at for queue in self.pair.queues.values() for _, at in queue.unique.values() if at is not None}
        coming = sorted(at + past_ms for at in moments if at + past_ms > now_ms)
        if coming:
            self.pair.pass_time(coming[min(pick, len(coming) - 1)])

    @precondition(lambda self: self.pair.last is not None)
    @rule()
    def repeat_the_last_call_as_if_its_reply_were_lost(self) -> None:
        assert self.pair.last is not None
        call = self.pair.last
        if call.verb == "claim":
            # A gateway never repeats one; a client repeats its poll, and each poll has tokens of its own.
            polls = [msgspec.structs.replace(poll, seed=self.pair.seed()) for poll in call.arguments[0]]
            call = msgspec.structs.replace(call, arguments=(polls, *call.arguments[1:]))
        self._make(call)

    @rule(limit=st.sampled_from((1, 2, 50)), both=st.booleans(), statuses=st.one_of(
        st.none(), st.sets(st.sampled_from(list(Status)), min_size=1, max_size=3)),
        team=st.sampled_from((None, None, "a", "c")))  # fmt: skip
    def walk_the_lists(self, limit: int, both: bool, statuses: set[Status] | None, team: str | None) -> None:
        job_types = JOB_TYPES[: 1 + both]
        self._list_the_leases(job_types[-1])
        which = Filter(frozenset(statuses) if statuses else None, (("team", team),) if team else ())
        inspector = self.bench.stores["gw1"].inspector
        seen: list[str] = []
        cursor = None
        for _ in range(1000):
            found, cursor = self.bench.run(
                inspector.page([Queue("default", one) for one in job_types], which, limit, cursor)
            )
            assert len(found) <= limit
            seen += [task.id for task in found]
            if cursor is None:
                break
        now_ms = self.pair.now_ms
        there = [
            self.pair.queues[one].read(task_id, now_ms) for one in job_types for task_id in self.pair.queues[one].tasks
        ]
        wanted = [task.id for task in there if task is not None and which.shows(task)]
        assert seen == sorted(wanted, key=lambda one: one.partition("~")[2], reverse=True)

    def _list_the_leases(self, job_type: str) -> None:
        store = self.bench.stores["gw1"].tasks
        found = self.bench.run(store.leases(Queue("default", job_type)))
        wanted = {
            task.id: (task.lease.token, task.lease.worker_id, task.lease.started_at_ms, task.lease.ends_at_ms)
            for task in self.pair.queues[job_type].tasks.values()
            if task.lease is not None
        }
        assert {one.task_id: (one.token, one.worker_id, one.started_at_ms, one.ends_at_ms) for one in found} == wanted
        assert len(found) == len(wanted)
        assert [one.ends_at_ms for one in found] == sorted(one.ends_at_ms for one in found)

    # The means.

    def _set(self, job_type: str, gateway: str, chosen: QueueSettings, version: int | None) -> None:
        self._make(Call("configure", job_type, gateway, (chosen, version, b"")))

    def _make(self, call: Call) -> None:
        # What tasks and leases the numbers in the rule meant.
        if call.verb != "enqueue":
            note(f"at {self.pair.now_ms - START_MS}: {call.verb} {call.job_type} {call.arguments}")
        self.pair.make(call)

    def any_lease(self) -> bool:
        """Whether any was ever given."""
        return any(self.pair.leases.values())

    def _leased(self, job_type: str) -> str:
        """A queue of which something is handed out; otherwise this one, or the other while nothing of it ever was."""
        live = [one for one in JOB_TYPES if self.pair.queues[one].all(lambda task: task.lease)]
        if live and job_type not in live:
            return live[0]
        return job_type if self.pair.leases[job_type] else next(one for one in JOB_TYPES if self.pair.leases[one])

    def _id(self, job_type: str, pick: int) -> str:
        known = sorted(self.pair.queues[job_type].tasks) if pick < 10 else self.pair.gone[job_type]
        return known[-1 - pick % len(known)] if known and pick < 11 else f"{job_type}~{NOBODY}"

    def _lease(self, job_type: str, pick: int) -> tuple[str, str]:
        """Most likely a lease that is, then one that was, then none."""
        tasks = self.pair.queues[job_type].tasks.values()
        live = [(task.id, task.lease.token) for task in tasks if task.lease is not None]
        if live and pick == 8:
            return live[0][0], "no-such-token"
        known = live if live and pick < 8 else self.pair.leases[job_type][-6:]
        return known[pick % len(known)] if known and pick < 11 else (self._id(job_type, 0), "no-such-token")

    def teardown(self) -> None:
        """Let everything run out, unless something was wrong already."""
        if self.pair.sound:
            self.pair.drain()
