"""A world to run: gateways, workers that poll and work, producers that post, and what was seen."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter, defaultdict
from typing import Any

from benchmarks.simulation.clockwork import Clockwork
from benchmarks.simulation.costs import DEFAULT_COSTS, Costs
from benchmarks.simulation.findings import Findings, jain, percentile
from benchmarks.simulation.gateway import Gateway, Poll
from benchmarks.simulation.redis_node import Queue, RedisNode, Task


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is simulated.

    workers: of each gateway; few_have: that factor more of them at one gateway in ten. tasks_per_second: over all
    queues, Poisson, at gateways drawn at random, `burst` tasks at a time. busy: the share of time that a worker works;
    it rules how long a task takes. most: tasks per poll. queues, shards: queues are spread over as many Redis nodes.
    polled: how many of the queues each poll names, drawn by worker. partitions: the queues are those of one that is
    spread: each gateway deals its posts out in turn, each poll asks all of them, from any one on. lost_rings: share of
    published rings. deaf: share, rounded up, of gateways that stop in the middle without a word, their connections
    open; killed: that are gone, their connections closed. Their workers go to other gateways after `away_s`. warm_s:
    not counted; seconds: counted.
    """

    gateways: int = 10
    workers: int = 10
    few_have: int = 1
    tasks_per_second: float = 1000.0
    burst: int = 1
    busy: float = 0.5
    most: int = 1
    queues: int = 1
    polled: int = 1
    partitions: bool = False
    shards: int = 1
    lost_rings: float = 0.0
    deaf: float = 0.0
    killed: float = 0.0
    away_s: float = 1.0
    wait_s: float = 25.0
    warm_s: float = 3.0
    seconds: float = 10.0
    seed: int = 1
    costs: Costs = DEFAULT_COSTS


