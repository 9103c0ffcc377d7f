"""Runs the rounds: within each, every contender takes its turn at every measurement, in alternating order."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from benchmarks.bench import Bench, interleaved
from benchmarks.peers import measures, ours
from benchmarks.peers.contenders import GATEWAY, Contender
from benchmarks.peers.measures import Sample, Stand
from benchmarks.peers.tools import Tools

SCALED = (GATEWAY, "arq, tuned", "BullMQ", "asynq")
CONCURRENCIES = (1, 4, 16, 64, 256)
_OUR_BATCHES = (10, 100)


class Rounds:
    """The measurements of one run.

    samples: each as it was made. problems: what failed, in words. bench: what the next round works on.
    """

    def __init__(self, bench: Bench, tools: Tools, contenders: list[Contender], *, with_gateway: bool) -> None:
        self.samples: list[Sample] = []
        self.problems: list[str] = []
        self.bench = bench
        self._tools = tools
        self._contenders = {contender.name: contender for contender in contenders}
        self._names = [*([GATEWAY] if with_gateway else []), *self._contenders]

    def measure(self, number: int, durability: str) -> None:
        """One round: enqueue, process, and (with appendfsync always) the latency when idle."""
        for name in interleaved(number, self._names):
            print(f"round {number + 1}, {durability}: {name}", file=sys.stderr, flush=True)
            place = {"contender": name, "durability": durability, "round": number}
            if name == GATEWAY:
                self._measure_gateway(place)
            else:
                self._measure_peer(self._contenders[name], place)

    def measure_scaling(self, number: int) -> None:
        """One round of processing at each concurrency."""
        for name in interleaved(number, [name for name in self._names if name in SCALED]):
            for concurrency in CONCURRENCIES:
                print(f"scaling round {number + 1}: {name} {concurrency}", file=sys.stderr, flush=True)
                place = {"contender": name, "durability": "always", "round": number, "concurrency": concurrency}
                if name == GATEWAY:
                    run = partial(ours.process, self.bench, "always", 1, concurrency)
                    self._try(place, "scaling", run)
                else:
                    contender = replace(self._contenders[name], concurrency=concurrency)
                    self._try_peer(contender, place, "scaling", measures.process)

    def _measure_gateway(self, place: Sample) -> None:
        bench, durability = self.bench, place["durability"]
        self._try(place, "enqueue", partial(ours.enqueue, bench, durability, 1))
        self._try(place, "enqueue_100", partial(ours.enqueue, bench, durability, 100))
        for batch in _OUR_BATCHES:
            batched = place | {"contender": f"{GATEWAY}, batches of {batch}"}
            self._try(batched, "process", partial(ours.process, bench, durability, batch))
        done = self._try(place, "process", partial(ours.process, bench, durability, 1))
        if done and durability == "always":
            self._try(place, "latency", partial(ours.latency, bench, durability, done["per_second"]))

    def _measure_peer(self, contender: Contender, place: Sample) -> None:
        if contender.url and place["durability"] != "always":
            return  # its Redis is as its operator set it
        if contender.own_client:
            self._try_peer(contender, place, "enqueue", partial(measures.enqueue, batch=1))
        if contender.own_client and contender.batches:
            self._try_peer(contender, place, "enqueue_100", partial(measures.enqueue, batch=100))
        done = self._try_peer(contender, place, "process", measures.process)
        if done and place["durability"] == "always":
            idle = partial(measures.latency, processed_per_second=done["per_second"])
            self._try_peer(contender, place, "latency", idle)

    def _try_peer(
        self, contender: Contender, place: Sample, measure: str, run: Callable[[Stand], Sample]
    ) -> Sample | None:
        def set_up_and_run() -> Sample:
            with measures.set_up(self.bench, self._tools, contender, place["durability"]) as stand:
                return run(stand)

        return self._try(place, measure, set_up_and_run)

    def _try(self, place: Sample, measure: str, run: Callable[[], Sample]) -> Sample | None:
        """Keep a sample. One contender's failure is noted and ends no run."""
        try:
            sample = run()
        except Exception as error:
            where = f"{place['contender']}, {measure}, {place['durability']}, round {place['round'] + 1}"
            self.problems.append(f"{where}: {error}")
            traceback.print_exc()
            return None
        self.samples.append(place | {"measure": measure} | sample)
        return sample
