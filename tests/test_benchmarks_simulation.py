"""The simulation of `python -m benchmarks.simulation` keeps the rules of the scripts, and its figures follow."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from benchmarks.simulation import alarms, sweeps
from benchmarks.simulation.clockwork import Clockwork
from benchmarks.simulation.costs import DEFAULT_COSTS
from benchmarks.simulation.findings import jain, percentile
from benchmarks.simulation.pictures import curves
from benchmarks.simulation.redis_node import Queue, RedisNode
from benchmarks.simulation.world import Setting, simulate

SMALL = Setting(gateways=4, tasks_per_second=200.0, seconds=2.0, warm_s=2.0)


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulate(SMALL) == simulate(SMALL)
    assert simulate(SMALL) != simulate(replace(SMALL, seed=2))


def test_idle_workers_get_tasks_with_about_a_claim_each_and_all_gateways_their_share() -> None:
    found = simulate(SMALL)
    assert found.tasks > 300
    assert 1.0 <= found.dispatch_claims_per_task < 1.5
    assert found.fairness > 0.95
    assert found.p99_ms < 20


def test_one_gateway_is_never_rung_by_itself() -> None:
    assert simulate(replace(SMALL, gateways=1)).rings_per_task == 0


def test_overload_makes_tasks_wait() -> None:
    assert simulate(replace(SMALL, busy=1.5)).p50_ms > 10 * simulate(SMALL).p50_ms


def test_a_lost_ring_costs_no_more_than_the_recheck() -> None:
    lossy = simulate(replace(SMALL, lost_rings=0.05, seconds=4.0))
    assert simulate(SMALL).worst_ms < lossy.worst_ms < 1100


def test_killed_gateways_are_passed_over() -> None:
    assert simulate(replace(SMALL, killed=0.25)).worst_ms < 100


def test_a_ring_goes_to_the_longest_waiting_and_uses_its_registration_up() -> None:
    node = RedisNode(Clockwork(), DEFAULT_COSTS, random.Random(1))
    queue = Queue(0, node)
    for gateway, waited_s in ((7, 1.0), (8, 3.0)):
        node.claim(queue, gateway, [1], 0, waited_s)
    assert queue.longest() == 8
    assert node.enqueue(queue, 8, [(0, 0.0)])[1] == 1  # its own polls are the longest: it is not published
    assert queue.longest() == 7
    assert node.counts["publish"] == 0
    node.enqueue(queue, 8, [(0, 0.0)])
    assert (queue.longest(), node.counts["publish"]) == (None, 1)


def test_a_claim_registers_only_when_nothing_is_left() -> None:
    node = RedisNode(Clockwork(), DEFAULT_COSTS, random.Random(1))
    queue = Queue(0, node)
    node.enqueue(queue, 1, [(0, 0.0)] * 2)
    assert node.claim(queue, 2, [1], 5, 0.0)[1][1:] == (1, False)
    assert node.claim(queue, 2, [1], 5, 0.0)[1][1:] == (0, True)
    assert queue.wants[2][0] == 5


def test_a_lapse_that_nobody_noted_is_seen_later_with_more_queues_and_sooner_with_more_gateways() -> None:
    rng = random.Random(1)
    few, many = sweeps.lateness_s(25, 1, rng, 300), sweeps.lateness_s(1000, 1, rng, 300)
    assert few[-1] <= 1.0
    assert sum(many) / len(many) == pytest.approx(20, rel=0.3)
    assert sum(sweeps.lateness_s(1000, 10, rng, 300)) < sum(many) / 5
    assert many[-1] <= 80


def test_a_noted_lapse_waits_only_where_the_dead_gateway_had_taken_it() -> None:
    rng = random.Random(1)
    alone, beside_many = (sweeps.noted_lateness_s(gateways, rng, alarms.EVERYBODY) for gateways in (1, 99))
    assert set(alone) == {0.0, alarms.EVERYBODY.left_s}
    assert 0 < sum(map(bool, beside_many)) < sum(map(bool, alone)) / 10
    assert max(sweeps.noted_lateness_s(1, rng, alarms.AS_BUILT)) <= 0.75


@pytest.mark.parametrize("rules", [alarms.AS_BUILT, alarms.EVERYBODY])
def test_alarms_are_met_on_time_and_no_oftener_than_the_shortest_gap(rules: alarms.Rules) -> None:
    found = alarms.simulate(3, 1000.0, random.Random(1), rules, seconds=2.0)
    assert 50 * 0.9 < found.sweeps < 3 * 55
    assert found.late_s[-1] <= 0.021
    assert len(found.late_s) > 1500


def test_with_one_taker_sweeps_hardly_grow_with_gateways() -> None:
    def sweeps_of(gateways: int, rules: alarms.Rules) -> float:
        return alarms.simulate(gateways, 10.0, random.Random(1), rules, round_s=60.0, seconds=20.0).sweeps

    assert sweeps_of(8, alarms.EVERYBODY) > 5 * sweeps_of(1, alarms.EVERYBODY)
    assert sweeps_of(8, alarms.AS_BUILT) < 1.5 * sweeps_of(1, alarms.AS_BUILT)


def test_a_queue_spread_over_partitions_loads_each_shard_less_and_gives_all_their_share() -> None:
    whole, spread = simulate(SMALL), simulate(replace(SMALL, queues=4, shards=4, partitions=True))
    assert spread.tasks == pytest.approx(whole.tasks, rel=0.1)
    assert spread.redis_share < whole.redis_share / 2
    assert spread.fairness > 0.95
    assert spread.p99_ms < 20


def test_fairness_and_percentiles() -> None:
    assert jain([1, 1, 1, 1]) == 1.0
    assert jain([1, 0, 0, 0]) == 0.25
    assert math.isnan(jain([0, 0]))
    assert percentile([1, 2, 3, 4], 0.5) == 3


@pytest.mark.parametrize("logarithmic", [False, True])
def test_pictures_are_sound_svg(logarithmic: bool) -> None:
    picture = curves("a <title>", "x", "y", {"one": {1: 2.0, 10: 30.0}, "two": {1: 1.0}}, logarithmic=logarithmic)
    root = ElementTree.fromstring(picture)
    assert root.attrib["aria-label"] == "a <title>"
    assert len(root.findall("{*}polyline")) == 2
