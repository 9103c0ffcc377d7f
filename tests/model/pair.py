"""The store and the model side by side: every call is made on both, and all that came of it is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.queue_settings import QueueSettings
from gateway.store.calls import Claim, Kept, Reported
from gateway.tasks import Queue
from tests.model import checks
from tests.model.bench import HEARD, Bench, Call
from tests.model.model import QueueModel

JOB_TYPES = ("demo", "mail")
START_MS = 1_800_000_000_000
NOBODY = "0" * 26
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_DAY_MS = 86_400_000


class Pair:
    """Both sides, empty at first. sound: nothing was found wrong yet."""

    def __init__(self, bench: Bench, limit: int) -> None:
        self.bench = bench
        self.names = 0
        bench.reset(START_MS, limit)
        self.queues = {job_type: QueueModel(job_type, limit, HEARD) for job_type in JOB_TYPES}
        # Ids that are no more, and all leases that ever were, oldest first.
        self.gone: dict[str, list[str]] = {job_type: [] for job_type in JOB_TYPES}
        self.leases: dict[str, list[tuple[str, str]]] = {job_type: [] for job_type in JOB_TYPES}
        self.last: Call | None = None
        # Which version of which settings each gateway met last.
        self._met: dict[tuple[str, str], int] = {}
        self.sound = True

    @property
    def now_ms(self) -> int:
        """The time on both sides."""
        return self.bench.clock.now_ms

    def ulid(self) -> str:
        """Make a name for a task: the same ones in every run."""
        self.names += 1
        number = (self.now_ms << 80) | self.names
        return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))

    def seed(self) -> str:
        """Make the start of a poll's tokens: likewise."""
        self.names += 1
        return f"seed{self.names}"

    def bound(self, limit: int) -> None:
        """Set another bound of waiting tasks."""
        for queue in self.queues.values():
            queue.limits.queue_limit = limit
        for store in self.bench.stores.values():
            store.tasks.queue_limit = limit

    def pass_time(self, now_ms: int) -> None:
        """Move the clock."""
        self.sound = False
        self.bench.clock.now_ms = now_ms
        for queue in self.queues.values():
            queue.pass_time(now_ms)
        self.bench.run(self.bench.contents.pass_time(now_ms))
        self.compare()
        self.sound = True

    def make(self, call: Call) -> Any:
        """Make a call on both sides and compare all that came of it. Returns what both answered."""
        self.sound = False
        queue, now_ms = self.queues[call.job_type], self.bench.clock.now_ms
        before = {task_id: task.status(now_ms) for task_id, task in queue.tasks.items()}
        queue.published, queue.mine = [], 0
        given = () if call.verb in ("heartbeat", "cancel", "delete", "purge") else (call.gateway,)
        wanted = getattr(queue, call.verb)(now_ms, *given, *call.arguments)
        queue.settle(now_ms)
        found = self.bench.call(call)
        if call.verb == "enqueue":
            found, wanted = _but_for_repeated(found, before), _but_for_repeated(wanted, before)
        assert found == wanted, f"{call.verb} answered {found}, not {wanted}"
        assert self.bench.ears.mine == queue.mine, f"told to claim {self.bench.ears.mine} itself, not {queue.mine}"
        heard = self.bench.heard()
        assert sorted(heard) == sorted(queue.published), f"published {heard}, not {queue.published}"
        after = {task_id: task.status(now_ms) for task_id, task in queue.tasks.items()}
        checks.check_moves(before, after, call.verb, gone=call.verb in ("expire", "delete", "purge"))
        self.bench.seen.update(_words(call.verb, found))
        if call.verb == "claim":
            self._note_leases(call.job_type, found[0])
            self.bench.seen["claim held back"] += any(task.held for task in queue.tasks.values())
            self.bench.seen["claim without room"] += not queue.room(now_ms)[0]
            resumes_ms = queue.resumes_ms(now_ms)
            # Who took the last of the room, or found none, is to look again.
            assert not resumes_ms or any(
                name == call.job_type and at <= resumes_ms for name, at in self.bench.ears.alarms
            ), f"no alarm for {resumes_ms}, when more may be handed out"
        if call.verb == "expire":
            alarms = [one for one in self.bench.ears.alarms if one[0] != call.job_type or one[1] > now_ms]
            self.bench.ears.alarms = alarms + [(call.job_type, at) for at in [found.next_alarm_ms] if at]
        self.compare()
        self.gone[call.job_type] += [task_id for task_id in before if task_id not in after]
        self.last = call
        if call.verb in ("enqueue", "configure"):
            self._met[call.gateway, call.job_type] = queue.limits.settings.version
        self.sound = True
        return found

    def knows_the_settings(self, gateway: str, job_type: str) -> bool:
        """Whether a gateway has met a queue's settings as they are. One that has not asks twice to enqueue."""
        return self._met.get((gateway, job_type), 0) == self.queues[job_type].limits.settings.version

    def _note_leases(self, job_type: str, polls: Sequence[Sequence[tuple[str, str, int, int]]]) -> None:
        for tasks in polls:
            for task_id, token, _, _ in tasks:
                if (task_id, token) in self.leases[job_type]:
                    self.bench.seen["claim given again"] += 1
                else:
                    assert all(token != other for _, other in self.leases[job_type]), f"token {token} came twice"
                    self.leases[job_type].append((task_id, token))

    def compare(self) -> None:
        """Everything that Redis holds, and every task as clients see it."""
        now_ms = self.bench.clock.now_ms
        checks.check_keys(list(self.queues.values()), self.bench.holds(), now_ms)
        for job_type, queue in self.queues.items():
            checks.check_sense(queue, now_ms)
            known = [*queue.tasks, *self.gone[job_type][-2:], f"{job_type}~{NOBODY}"]
            seen = self.bench.read(Queue("default", job_type), known)
            for task_id, found in zip(known, seen, strict=True):
                wanted = queue.read(task_id, now_ms)
                assert found == wanted, f"{task_id} reads {_unlike(found, wanted)}"
            moments = queue.moments(retention=False)
            alarms = [at for name, at in self.bench.ears.alarms if name == job_type]
            assert not moments or min(alarms, default=now_ms + _DAY_MS * 400) <= min(moments), (
                f"no alarm for {min(moments)}: {sorted(alarms)[:3]}"
            )
        counts = self.bench.run(self.bench.stores["gw1"].inspector.stats([Queue("default", one) for one in JOB_TYPES]))
        for job_type, found in zip(JOB_TYPES, counts, strict=True):
            wanted = self.queues[job_type].stats(now_ms)
            stats = msgspec.structs.replace(found, totals=checks.of_tasks(found.totals))
            assert {name: getattr(stats, name) for name in wanted} == wanted, f"stats {stats}, not {wanted}"

    def drain(self) -> None:
        """Let everything run out: every task is handed out and ends, and after its retention nothing of it is left."""
        for job_type in JOB_TYPES:
            if self.queues[job_type].limits.settings.version:
                self.make(Call("configure", job_type, "gw1", (QueueSettings(max_processing_per_key=50), None, 0)))
        for _ in range(100):
            for job_type in JOB_TYPES:
                wanted = [Claim("w9", 50, seed=self.seed())]
                self.make(Call("claim", job_type, "gw1", (wanted, False, 0, 0)))
                held = self.queues[job_type].all(lambda task: task.lease)
                reports = [(task.id, task.lease.token, b"1") for task in held if task.lease is not None]
                self.make(Call("complete", job_type, "gw1", (reports,)))
            if not any(queue.tasks for queue in self.queues.values()):
                break
            coming = min(at for queue in self.queues.values() for at in queue.moments())
            self.pass_time(max(self.bench.clock.now_ms, coming) + 1)
            for job_type in JOB_TYPES:
                self.make(Call("expire", job_type, "gw1", (200,)))
        assert not any(queue.tasks for queue in self.queues.values()), "tasks are left that nothing ends"
        self.pass_time(self.bench.clock.now_ms + 2 * _DAY_MS)
        left = {name.rpartition(":")[2] for name in self.bench.holds()}
        assert left <= {"seq", "totals", "settings"}, f"left behind: {left}"


