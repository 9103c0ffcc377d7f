"""One queue as the documents describe it, in plain Python: what every verb answers, and what it leaves behind.

Times are unix ms and handed in. A verb takes a batch and answers one outcome per item; an outcome is a plain value, so
that it can be compared with what the store answered: a tuple led by a word, or a struct of the store's own.
What an operator set is in limits.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gateway import retries
from gateway.queue_settings import QueueSettings
from gateway.store.calls import Claim, Kept, Reported, Swept
from gateway.tasks import Attempt, LogLine, Status, Task, TaskSpec
from tests.model.limits import Limits
from tests.model.states import Ending, GivenToPoll, HeldLease, ModelTask, Registration, normal, words

MIN_RECORD_TTL_MS = 10_000
REGISTRATION_MS = 600_000
POLL_SPARE_MS = 60_000
LOG_LINES = 200
CLAIM_PROMOTES, ENQUEUE_PROMOTES = 100, 200
SWEEP_LOOKS_AT = 10
# Of two tasks due at one ms, in a sweep with room for one of them, this priority goes first.
_DUE_ORDER = {2: 0.0, 0: 0.25, 1: 0.5, 3: 0.75}
_SETTLED = {"completed": Status.COMPLETED, "failed": Status.FAILED, "cancelled": Status.CANCELLED}

Outcome = Any


class QueueModel:
    """One queue. heard: gateways whose channel somebody listens on."""

    def __init__(self, job_type: str, limit: int, heard: frozenset[str]) -> None:
        self.job_type = job_type
        self.limits = Limits(limit)
        self.heard = heard
        self.tasks: dict[str, ModelTask] = {}
        self.unique: dict[str, tuple[str, int | None]] = {}
        self.polls: dict[tuple[str, str], GivenToPoll] = {}
        self.registered: dict[str, Registration] = {}
        self.registered_until_ms = 0
        self.watchers: set[tuple[str, str]] = set()
        self.watched_until_ms = 0
        self.totals: dict[str, int] = {}
        self.sequence = 0
        # Held back tasks that became ready and that nobody was told of yet.
        self.let_go = 0
        # What this call told others: (gateway, message), and tasks that the caller should claim itself.
        self.published: list[tuple[str, str]] = []
        self.mine = 0

    # What there is.

    def all(self, chosen: Callable[[ModelTask], object]) -> list[ModelTask]:
        """The tasks of which this is true."""
        return [task for task in self.tasks.values() if chosen(task)]

    def ready(self) -> list[ModelTask]:
        """In the order of their hand-out, without those that are held back."""
        return [task for task in self.ranked() if not task.held]

    def ranked(self) -> list[ModelTask]:
        """All that are ready, held back or not, in their order."""
        return sorted(self.all(lambda task: task.rank is not None), key=lambda task: task.rank or (0, 0))

    def running(self, key: str) -> list[ModelTask]:
        """The leased tasks of a concurrency key."""
        return self.all(lambda task: task.lease is not None and task.spec.concurrency_key == key)

    def room(self, now_ms: int) -> tuple[int, int]:
        """How many tasks may be handed out now, and when more may be (0: not by time alone)."""
        return self.limits.room(now_ms, len(self.all(lambda task: task.lease)))

    def resumes_ms(self, now_ms: int) -> int:
        """When more may be handed out, where nothing may be now (0: it may, or not by time alone)."""
        free, at_ms = self.room(now_ms)
        return 0 if free else at_ms

    def depth(self) -> int:
        """How many wait."""
        return len(self.all(lambda task: task.waits))

    def stored(self, task_id: str, now_ms: int) -> ModelTask | None:
        """A task that is alive, or final and on record."""
        task = self.tasks.get(task_id)
        if task is None or (task.ending is not None and task.ending.record_until_ms <= now_ms):
            return None
        return task

    def holder(self, key: str, now_ms: int) -> ModelTask | None:
        """Who holds a unique key."""
        held = self.unique.get(key)
        return self.stored(held[0], now_ms) if held is not None else None

    def pass_time(self, now_ms: int) -> None:
        """Forget what ends by itself, with its time to live."""
        for key, (_, until_ms) in list(self.unique.items()):
            if until_ms is not None and until_ms <= now_ms:
                del self.unique[key]
        self.polls = {name: poll for name, poll in self.polls.items() if poll.until_ms > now_ms}
        if self.registered_until_ms <= now_ms:
            self.registered.clear()
        if self.watched_until_ms <= now_ms:
            self.watchers.clear()

    # Moves that verbs share.

    def _next(self) -> int:
        self.sequence += 1
        return self.sequence

    def _to_ready(self, task: ModelTask) -> None:
        task.to(rank=(task.spec.priority, self._next()))

    def _count(self, name: str) -> None:
        self.totals[name] = self.totals.get(name, 0) + 1

    def _promote(self, now_ms: int, limit: int) -> int:
        due = self.all(lambda task: task.due_ms is not None and task.due_ms <= now_ms)
        due.sort(key=lambda task: ((task.due_ms or 0) + _DUE_ORDER[task.spec.priority], task.ulid))
        for task in due[:limit]:
            self._to_ready(task)
        return len(due[:limit])

    def _free(self, key: str | None) -> None:
        """A task of this concurrency key left its place: where that makes room, the first one held back is ready."""
        if key is None or len(self.running(key)) >= self.limits.most_of_a_key():
            return
        held = [task for task in self.ranked() if task.held and task.spec.concurrency_key == key]
        if held:
            held[0].held = False
            self.let_go += 1

    def _give_up_key(self, task: ModelTask) -> None:
        key = task.keyed
        if key is not None and self.unique.get(key, ("",))[0] == task.id:
            del self.unique[key]

    def _tell_end(self, task: ModelTask) -> None:
        for gateway, task_id in sorted(self.watchers):
            if task_id == task.id:
                self.watchers.discard((gateway, task_id))
                if gateway in self.heard:
                    self.published.append((gateway, f"final {{default:{self.job_type}}}{task.ulid}"))

    def _finish(
        self, now_ms: int, task: ModelTask, status: str, *, result: bytes | None = None, error: bytes | None = None,
        code: str = "",
    ) -> None:  # fmt: skip
        spec, lease = task.spec, task.lease
        retention_ms = spec.failed_retention_ms if status == "failed" else spec.retention_ms
        until_ms = now_ms + max(retention_ms, MIN_RECORD_TTL_MS)
        # A report is answered again as it was; what a script ended itself, nobody reported.
        ending = Ending(_SETTLED[status], "", task.attempts, "", 0, now_ms, code, result, error, until_ms)
        if lease is not None:
            ending.token = "" if code else lease.token
            ending.attempt, ending.worker_id, ending.started_at_ms = lease.attempt, lease.worker_id, lease.started_at_ms
        task.to(ending=ending)
        task.attempts, task.expires_at_ms = 0, None
        self._free(spec.concurrency_key)
        self._give_up_key(task)
        self._tell_end(task)
        self._count(status)

    def _ring(self, now_ms: int, ready: int, gateway: str) -> None:
        """Tell those who wait longest of so many tasks, and of those let go; of no more than may be handed out."""
        ready, self.let_go = min(ready + self.let_go, self.room(now_ms)[0]), 0
        while ready > 0 and self.registered:
            longest = min(self.registered, key=lambda name: (self.registered[name].waits_since_ms, name))
            one = self.registered.pop(longest)
            if one.polls == 0 or now_ms - one.at_ms >= REGISTRATION_MS:
                continue
            share = min(one.polls, ready)
            if longest == gateway:
                self.mine += share
            elif longest in self.heard:
                self.published.append((longest, f"ready {share} {{default:{self.job_type}}}"))
            else:
                continue
            ready -= share

    def _ring_after(self, now_ms: int, ready: int, gateway: str) -> None:
        """As `_ring`, after leases ended: that may be what others waited for that were ready before."""
        if self.limits.most_processing() is not None:
            ready = len(self.ready()) - self.let_go
        self._ring(now_ms, ready, gateway)

    def settle(self, now_ms: int) -> None:
        """End a verb: whatever it let go is told of."""
        if self.let_go:
            self._ring(now_ms, 0, "")

    def _held(self, task_id: str, token: str, now_ms: int) -> tuple[ModelTask, HeldLease] | None:
        task = self.tasks.get(task_id)
        if task is None or task.lease is None or task.lease.token != token or now_ms > task.lease.ends_at_ms:
            return None
        return task, task.lease

    def _refuse(self, task_id: str, now_ms: int) -> Outcome:
        return ("refused", "LeaseLost" if self.stored(task_id, now_ms) else "TaskNotFound")

    def _replay(self, task_id: str, token: str, now_ms: int, verb: str, *known: str) -> Outcome:
        """What a token that holds nothing may still hear: the answer that this verb got."""
        task = self.stored(task_id, now_ms)
        if task is not None:
            ending = task.ending
            if ending is not None and ending.token == token and ending.status.value in known:
                return ending.status.value, 0, ending.worker_id
            if task.last is not None and task.last[:2] == (verb, token) and task.last[2] in known:
                return task.last[2:]
        return None

    # Verbs.

    def enqueue(
        self, now_ms: int, gateway: str, calls: Sequence[tuple[Sequence[tuple[str, TaskSpec]], bool]]
    ) -> list[list[Outcome]]:
        """Store tasks. calls: (name and spec of each, whether all or none), as requests that share one call."""
        verdicts: list[list[Outcome]] = []
        plans: list[tuple[str, ModelTask | str, str, TaskSpec]] = []
        given: dict[str, str] = {}
        taken = self.depth()
        for items, atomic in calls:
            outcomes: list[Outcome] = []
            for group in [items] if atomic else [[item] for item in items]:
                trial, planned, answers, room = dict(given), [], [], 0
                for ulid, spec in group:
                    task_id = f"{self.job_type}~{ulid}"
                    known, unique = self.stored(task_id, now_ms), spec.unique
                    held: str | None = None
                    if unique is not None and known is None:
                        holder = self.holder(unique.key, now_ms)
                        held = trial.get(unique.key) or (holder.id if holder is not None else None)
                    if held is not None and unique is not None:
                        holder = self.tasks.get(held)
                        if unique.on_conflict == "replace" and (holder is None or holder.waits):
                            answers.append(("held", held))
                            planned.append(("replace", held, ulid, spec))
                        else:
                            answers.append(
                                ("held", held) if unique.on_conflict == "return" else ("refused", "UniqueConflict")
                            )
                        continue
                    due_ms = spec.run_at_ms or now_ms + spec.delay_ms
                    status = Status.SCHEDULED if due_ms > now_ms else Status.PENDING
                    answers.append(("stored", task_id, status))
                    if known is None:
                        room += 1
                        planned.append(("store", task_id, ulid, spec))
                        if unique is not None:
                            trial[unique.key] = task_id
                    else:
                        planned.append(("known", task_id, ulid, spec))
                if len(group) > 1 and ("refused", "UniqueConflict") in answers:
                    answers = [one if one[0] == "refused" else ("refused", "BatchRefused") for one in answers]
                elif room and taken + room > self.limits.most_waiting():
                    # One with a unique key needs no room where another task holds it.
                    keyless = sum(spec.unique is None for _, spec in group)
                    never = atomic and keyless > self.limits.most_waiting()
                    full = ("refused", "BatchTooLarge" if never else "QueueFull")
                    answers = [one if len(group) == 1 and one[0] != "stored" else full for one in answers]
                else:
                    taken, given = taken + room, trial
                    plans += planned
                outcomes += answers
            verdicts.append(outcomes)
        if not plans:
            return verdicts
        self._promote(now_ms, ENQUEUE_PROMOTES)
        ready = 0
        for what, task_id, ulid, given_spec in plans:
            if what == "known":
                continue
            assert isinstance(task_id, str)
            spec, before = self.limits.fill(given_spec), None
            due_ms = spec.run_at_ms or now_ms + spec.delay_ms
            if what == "store":
                task = self.tasks[task_id] = ModelTask(task_id, ulid, normal(spec), now_ms)
            else:
                task = self.tasks[task_id]
                before = task.spec.concurrency_key
                # It has one attempt more at least.
                max_attempts = max(spec.max_attempts, task.attempts + 1)
                task.spec = msgspec.structs.replace(normal(spec), max_attempts=max_attempts)
                task.told_due_ms = max(due_ms, now_ms)
            task.expires_at_ms = now_ms + spec.expires_in_ms if spec.expires_in_ms else None
            if spec.unique is not None:
                until_ms = now_ms + spec.unique.for_ms if spec.unique.for_ms else None
                self.unique[spec.unique.key] = (task_id, until_ms)
            if due_ms > now_ms:
                task.to(due_ms=due_ms)
            else:
                self._to_ready(task)
                ready += 1
            self._free(before)
            self._count("enqueued" if what == "store" else "replaced")
        if ready:
            self._ring(now_ms, ready, gateway)
        return verdicts

    def claim(
        self, now_ms: int, gateway: str, claims: Sequence[Claim], stays: bool, others: int, waited_ms: int
    ) -> Outcome:
        """Hand out ready tasks. Answers per poll its tasks, how many are left, whether the gateway is registered."""
        self._promote(now_ms, min(sum(claim.max for claim in claims) + CLAIM_PROMOTES, 1000))
        unserved, given, free = others, [], self.room(now_ms)[0]
        for claim in claims:
            name = (claim.worker_id, claim.poll_id)
            tasks = self._recall(now_ms, name) if claim.poll_id else []
            if not tasks:
                tasks = self._take(now_ms, claim, min(claim.max, free))
                free -= len(tasks)
                self.limits.spend(now_ms, len(tasks))
                if claim.poll_id and tasks:
                    longest_ms = max(one[2] for one in tasks)
                    leases = [(one[0], one[1]) for one in tasks]
                    self.polls[name] = GivenToPoll(leases, now_ms + longest_ms + POLL_SPARE_MS)
                elif claim.poll_id and claim.max == 0 and name not in self.polls:
                    # That it was asked for is noted, too: it may have got tasks of another queue.
                    self.polls[name] = GivenToPoll([], now_ms + (claim.lease_ms or 30_000) + POLL_SPARE_MS)
            if not tasks and stays:
                unserved += 1
            given.append(tasks)
        # What was let go meanwhile is among what is left.
        self.let_go = 0
        left = len(self.ready()) if self.room(now_ms)[0] else 0
        registers = unserved > 0 and left == 0
        if registers:
            self.registered[gateway] = Registration(now_ms - waited_ms, unserved, now_ms)
            self.registered_until_ms = now_ms + REGISTRATION_MS
        return given, left, registers

    def _recall(self, now_ms: int, name: tuple[str, str]) -> list[Outcome]:
        poll, tasks = self.polls.get(name), []
        for task_id, token in poll.leases if poll is not None else ():
            held = self._held(task_id, token, now_ms)
            if held is not None:
                tasks.append((task_id, token, held[1].ends_at_ms - now_ms, held[1].attempt))
        if poll is not None and tasks:
            poll.recalled = True
        return tasks

    def _take(self, now_ms: int, claim: Claim, most: int) -> list[Outcome]:
        tasks: list[Outcome] = []
        while len(tasks) < most and (ready := self.ready()):
            task = ready[0]
            if task.expires_at_ms is not None and task.expires_at_ms <= now_ms:
                self._finish(now_ms, task, "failed", error=words("expired", "not started in time"), code="expired")
                continue
            key = task.spec.concurrency_key
            if key is not None and len(self.running(key)) >= self.limits.most_of_a_key():
                task.held = True
                continue
            expires_at_ms, task.expires_at_ms = task.expires_at_ms, None
            spec = task.spec
            if spec.unique is not None and spec.unique.until == "started":
                self._give_up_key(task)
            task.attempts += 1
            lease_ms = claim.lease_ms or spec.lease_ms
            deadline_ms = now_ms + spec.timeout_ms if spec.timeout_ms else 0
            ends_at_ms = min(now_ms + lease_ms, deadline_ms or now_ms + lease_ms)
            token = f"{claim.seed}.{len(tasks)}" if tasks else claim.seed
            assert task.rank is not None
            lease = HeldLease(
                token, claim.worker_id, now_ms, lease_ms, task.rank, task.attempts, deadline_ms, ends_at_ms,
                expires_at_ms=expires_at_ms,
            )  # fmt: skip
            task.to(lease=lease)
            tasks.append((task.id, token, ends_at_ms - now_ms, task.attempts))
        return tasks

    def heartbeat(self, now_ms: int, reports: Sequence[tuple[str, str, int, bytes, Sequence[str]]]) -> list[Outcome]:
        """Keep leases. reports: id, token, lease_ms (0: as before), progress, lines."""
        outcomes: list[Outcome] = []
        for task_id, token, lease_ms, progress, lines in reports:
            held = self._held(task_id, token, now_ms)
            if held is None:
                outcomes.append(self._refuse(task_id, now_ms))
                continue
            task, lease = held
            lease.lease_ms = lease_ms or lease.lease_ms
            lease.ends_at_ms = min(now_ms + lease.lease_ms, lease.deadline_ms or now_ms + lease.lease_ms)
            task.progress = progress or task.progress
            lease.spoke = lease.spoke or bool(progress or lines)
            task.log = (task.log + [LogLine(now_ms, lease.attempt, line) for line in lines])[-LOG_LINES:]
            outcomes.append(Kept(lease.ends_at_ms - now_ms, lease.cancel_requested, lease.worker_id))
        return outcomes

    def complete(self, now_ms: int, gateway: str, reports: Sequence[tuple[str, str, bytes]]) -> list[Outcome]:
        """End leased tasks well. reports: id, token, result."""
        outcomes: list[Outcome] = []
        for task_id, token, result in reports:
            held = self._held(task_id, token, now_ms)
            if held is not None:
                outcomes.append(Reported(Status.COMPLETED, held[1].worker_id))
                self._finish(now_ms, held[0], "completed", result=result)
                continue
            again = self._replay(task_id, token, now_ms, "complete", "completed")
            outcomes.append(Reported(Status.COMPLETED, again[2]) if again else self._refuse(task_id, now_ms))
        self._ring_after(now_ms, 0, gateway)
        return outcomes

    def fail(
        self, now_ms: int, gateway: str, reports: Sequence[tuple[str, str, bytes, bytes, bool, int | None, int]]
    ) -> list[Outcome]:
        """End attempts badly.

        reports: id, token, error, brief error, retryable, retry_in_ms (None: its own rule), pause_ms of the queue.
        """
        outcomes: list[Outcome] = []
        ready = longest_ms = 0
        for task_id, token, error, brief, retryable, retry_in_ms, pause_ms in reports:
            held = self._held(task_id, token, now_ms)
            if held is None:
                again = self._replay(task_id, token, now_ms, "fail", "retrying", "failed", "cancelled")
                outcomes.append(
                    Reported(Status(again[0]), again[2], again[1]) if again else self._refuse(task_id, now_ms)
                )
                continue
            task, lease = held
            longest_ms = max(longest_ms, pause_ms)
            if lease.cancel_requested or not retryable or lease.attempt >= task.spec.max_attempts:
                status = "cancelled" if lease.cancel_requested else "failed"
                self._finish(now_ms, task, status, error=error)
                outcomes.append(Reported(Status(status), lease.worker_id))
                continue
            delay_ms = retries.delay_ms(task.spec.retry, lease.attempt) if retry_in_ms is None else retry_in_ms
            self._remember(task, lease, now_ms, "failed", brief)
            task.error, task.last = error, ("fail", token, "retrying", now_ms + delay_ms, lease.worker_id)
            if delay_ms:
                task.to(due_ms=now_ms + delay_ms)
            else:
                self._to_ready(task)
                ready += 1
            self._free(task.spec.concurrency_key)
            self._count("retried")
            outcomes.append(Reported(Status.RETRYING, lease.worker_id, now_ms + delay_ms))
        settings = self.limits.settings
        if longest_ms and now_ms + longest_ms > settings.paused_until_ms:
            self.limits.replace(
                msgspec.structs.replace(settings, paused_until_ms=now_ms + longest_ms, version=settings.version + 1)
            )
        self._ring_after(now_ms, ready, gateway)
        return outcomes

    def _remember(self, task: ModelTask, lease: HeldLease, now_ms: int, outcome: str, error: bytes | None) -> None:
        line = Attempt(lease.attempt, lease.worker_id, lease.started_at_ms, now_ms, outcome, error)
        task.history[lease.attempt, lease.started_at_ms] = line

    def release(
        self, now_ms: int, gateway: str, reports: Sequence[tuple[str, str, int, bool, tuple[str, str] | None]]
    ) -> list[Outcome]:
        """Give leased tasks back. reports: id, token, delay_ms, front, the poll whose reply was lost."""
        outcomes: list[Outcome] = []
        ready = 0
        for task_id, token, delay_ms, front, poll in reports:
            held = self._held(task_id, token, now_ms)
            if held is None:
                known = ("pending", "scheduled", "retrying", "cancelled")
                again = self._replay(task_id, token, now_ms, "release", *known)
                outcomes.append(Reported(Status(again[0]), "", again[1]) if again else self._refuse(task_id, now_ms))
                continue
            task, lease = held
            if poll is not None and poll in self.polls and self.polls[poll].recalled:
                outcomes.append(Reported(Status.PROCESSING))
                continue
            if lease.cancel_requested:
                self._finish(now_ms, task, "cancelled", error=words("cancelled", "cancelled while it was processed"))
                outcomes.append(Reported(Status.CANCELLED))
                continue
            word, due_ms = "pending", 0
            task.attempts, task.expires_at_ms = lease.attempt - 1, lease.expires_at_ms
            if delay_ms:
                word, due_ms = "retrying" if task.attempts else "scheduled", now_ms + delay_ms
                task.to(due_ms=due_ms)
            elif front:
                task.to(rank=lease.rank)
            else:
                self._to_ready(task)
            ready += not delay_ms
            self._free(task.spec.concurrency_key)
            if not front or lease.spoke:
                task.last = ("release", token, word, due_ms, lease.worker_id)
            self._count("released")
            outcomes.append(Reported(Status(word), "", due_ms))
        self._ring_after(now_ms, ready, gateway)
        return outcomes

    def expire(self, now_ms: int, gateway: str, limit: int) -> Swept:
        """Sweep: lapsed leases, tasks not started in time, due ones, ended retention; `limit` of each."""
        lapsed = timed_out = ready = 0
        ended = self.all(lambda task: task.lease is not None and task.lease.ends_at_ms < now_ms)
        ended.sort(key=lambda task: (task.lease.ends_at_ms if task.lease else 0, task.ulid))
        for task in ended[:limit]:
            lease = task.lease
            assert lease is not None
            kind, outcome, message = "lease_lapsed", "lapsed", "the worker fell silent: its lease ran out"
            if lease.deadline_ms and lease.deadline_ms <= now_ms:
                kind, outcome, message = "timeout", "timeout", "the attempt took longer than timeout_seconds"
            timed_out, lapsed = timed_out + (kind == "timeout"), lapsed + (kind != "timeout")
            if lease.cancel_requested or lease.attempt >= task.spec.max_attempts:
                status = "cancelled" if lease.cancel_requested else "failed"
                self._finish(now_ms, task, status, error=words(kind, message), code=outcome)
            else:
                self._remember(task, lease, now_ms, outcome, words(kind, message))
                task.error = words(kind, message)
                self._to_ready(task)
                self._free(task.spec.concurrency_key)
                ready += 1
            self._count("timeouts" if kind == "timeout" else "lapsed")
        late = self.all(lambda task: task.expires_at_ms is not None and task.expires_at_ms <= now_ms)
        late.sort(key=lambda task: (task.expires_at_ms or 0, task.ulid))
        for task in late[:limit]:
            self._finish(now_ms, task, "failed", error=words("expired", "not started in time"), code="expired")
        promoted = self._promote(now_ms, limit)
        old = self.all(lambda task: task.ending is not None and task.ending.record_until_ms <= now_ms)
        letters = {Status.COMPLETED: "c", Status.FAILED: "f", Status.CANCELLED: "x"}
        old.sort(key=lambda task: (task.ending.record_until_ms, letters[task.ending.status], task.ulid))  # type: ignore[union-attr]
        for task in old[:limit]:
            del self.tasks[task.id]
        self._look_at_held(now_ms)
        moments = self.moments()
        if not self.limits.governs():
            self._ring(now_ms, ready + promoted, gateway)
        elif waiting := len(self.ready()):
            # What time alone made room for, nobody else tells of.
            moments += [at for at in [self.resumes_ms(now_ms)] if at]
            self._ring(now_ms, waiting - self.let_go, gateway)
        alarm_ms = min(moments, default=0)
        return Swept(alarm_ms, lapsed, timed_out, len(late[:limit]), promoted, len(old[:limit]))

    def _look_at_held(self, now_ms: int) -> None:
        """Let go what nothing else let go: a few tasks at a time."""
        held = sorted(self.all(lambda task: task.held), key=lambda task: task.ulid)
        first = now_ms % len(held) if held else 0
        for task in held[first : first + SWEEP_LOOKS_AT]:
            self._free(task.spec.concurrency_key)

    def moments(self, *, retention: bool = True) -> list[int]:
        """When the queue needs a sweep (unix ms), one for each cause."""
        found = []
        for task in self.tasks.values():
            found += [at for at in (task.due_ms, task.expires_at_ms) if at is not None]
            if task.lease is not None:
                found.append(task.lease.ends_at_ms + 1)
            if task.ending is not None and retention:
                found.append(task.ending.record_until_ms)
        return found

    def cancel(self, now_ms: int, task_ids: Sequence[str]) -> list[Outcome]:
        """Cancel waiting tasks; ask the workers of others."""
        outcomes: list[Outcome] = []
        for task_id in task_ids:
            task = self.stored(task_id, now_ms)
            if task is None:
                outcomes.append(("refused", "TaskNotFound"))
            elif task.ending is not None:
                outcomes.append(("refused", "AlreadyFinished"))
            elif task.lease is not None:
                task.lease.cancel_requested = True
                outcomes.append(False)
            else:
                self._finish(now_ms, task, "cancelled", error=words("cancelled", "cancelled before it started"))
                outcomes.append(True)
        return outcomes

    def retry(self, now_ms: int, gateway: str, task_ids: Sequence[str]) -> list[Outcome]:
        """Send failed and cancelled tasks back with fresh attempts."""
        outcomes: list[Outcome] = []
        ready = 0
        for task_id in task_ids:
            task = self.stored(task_id, now_ms)
            ending = task.ending if task is not None else None
            if task is None:
                outcomes.append(("refused", "TaskNotFound"))
            elif ending is None:
                outcomes.append(("refused", "NotFinished"))
            elif ending.status is Status.COMPLETED:
                outcomes.append(("refused", "AlreadyFinished"))
            elif self.depth() >= self.limits.most_waiting():
                outcomes.append(("refused", "QueueFull"))
            elif task.keyed is not None and self.holder(task.keyed, now_ms) is not None:
                outcomes.append(("refused", "UniqueConflict"))
            else:
                if ending.started_at_ms:
                    line = Attempt(
                        ending.attempt, ending.worker_id, ending.started_at_ms, ending.finished_at_ms,
                        ending.code or ending.status.value,
                    )  # fmt: skip
                    task.history[ending.attempt, ending.started_at_ms] = line
                task.progress = task.error = task.last = None
                task.told_due_ms = now_ms
                if task.keyed is not None:
                    self.unique[task.keyed] = (task.id, None)
                self._to_ready(task)
                ready += 1
                self._count("redriven")
                outcomes.append(None)
        self._ring(now_ms, ready, gateway)
        return outcomes

    def patch(
        self, now_ms: int, gateway: str, task_id: str, changes: dict[str, Any], due: bytes | int | None
    ) -> Outcome:
        """Change a waiting task. due: b"+<ms>" from now, b"0" now, unix ms, or None as it is."""
        task = self.stored(task_id, now_ms)
        if task is None:
            return ("refused", "TaskNotFound")
        if not task.waits:
            return ("refused", "AlreadyFinished" if task.ending else "AlreadyStarted")
        moved = changes.get("priority", task.spec.priority) != task.spec.priority
        task.spec = msgspec.structs.replace(task.spec, **changes)
        due_ms = task.due_ms or 0
        if due is not None:
            due_ms = now_ms + int(due) if isinstance(due, bytes) and due[:1] == b"+" else int(due)
            due_ms = due_ms if due_ms > now_ms else 0
            task.told_due_ms = max(due_ms, now_ms)
        key = task.spec.concurrency_key
        if due_ms:
            task.to(due_ms=due_ms)
            self._free(key)
        elif task.due_ms is not None or moved:
            self._to_ready(task)
            if moved:
                self._free(key)
            self._ring(now_ms, 1, gateway)
        return None

    def delete(self, now_ms: int, task_ids: Sequence[str]) -> list[Outcome]:
        """Forget waiting and final tasks."""
        outcomes: list[Outcome] = []
        for task_id in task_ids:
            task = self.stored(task_id, now_ms)
            if task is None:
                outcomes.append(("refused", "TaskNotFound"))
            elif task.lease is not None:
                outcomes.append(("refused", "AlreadyStarted"))
            else:
                self._forget(task)
                outcomes.append(None)
        return outcomes

    def _forget(self, task: ModelTask) -> None:
        del self.tasks[task.id]
        if task.ending is None:
            self._give_up_key(task)
            self._free(task.spec.concurrency_key)
        self._tell_end(task)
        self._count("deleted")

    def purge(self, now_ms: int) -> int:
        """Forget all that waits. Answers how many."""
        due = sorted(self.all(lambda task: task.due_ms is not None), key=lambda task: task.due_ms or 0)
        held = sorted(self.all(lambda task: task.held), key=lambda task: task.ulid)
        waiting = [*self.ready(), *due, *held]
        for task in waiting:
            self._forget(task)
        return len(waiting)

    def configure(
        self, now_ms: int, gateway: str, settings: QueueSettings | None, version: int | None, pause: bytes | int
    ) -> Outcome:
        """Replace the settings (None: leave them). pause: until then, b"+<ms>" for no less than that, b"" as it is."""
        before = self.limits.settings
        if version is not None and version != before.version:
            return ("refused", "StaleSettings")
        until_ms = before.paused_until_ms
        if pause != b"":
            until_ms = pause if isinstance(pause, int) else max(until_ms, now_ms + int(pause))
        until_ms = until_ms if until_ms > now_ms else 0
        if settings is None:
            self.limits.replace(msgspec.structs.replace(before, paused_until_ms=until_ms, version=before.version + 1))
            self._ring(now_ms, len(self.ready()), gateway)
            return self.limits.settings
        for time in (1, 2):
            self.limits.replace(
                msgspec.structs.replace(settings, paused_until_ms=until_ms, version=before.version + time)
            )
            for task in self.all(lambda task: task.held):
                self._free(task.spec.concurrency_key)
            self._ring(now_ms, len(self.ready()) - self.let_go, gateway)
            # One call lets go of so many: where a limit of a key was set, it is asked again what is held back still.
            if settings.max_processing_per_key is None or not self.all(lambda task: task.held):
                break
        return self.limits.settings

    def watch(self, now_ms: int, gateway: str, task_id: str, ttl_ms: int) -> bool:
        """Note who waits for a task's end. True: it is over."""
        task = self.tasks.get(task_id)
        if task is None or task.ending is not None:
            return True
        self.watchers.add((gateway, task_id))
        self.watched_until_ms = max(self.watched_until_ms, now_ms + ttl_ms)
        return False

    def ring(self, now_ms: int, gateway: str) -> None:
        """Pass a ring on."""
        self.registered.pop(gateway, None)
        self._ring(now_ms, len(self.ready()), gateway)

    # Reads.

    def read(self, task_id: str, now_ms: int) -> Task | None:
        """A task as clients see it."""
        task = self.stored(task_id, now_ms)
        if task is None:
            return None
        spec, ending, lease = task.spec, task.ending, task.lease
        due_ms = task.told_due_ms
        if due_ms is None:
            due_ms = max(spec.run_at_ms, task.created_at_ms) if spec.run_at_ms else task.created_at_ms + spec.delay_ms
        history = sorted(task.history.values(), key=lambda one: (one.started_at_ms, one.attempt))
        status = task.status(now_ms)
        common: dict[str, Any] = {
            "id": task.id, "status": status, "spec": spec, "created_at_ms": task.created_at_ms, "run_at_ms": due_ms,
            "progress": task.progress, "log": tuple(task.log),
        }  # fmt: skip
        if ending is not None:
            if ending.started_at_ms:
                outcome = ending.code or ending.status.value
                history.append(
                    Attempt(
                        ending.attempt, ending.worker_id, ending.started_at_ms, ending.finished_at_ms, outcome,
                        ending.error,
                    )
                )  # fmt: skip
                history.sort(key=lambda one: (one.started_at_ms, one.attempt))
            retention_ms = spec.failed_retention_ms if status is Status.FAILED else spec.retention_ms
            gone_at_ms = ending.finished_at_ms + retention_ms
            if gone_at_ms <= now_ms:
                return None
            return Task(
                **common, started_at_ms=ending.started_at_ms, finished_at_ms=ending.finished_at_ms,
                attempt=ending.attempt, worker_id=ending.worker_id or None, result=ending.result, error=ending.error,
                attempts=tuple(history), gone_at_ms=gone_at_ms,
            )  # fmt: skip
        if lease is not None:
            return Task(
                **common, started_at_ms=lease.started_at_ms, attempt=task.attempts, worker_id=lease.worker_id,
                error=task.error, cancel_requested=lease.cancel_requested, attempts=tuple(history),
            )  # fmt: skip
        if task.due_ms is not None:
            common["run_at_ms"] = task.due_ms
        started_at_ms = history[-1].started_at_ms if history else 0
        return Task(
            **common, started_at_ms=started_at_ms, attempt=task.attempts, error=task.error, attempts=tuple(history)
        )

    def stats(self, now_ms: int) -> dict[str, Any]:
        """Counts of this moment, by the names of QueueStats."""
        ready = self.ready()
        overdue = [task.due_ms for task in self.tasks.values() if task.due_ms is not None and task.due_ms <= now_ms]
        firsts: dict[int, ModelTask] = {}
        for task in ready:
            firsts.setdefault(task.spec.priority, task)
        oldest_ms = min([task.created_at_ms for task in firsts.values()] + overdue, default=now_ms)
        ended = [task.ending.status for task in self.tasks.values() if task.ending is not None]
        return {
            "ready": len(self.ranked()) + len(overdue),
            "due": self.depth() - len(self.ranked()) - len(overdue),
            "leased": len(self.all(lambda one: one.lease)),
            **{name: ended.count(status) for name, status in _SETTLED.items()},
            "oldest_ms": now_ms - oldest_ms,
            "totals": self.totals,
        }
