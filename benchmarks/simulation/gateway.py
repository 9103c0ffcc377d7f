"""A gateway process: open polls, bells, pumps, lanes and rechecks, by the rules of its TaskManager.

Modelled after gateway/task_manager.py and gateway/store/batching.py; names are theirs. Left out: HTTP's own work,
tenants, directives, clients that hang up.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.simulation.clockwork import Clockwork
from benchmarks.simulation.redis_node import Call, Queue, RedisNode, Task

POLLS_PER_CLAIM = 200
RECHECK_SECONDS = 1.0
RECHECKS_PER_SECOND = 10.0


class Poll:
    """An open poll. done: told its tasks, or none when its time is over. busy: a claim for it is under way."""

    __slots__ = ("busy", "done", "expired", "most", "over", "queues", "since_s")

    def __init__(
        self, queues: tuple[Queue, ...], most: int, since_s: float, done: Callable[[list[Task]], None]
    ) -> None:
        self.queues = queues
        self.most = most
        self.since_s = since_s
        self.done = done
        self.busy = False
        self.expired = False
        self.over = False


class Bell:
    """One queue's open polls here, the oldest first. armed: Redis knows that we wait; rung: tasks said to be ready."""

    __slots__ = ("armed", "pumping", "queue", "rung", "waiting")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.waiting: OrderedDict[Poll, None] = OrderedDict()
        self.armed = False
        self.pumping = False
        self.rung = 0


class Lane:
    """Requests to one Redis that share a pipeline: while one is under way, the rest collect."""

    def __init__(self, node: RedisNode) -> None:
        self._node = node
        self._pending: list[tuple[Call, Callable[[Any], None]]] = []
        self._running = False

    def submit(self, call: Call, answer: Callable[[Any], None]) -> None:
        """Put a call into the next pipeline."""
        self._pending.append((call, answer))
        if not self._running:
            self._running = True
            self._send()

    def _send(self) -> None:
        taken, self._pending = self._pending, []
        calls, answers = self._merge(taken)
        self._node.send(calls, lambda replies: self._hear(answers, replies))

    def _merge(self, taken: list[tuple[Call, Callable[[Any], None]]]) -> tuple[list[Call], list[Callable[[Any], None]]]:
        return [call for call, _ in taken], [answer for _, answer in taken]

    def _hear(self, answers: list[Callable[[Any], None]], replies: list[Any]) -> None:
        for answer, reply in zip(answers, replies, strict=True):
            answer(reply)
        if self._pending:
            self._send()
        else:
            self._running = False


class ClaimLane(Lane):
    """Claims of one queue share a script call of up to 200 polls, as the gateway's do."""

    def _merge(self, taken: list[tuple[Call, Callable[[Any], None]]]) -> tuple[list[Call], list[Callable[[Any], None]]]:
        chunks: list[tuple[Queue, list[tuple[Call, Callable[[Any], None]]]]] = []
        open_chunk: dict[int, tuple[int, int]] = {}
        for entry in taken:
            queue, _, most, _, _ = entry[0][1]
            place, room = open_chunk.get(queue.number, (-1, 0))
            if len(most) > room:
                place, room = len(chunks), POLLS_PER_CLAIM
                chunks.append((queue, []))
            open_chunk[queue.number] = (place, room - len(most))
            chunks[place][1].append(entry)
        calls: list[Call] = []
        answers: list[Callable[[Any], None]] = []
        for queue, entries in chunks:
            given = [entry[0][1] for entry in entries]
            most_of_all = [most for one in given for most in one[2]]
            others, waited_s = max(one[3] for one in given), max(one[4] for one in given)
            calls.append((entries[0][0][0], (queue, given[0][1], most_of_all, others, waited_s)))
            answers.append(_split([(len(one[2]), answer) for one, (_, answer) in zip(given, entries, strict=True)]))
        return calls, answers