class World:
    """One run. Make it, `run` it, read the findings."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.rng = random.Random(setting.seed)
        self.clockwork = Clockwork()
        self.nodes = [
            RedisNode(self.clockwork, setting.costs, self.rng, setting.lost_rings) for _ in range(setting.shards)
        ]
        self.queues = [Queue(number, self.nodes[number % setting.shards]) for number in range(setting.queues)]
        self.gateways = [Gateway(number, self.clockwork, self.rng) for number in range(setting.gateways)]
        for node in self.nodes:
            node.gateways = {gateway.number: gateway for gateway in self.gateways}
        self.turns = [self.rng.randrange(setting.queues) if setting.partitions else 0 for _ in self.gateways]
        self.latencies_ms: list[float] = []
        self.waits_ms: dict[int, list[float]] = defaultdict(list)
        self.counting = False
        self.dead: set[int] = set()
        self.workers_of = [
            setting.workers * (setting.few_have if number % 10 == 0 else 1) for number in range(setting.gateways)
        ]
        self.task_s = setting.busy * sum(self.workers_of) / max(setting.tasks_per_second, 1e-9)

    def run(self) -> Findings:
        """Run it to its end."""
        setting, clockwork = self.setting, self.clockwork
        for gateway, workers in zip(self.gateways, self.workers_of, strict=True):
            for _ in range(workers):
                queues = self._drawn()
                # Polls that began long ago end at different times.
                first_wait_s = self.rng.random() * setting.wait_s
                clockwork.after(self.rng.random(), self._poll, gateway, queues, first_wait_s)
        if setting.tasks_per_second:
            clockwork.after(1.0, self._post)
        clockwork.run(setting.warm_s)
        before = [node.counts.copy() for node in self.nodes]
        busy_before_s = sum(node.busy_s for node in self.nodes)
        given_before = [gateway.tasks_given for gateway in self.gateways]
        wasted_before = sum(gateway.wasted_rings for gateway in self.gateways)
        self.counting = True
        if setting.deaf or setting.killed:
            clockwork.after(setting.seconds / 3, self._strike)
        clockwork.run(setting.warm_s + setting.seconds)
        counts: Counter[str] = Counter()
        for node, earlier in zip(self.nodes, before, strict=True):
            counts.update(node.counts - earlier)
        busy_s = sum(node.busy_s for node in self.nodes) - busy_before_s
        given = [gateway.tasks_given - was for gateway, was in zip(self.gateways, given_before, strict=True)]
        wasted = sum(gateway.wasted_rings for gateway in self.gateways) - wasted_before
        return self._findings(counts, busy_s, given, wasted)

    def _findings(self, counts: Counter[str], busy_s: float, given: list[int], wasted: int) -> Findings:
        self.counts = counts
        ordered = sorted(self.latencies_ms)
        tasks = sum(given)
        per = 1 / tasks if tasks else float("nan")
        living = [number for number in range(len(given)) if number not in self.dead]
        means = [sum(waits) / len(waits) for number, waits in self.waits_ms.items() if number not in self.dead]
        return Findings(
            gateways=self.setting.gateways,
            tasks=tasks,
            claims_per_task=counts["claim"] * per,
            dispatch_claims_per_task=(counts["claim"] - counts["recheck"]) * per,
            empty_share=counts["claim_empty"] / max(counts["claim"], 1),
            rings_per_task=counts["publish"] * per,
            wasted_rings_share=wasted / max(counts["publish"], 1),
            pass_ons_per_task=counts["pass_on"] * per,
            p50_ms=percentile(ordered, 0.5),
            p99_ms=percentile(ordered, 0.99),
            p999_ms=percentile(ordered, 0.999),
            worst_ms=ordered[-1] if ordered else float("nan"),
            fairness=jain([given[number] / self.workers_of[number] for number in living]),
            fairness_of_waits=jain(means),
            redis_share=busy_s / self.setting.seconds / len(self.nodes),
        )

    # Producers

    def _post(self) -> None:
        setting = self.setting
        self.clockwork.after(self.rng.expovariate(setting.tasks_per_second / setting.burst), self._post)
        gateway = self._living()
        if setting.partitions:
            turn = self.turns[gateway.number] = (self.turns[gateway.number] + 1) % setting.queues
            queue = self.queues[turn]
        else:
            queue = self.rng.choice(self.queues)
        gateway.enqueue(queue, [(queue.number, self.clockwork.now_s)] * setting.burst)

    # Workers

    def _drawn(self) -> tuple[Queue, ...]:
        return tuple(self.queues if self.setting.partitions else self.rng.sample(self.queues, self.setting.polled))

    def _poll(self, gateway: Gateway, queues: tuple[Queue, ...], wait_s: float) -> None:
        if gateway.number in self.dead:
            gateway = self._living()
        if self.setting.partitions and len(queues) > 1:
            first = self.rng.randrange(len(queues))
            queues = queues[first:] + queues[:first]

        def done(tasks: list[Task]) -> None:
            if gateway.number in self.dead:
                return
            self._got(gateway, queues, tasks)

        gateway.open(Poll(queues, self.setting.most, self.clockwork.now_s, done), wait_s)

    def _got(self, gateway: Gateway, queues: tuple[Queue, ...], tasks: list[Task]) -> None:
        clockwork, http_s = self.clockwork, self.setting.costs.http_s
        if not tasks:
            clockwork.after(2 * http_s, self._poll, gateway, queues, self.setting.wait_s)
            return
        if self.counting:
            for _, asked_s in tasks:
                wait_ms = (clockwork.now_s - asked_s) * 1000
                self.latencies_ms.append(wait_ms)
                self.waits_ms[gateway.number].append(wait_ms)
        work_s = sum(self.rng.expovariate(1 / self.task_s) for _ in tasks) if self.task_s else 0.0
        clockwork.after(work_s + 2 * http_s, self._report, gateway, queues, self.queues[tasks[0][0]])

    def _report(self, gateway: Gateway, queues: tuple[Queue, ...], of: Queue) -> None:
        if gateway.number in self.dead:
            gateway = self._living()

        def reported(reply: Any) -> None:
            # With `next`, the poll begins where the report ends.
            self._poll(gateway, queues, self.setting.wait_s)

        gateway.complete(of, reported)

    # Deaths

    def _strike(self) -> None:
        setting = self.setting
        deaf = math.ceil(setting.deaf * setting.gateways)
        killed = math.ceil(setting.killed * setting.gateways)
        for gateway in self.rng.sample(self.gateways, deaf + killed):
            self.dead.add(gateway.number)
            gateway.deaf = True
            if killed:
                for node in self.nodes:
                    node.gateways.pop(gateway.number, None)
            for _ in range(self.workers_of[gateway.number]):
                queues = self._drawn()
                self.clockwork.after(setting.away_s, self._poll, gateway, queues, setting.wait_s)

    def _living(self) -> Gateway:
        while True:
            gateway = self.gateways[self.rng.randrange(len(self.gateways))]
            if gateway.number not in self.dead:
                return gateway


def simulate(setting: Setting) -> Findings:
    """Run one setting."""
    return World(setting).run()
