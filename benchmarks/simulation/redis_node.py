"""One Redis and the queues on it, by the rules of the scripts: who is registered, who is rung, who gets what.

Modelled after gateway/store/lua: `ring` of prelude.lua, the registration of claim.lua, enqueue.lua and ring.lua. Left
out: priorities, concurrency keys, settings of a queue, poll_ids.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.simulation.clockwork import Clockwork
from benchmarks.simulation.costs import Costs

if TYPE_CHECKING:
    from benchmarks.simulation.gateway import Gateway

REGISTRATION_S = 600.0
Task = tuple[int, float]  # its queue's number, and when its producer asked for it
Call = tuple[Callable[..., tuple[float, Any]], tuple[Any, ...]]  # a script of RedisNode, and what it is given
Answer = Callable[[list[Any]], None]


class Queue:
    """What Redis keeps of a queue. waiting: gateway -> since when its longest poll waits; wants: for how many polls."""

    def __init__(self, number: int, node: RedisNode) -> None:
        self.number = number
        self.node = node
        self.ready: deque[Task] = deque()
        self.waiting: dict[int, float] = {}
        self.wants: dict[int, tuple[int, float]] = {}
        self._order: list[tuple[float, int]] = []

    def register(self, gateway: int, since_s: float, polls: int, now_s: float) -> None:
        """Note that a gateway wants to be rung, for so many polls. An earlier note of it is replaced."""
        self.waiting[gateway] = since_s
        self.wants[gateway] = (polls, now_s)
        heapq.heappush(self._order, (since_s, gateway))

    def strike(self, gateway: int) -> None:
        """Forget a gateway's registration."""
        self.waiting.pop(gateway, None)
        self.wants.pop(gateway, None)

    def longest(self) -> int | None:
        """Return the gateway whose poll waits longest."""
        while self._order:
            since_s, gateway = self._order[0]
            if self.waiting.get(gateway) == since_s:
                return gateway
            heapq.heappop(self._order)
        return None


class RedisNode:
    """A Redis that does one thing at a time. lost_rings: share of published rings that nobody hears.

    counts: script calls by name, `publish`, and what became of claims. busy_s: seconds of work so far.
    """

    def __init__(self, clockwork: Clockwork, costs: Costs, rng: random.Random, lost_rings: float = 0.0) -> None:
        self.clockwork = clockwork
        self.costs = costs
        self.rng = rng
        self.lost_rings = lost_rings
        self.counts: Counter[str] = Counter()
        self.busy_s = 0.0
        self.gateways: dict[int, Gateway] = {}
        self._inbox: deque[tuple[list[Call], Answer]] = deque()
        self._busy = False

    def way_s(self) -> float:
        """How long one message takes this time."""
        return self.costs.way_s + self.rng.expovariate(1 / self.costs.jitter_s)

    def send(self, calls: list[Call], answer: Answer) -> None:
        """Send a pipeline of script calls; `answer` is called with their replies when those are back."""
        self.clockwork.after(self.way_s(), self._arrive, calls, answer)

    def _arrive(self, calls: list[Call], answer: Answer) -> None:
        self._inbox.append((calls, answer))
        if not self._busy:
            self._run()

    def _run(self) -> None:
        self._busy = True
        calls, answer = self._inbox.popleft()
        took_s, replies = self.costs.pipeline_s, []
        for script, arguments in calls:
            cost_s, reply = script(*arguments)
            took_s += cost_s
            replies.append(reply)
        self.busy_s += took_s
        self.clockwork.after(took_s, self._finish, replies, answer)

    def _finish(self, replies: list[Any], answer: Answer) -> None:
        self.clockwork.after(self.way_s(), answer, replies)
        if self._inbox:
            self._run()
        else:
            self._busy = False

    # The scripts. Each returns the seconds that it takes and its reply.

    def enqueue(self, queue: Queue, gateway: int, tasks: list[Task]) -> tuple[float, int]:
        """Store tasks and ring. Replies how many of them the asking gateway should claim itself."""
        self.counts["enqueue"] += 1
        queue.ready.extend(tasks)
        cost_s = self.costs.enqueue_call_s + len(tasks) * self.costs.enqueue_task_s
        return cost_s, self._ring(queue, len(tasks), gateway)

    def claim(
        self, queue: Queue, gateway: int, most: list[int], others: int, waited_s: float
    ) -> tuple[float, tuple[list[list[Task]], int, bool]]:
        """Hand tasks to polls that take at most `most[i]` each, and register the gateway for those left without.

        Replies the tasks per poll, how many ready ones are left, and whether the gateway stands registered.
        """
        now_s, handed = self.clockwork.now_s, []
        for each in most:
            handed.append([queue.ready.popleft() for _ in range(min(each, len(queue.ready)))])
        given = sum(map(len, handed))
        self.counts["claim"] += 1
        self.counts["claim_empty"] += not given
        unserved = others + sum(1 for tasks in handed if not tasks)
        registered = unserved > 0 and not queue.ready
        if registered:
            queue.register(gateway, now_s - waited_s, unserved, now_s)
        costs = self.costs
        cost_s = costs.claim_call_s + len(most) * costs.claim_poll_s + given * costs.claim_task_s
        return cost_s, (handed, len(queue.ready), registered)

    def pass_on(self, queue: Queue, gateway: int) -> tuple[float, int]:
        """Ring others instead of this gateway. Replies as `enqueue`."""
        self.counts["pass_on"] += 1
        queue.strike(gateway)
        return self.costs.pass_on_s, self._ring(queue, len(queue.ready), gateway)

    def complete(self, tasks: int) -> tuple[float, None]:
        """End tasks."""
        self.counts["complete"] += 1
        return self.costs.complete_call_s + tasks * self.costs.complete_task_s, None

    def _ring(self, queue: Queue, ready: int, gateway: int) -> int:
        mine, now_s = 0, self.clockwork.now_s
        while ready > 0:
            longest = queue.longest()
            if longest is None:
                break
            wants, since_s = queue.wants[longest]
            queue.strike(longest)
            if wants == 0 or now_s - since_s >= REGISTRATION_S:
                continue
            share = min(wants, ready)
            if longest == gateway:
                mine, ready = mine + share, ready - share
            elif self._publish(longest, queue, share):
                ready -= share
        return mine

    def _publish(self, gateway: int, queue: Queue, tasks: int) -> bool:
        """Ring one gateway. Returns whether its connection stands, as PUBLISH does; nobody behind it need hear."""
        self.counts["publish"] += 1
        rung = self.gateways.get(gateway)
        if rung is None:
            return False
        if self.lost_rings and self.rng.random() < self.lost_rings:
            self.counts["lost"] += 1
        else:
            self.clockwork.after(self.way_s() + self.costs.turn_s, rung.hear, queue, tasks)
        return True
