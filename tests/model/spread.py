"""The machine of a queue that is spread over partitions: where tasks are dealt, and what each partition hands out.

It knows no more of a task than where it waits, who has it, and that it ended; the other machine knows the rest.
"""

from __future__ import annotations

import msgspec
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.errors import QueueFull
from gateway.queue_settings import QueueSettings
from gateway.store.calls import Claim
from gateway.tasks import Queue, Task, TaskSpec, Unique
from tests.model.bench import GATEWAYS, Bench
from tests.model.limits import Limits
from tests.model.pair import START_MS

_QUEUE = Queue("default", "demo")
_LIMIT = 12

gateways = st.sampled_from(GATEWAYS)
numbers = st.integers(0, 3)


class SpreadMachine(RuleBasedStateMachine):
    """Calls the stores of several gateways, and keeps the lines and leases of each partition."""

    bench: Bench

    @classmethod
    def over(cls, bench: Bench) -> type[SpreadMachine]:
        """The machine that drives this bench."""
        return type("SpreadMachine", (cls,), {"bench": bench})

    @initialize(partitions=st.integers(2, 4))
    def begin(self, partitions: int) -> None:
        """An empty Redis, and a queue with partitions."""
        self.bench.reset(START_MS, _LIMIT)
        self.known = QueueSettings()
        self.lines: dict[int, list[str]] = {number: [] for number in range(4)}
        self.leases: dict[str, tuple[int, str]] = {}
        self.names = 0
        # Over how many partitions each gateway deals until it meets the settings as they are.
        self.met: dict[str, int] = {}
        self.configure(GATEWAYS[0], partitions, None, None)

    @rule(gateway=gateways, partitions=st.integers(1, 4), processing=st.sampled_from((None, 5, 8)),
          bound=st.sampled_from((None, 6)))  # fmt: skip
    def configure(self, gateway: str, partitions: int, processing: int | None, bound: int | None) -> None:
        """More partitions, or fewer: what were more before are worked off."""
        chosen = QueueSettings(max_processing=processing, max_pending=bound, partitions=partitions)
        found: QueueSettings = self.bench.run(self.bench.stores[gateway].tasks.configure(_QUEUE, chosen))
        spread = max(self.known.spread, partitions)
        assert found.version > self.known.version
        wanted = msgspec.structs.replace(
            chosen, spread=spread, version=found.version, paused_until_ms=self._paused_until_ms()
        )
        assert found == wanted
        self.known, self.met[gateway] = found, partitions
        self._compare_copies()

    @rule(gateway=gateways)
    def forget_older(self, gateway: str) -> None:
        """Partitions from before that hold nothing are asked no more."""
        self.bench.run(self.bench.stores[gateway].tasks.forget_older(_QUEUE))
        holding = [
            number
            for number in range(self.known.partitions, self.known.spread)
            if self.lines[number] or any(part == number for part, _ in self.leases.values())
        ]
        spread = max([self.known.partitions, *(number + 1 for number in holding)])
        # A gateway that did not hear of it may deal once more to one of those; that it is told of all that ever were is
        # not the store's business.
        for one in GATEWAYS:
            self._hear(one)
        assert self.known.spread == spread
        self._compare_copies()

    @rule(gateway=gateways, has_keys=st.booleans(), tasks=st.integers(1, 5), atomic=st.booleans())
    def enqueue(self, gateway: str, has_keys: bool, tasks: int, atomic: bool) -> None:
        """Those without a key go where there is room; those with one to the first partition."""
        # In which order those of one request with keys and without come to stand in one partition is not promised.
        keyed = [has_keys] * tasks
        specs = []
        for has_key in keyed:
            self.names += 1
            specs.append(TaskSpec("demo", unique=Unique(f"u{self.names}") if has_key else None))
        outcomes = self.bench.run(self.bench.stores[gateway].tasks.enqueue(_QUEUE, specs, atomic=atomic))
        parts, dealt = set(), max(self.known.partitions, self.met.get(gateway, 1))
        self.met[gateway] = self.known.partitions
        for has_key, outcome in zip(keyed, outcomes, strict=True):
            if not isinstance(outcome, Task):
                continue
            number = self._part_of(outcome.id)
            assert number < dealt
            assert not has_key or number == 0
            parts.add(number)
            self.lines[number].append(outcome.id)
            assert len(self.lines[number]) <= self._limits(number).most_waiting(), f"too many wait in {number}"
        for has_key, outcome in zip(keyed, outcomes, strict=True):
            places = [0] if has_key else range(self.known.partitions)
            asked = len(keyed) if atomic else 1
            if isinstance(outcome, QueueFull):
                free = [self._limits(at).most_waiting() - len(self.lines[at]) for at in places]
                assert max(free) < asked, f"refused {asked}, with room for {free}"
        if atomic:
            stored = [isinstance(outcome, Task) for outcome in outcomes]
            assert all(stored) or not any(stored)
            assert len(parts) <= 1

    @rule(gateway=gateways, number=numbers, most=st.integers(1, 5))
    def claim(self, gateway: str, number: int, most: int) -> None:
        """First in, first out in a partition, and no more than its part of the limits."""
        running = sum(part == number for part, _ in self.leases.values())
        room, _ = self._limits(number).room(self.bench.clock.now_ms, running)
        wanted = self.lines[number][: min(most, room)]
        self.names += 1
        claims = [Claim("w", most, seed=f"seed{self.names}")]
        claimed = self.bench.run(
            self.bench.stores[gateway].tasks.claim(_QUEUE.part(number), claims, stays=True, others=0, waited_ms=0)
        )
        note(f"claim {number}: {wanted}")
        given = [one.task.id for one in claimed.tasks[0]]
        assert given == wanted, f"{number} gave {given}, not {wanted}: {self.known}, {running} run, {room}"
        for one in claimed.tasks[0]:
            self.leases[one.task.id] = (number, one.token)
        del self.lines[number][: len(wanted)]

    @precondition(lambda self: self.leases)
    @rule(gateway=gateways, pick=st.integers(0, 7), pause_ms=st.sampled_from((None, None, None, 0, 2_000)))
    def report(self, gateway: str, pick: int, pause_ms: int | None) -> None:
        """Complete a task, or fail it and perhaps pause all of the queue."""
        task_id = list(self.leases)[pick % len(self.leases)]
        number, token = self.leases.pop(task_id)
        store, part = self.bench.stores[gateway].tasks, _QUEUE.part(number)
        if pause_ms is None:
            self.bench.run(store.complete(part, task_id, token, b"1"))
            return
        failed = store.fail(part, task_id, token, b"{}", b"{}", "no", retry_in_ms=0, pause_ms=pause_ms)
        self.bench.run(failed)
        self.lines[number].append(task_id)
        until_ms = max(self._paused_until_ms(), self.bench.clock.now_ms + pause_ms if pause_ms else 0)
        self._hear(gateway)
        assert self._paused_until_ms() == until_ms
        self._compare_copies()

    @rule(wait_ms=st.sampled_from((500, 2_000)))
    def wait(self, wait_ms: int) -> None:
        self.bench.clock.now_ms += wait_ms

    def teardown(self) -> None:
        """Every task is in its line, or in a worker's hands, and nowhere else."""
        if not hasattr(self, "known"):
            return
        self.bench.clock.now_ms += 2_000
        self.configure(GATEWAYS[0], 4, None, None)
        for number, line in self.lines.items():
            while line:
                before = len(line)
                self.claim(GATEWAYS[1], number, 900)
                assert len(line) < before
            self.claim(GATEWAYS[1], number, 1)

    # The means.

    def _hear(self, gateway: str) -> None:
        self.known = self.bench.run(self.bench.stores[gateway].tasks.settings(_QUEUE))
        self.met[gateway] = self.known.partitions

    def _paused_until_ms(self) -> int:
        until_ms = self.known.paused_until_ms
        return until_ms if until_ms > self.bench.clock.now_ms else 0

    def _limits(self, number: int) -> Limits:
        limits = Limits(_LIMIT, number)
        limits.settings = self.known
        return limits

    def _compare_copies(self) -> None:
        """Each partition that may hold tasks acts by the settings of the first."""
        store = self.bench.stores["gw1"].tasks
        for number in range(1, self.known.spread):
            found = self.bench.run(store.settings(_QUEUE.part(number)))
            assert found == self.known, f"partition {number} has {found}, not {self.known}"

    def _part_of(self, task_id: str) -> int:
        first, mark, _ = task_id.partition("~")[2].partition(".")
        return int(first) if mark else 0