class EnqueueLane(Lane):
    """Tasks of one queue share a script call."""

    def _merge(self, taken: list[tuple[Call, Callable[[Any], None]]]) -> tuple[list[Call], list[Callable[[Any], None]]]:
        by_queue: dict[int, tuple[Call, Callable[[Any], None]]] = {}
        for (script, (queue, gateway, tasks)), answer in taken:
            known = by_queue.get(queue.number)
            if known is None:
                by_queue[queue.number] = ((script, (queue, gateway, list(tasks))), answer)
            else:
                known[0][1][2].extend(tasks)
        return [call for call, _ in by_queue.values()], [answer for _, answer in by_queue.values()]


class ReportLane(Lane):
    """Completions share a script call."""

    def _merge(self, taken: list[tuple[Call, Callable[[Any], None]]]) -> tuple[list[Call], list[Callable[[Any], None]]]:
        (script, _), _ = taken[0]
        answers = [answer for _, answer in taken]

        def answer_all(reply: Any) -> None:
            for answer in answers:
                answer(reply)

        return [(script, (sum(call[1][0] for call, _ in taken),))], [answer_all]


class Gateway:
    """A gateway process. deaf: rings reach its connection and nobody behind it, as in a process that was stopped."""

    def __init__(self, number: int, clockwork: Clockwork, rng: random.Random) -> None:
        self.number = number
        self.clockwork = clockwork
        self.rng = rng
        self.deaf = False
        self.tasks_given = 0
        self.wasted_rings = 0
        self._bells: dict[int, Bell] = {}
        self._claims: dict[RedisNode, Lane] = {}
        self._enqueues: dict[RedisNode, Lane] = {}
        self._reports: dict[RedisNode, Lane] = {}
        clockwork.after(rng.random() * RECHECK_SECONDS, self._recheck)

    # What clients ask

    def open(self, poll: Poll, wait_s: float) -> None:
        """Hold a poll: look at the queues that are not known to be empty, then wait for rings."""
        poll.busy = True
        for queue in poll.queues:
            self._bell(queue).waiting[poll] = None
        self.clockwork.after(wait_s, self._time_out, poll)
        self._look(poll, self._unarmed(poll.queues))

    def enqueue(self, queue: Queue, tasks: list[Task]) -> None:
        """Store tasks."""
        node = queue.node
        lane = self._enqueues.get(node) or self._enqueues.setdefault(node, EnqueueLane(node))

        def answer(mine: int) -> None:
            if mine:
                self.hear(queue, mine)

        lane.submit((node.enqueue, (queue, self.number, tasks)), answer)

    def complete(self, queue: Queue, answer: Callable[[Any], None]) -> None:
        """End one task."""
        node = queue.node
        lane = self._reports.get(node) or self._reports.setdefault(node, ReportLane(node))
        lane.submit((node.complete, (1,)), answer)

    def hear(self, queue: Queue, tasks: int) -> None:
        """So many tasks of a queue are said to be ready for us."""
        if self.deaf:
            return
        bell = self._bell(queue)
        bell.armed = False
        if not bell.waiting:
            self.wasted_rings += 1
            self._pass_on(queue)
            return
        bell.rung += tasks
        self._pump(bell)

    # Rechecks

    def _recheck(self) -> None:
        if self.deaf:
            return
        queues = 0
        for bell in self._bells.values():
            if bell.waiting:
                queues += 1
                if not bell.pumping:
                    queue = bell.queue
                    queue.node.counts["recheck"] += 1
                    bell.armed = False
                    bell.rung += 1
                    self._pump(bell)
        self.clockwork.after(max(RECHECK_SECONDS, queues / RECHECKS_PER_SECOND), self._recheck)

    # Claiming

    def _claim(
        self, queue: Queue, most: list[int], others: int, waited_s: float, answer: Callable[[Any], None]
    ) -> None:
        node = queue.node
        lane = self._claims.get(node) or self._claims.setdefault(node, ClaimLane(node))
        lane.submit((node.claim, (queue, self.number, most, others, waited_s)), answer)

    def _look(self, poll: Poll, queues: Iterator[Queue]) -> None:
        queue = next(queues, None) if not poll.over else None
        if queue is None:
            self._free(poll)
            return
        bell = self._bell(queue)

        def answer(reply: tuple[list[list[Task]], int, bool]) -> None:
            bell.armed = bell.armed or reply[2]
            self._deliver(poll, reply[0][0])
            self._look(poll, queues)

        self._claim(queue, [poll.most], 0, self.clockwork.now_s - poll.since_s, answer)

    def _unarmed(self, queues: tuple[Queue, ...]) -> Iterator[Queue]:
        for queue in queues:
            bell = self._bell(queue)
            if not bell.armed or bell.rung or len(bell.waiting) == 1:
                yield queue

    def _pump(self, bell: Bell) -> None:
        if not bell.pumping:
            bell.pumping = True
            self._serve(bell)

    def _serve(self, bell: Bell) -> None:
        if not (bell.rung and bell.waiting):
            if bell.rung:
                bell.rung = 0
                self._pass_on(bell.queue)
            bell.pumping = False
            return
        polls: list[Poll] = []
        for poll in bell.waiting:
            if not poll.busy and not poll.over:
                polls.append(poll)
                if len(polls) >= min(bell.rung, POLLS_PER_CLAIM):
                    break
        if not polls:
            bell.pumping = False
            return
        bell.rung = 0
        for poll in polls:
            poll.busy = True

        def answer(reply: tuple[list[list[Task]], int, bool]) -> None:
            handed, ready_left, bell.armed = reply
            for poll, tasks in zip(polls, handed, strict=True):
                self._deliver(poll, tasks)
            for poll in polls:
                self._free(poll)
            bell.rung = max(bell.rung, ready_left)
            self._serve(bell)

        waited_s = self.clockwork.now_s - polls[0].since_s
        self._claim(bell.queue, [poll.most for poll in polls], len(bell.waiting) - len(polls), waited_s, answer)

    def _pass_on(self, queue: Queue) -> None:
        def answer(replies: list[int]) -> None:
            if replies[0]:
                self.hear(queue, replies[0])
            bell = self._bell(queue)
            bell.armed = False
            if bell.waiting:
                bell.rung += 1
                self._pump(bell)

        queue.node.send([(queue.node.pass_on, (queue, self.number))], answer)

    def _deliver(self, poll: Poll, tasks: list[Task]) -> None:
        if tasks and not poll.over:
            self.tasks_given += len(tasks)
            self._resolve(poll, tasks)

    def _free(self, poll: Poll) -> None:
        poll.busy = False
        if poll.over:
            return
        if poll.expired:
            self._resolve(poll, [])
            return
        for queue in poll.queues:
            bell = self._bell(queue)
            if bell.rung:
                self._pump(bell)

    def _time_out(self, poll: Poll) -> None:
        poll.expired = True
        if not poll.busy and not poll.over:
            self._resolve(poll, [])

    def _resolve(self, poll: Poll, tasks: list[Task]) -> None:
        poll.over = True
        for queue in poll.queues:
            self._bell(queue).waiting.pop(poll, None)
        poll.done(tasks)

    def _bell(self, queue: Queue) -> Bell:
        bell = self._bells.get(queue.number)
        if bell is None:
            bell = self._bells[queue.number] = Bell(queue)
        return bell


def _split(parts: list[tuple[int, Callable[[Any], None]]]) -> Callable[[Any], None]:
    """Give each request of a shared claim its own part of the reply."""

    def answer(reply: tuple[list[list[Task]], int, bool]) -> None:
        handed, ready_left, registered = reply
        at = 0
        for polls, tell in parts:
            tell((handed[at : at + polls], ready_left, registered))
            at += polls

    return answer