def _but_for_repeated(batches: list[list[tuple[Any, ...]]], known: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
    """The answers, but for what a repeated call says of the place of a task that was stored before."""
    return [[one[:2] if one[0] == "stored" and one[1] in known else one for one in batch] for batch in batches]


def _words(verb: str, outcome: Any) -> list[str]:
    """What a call came to, for the count of what the runs met."""
    if verb == "claim":
        polls, _, registered = outcome
        return [f"claim {'served' if any(polls) else 'empty'}", *["claim registered"] * registered]
    if verb == "configure":
        return ["configure" if isinstance(outcome, QueueSettings) else "configure StaleSettings"]
    if verb == "purge":
        return ["purge"] * (outcome > 0)
    if verb == "expire":
        return [f"expire {name}" for name, number in msgspec.structs.asdict(outcome).items() if number]
    found = []
    for one in [one for batch in outcome for one in batch] if verb == "enqueue" else _listed(outcome):
        word = one.status.value if isinstance(one, Reported) else one
        if isinstance(one, tuple):
            word = one[1] if one[0] == "refused" else one[0]
        elif isinstance(one, Kept):
            word = "kept, to be cancelled" if one.cancel_requested else "kept"
        found.append(f"{verb} {word}")
    return found


def _listed(outcome: Any) -> list[Any]:
    return outcome if isinstance(outcome, list) else [outcome]


def _unlike(found: Any, wanted: Any) -> str:
    if found is None or wanted is None:
        return f"{found}, not {wanted}"
    return "; ".join(
        f"{name} {getattr(found, name)!r}, not {getattr(wanted, name)!r}"
        for name in msgspec.structs.asdict(found)
        if getattr(found, name) != getattr(wanted, name)
    )
