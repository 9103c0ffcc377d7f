"""One campaign: start, load, faults, heal, drain twice, read what is left, check."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from pathlib import Path

import msgspec

from tests.campaign import checks_processes, failovers, faults, history
from tests.campaign.arena import Arena, Size
from tests.campaign.checker import Verdict, check
from tests.campaign.cluster import ClusterArena
from tests.campaign.disks import Disk, ForgetfulDisk, SmallDisk
from tests.campaign.network import Network
from tests.campaign.timeline import LONGEST_LEASE_SECONDS
from tests.campaign.violations import Violation

# Faults coincide now and then, but not so many that nothing gets through.
_HANDS = 2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. faults: names of `faults.FAULTS`; pause_seconds: between two faults of one hand, from and to.

    cluster: over a Redis Cluster; durability: of the gateways (DURABILITY).
    """

    seconds: float
    seed: int
    source: Path
    folder: Path
    faults: tuple[str, ...] = faults.USUAL
    size: Size = Size()
    pause_seconds: tuple[float, float] = (0.2, 1.2)
    network: Network = msgspec.field(default_factory=Network)
    drain_seconds: float = 180.0
    cluster: bool = False
    durability: str = "local"


class Report(msgspec.Struct):
    """What came of it. faults: how many of each; seconds: of load.

    unpromised: what failovers of a cluster took that nobody had promised; outages: see `failovers.outages`.
    """

    seed: int
    seconds: float
    faults: dict[str, int]
    verdict: Verdict
    unpromised: list[Violation] = []
    outages: list[tuple[str, float, float]] = []


async def run(plan: Plan) -> Report:
    """Run a campaign in `plan.folder`, which must be new. Raises RuntimeError when it cannot be run at all."""
    plan.folder.mkdir(parents=True)
    arena = (ClusterArena if plan.cluster else Arena)(
        plan.folder, plan.source, plan.size, plan.seed, disk=_disk(plan), network=plan.network,
        skewed_clocks=any(name in plan.faults for name in faults.NEED_CLOCKS), DURABILITY=plan.durability,
    )  # fmt: skip
    try:
        await arena.start()
        await arena.start_clients()
        started = time.monotonic()
        await _rage(arena, plan)
        seconds = time.monotonic() - started
        await arena.heal()
        for node in arena.clients:
            await asyncio.to_thread(node.end, signal.SIGTERM)
        stuck = await _drain(arena, plan.drain_seconds)
        left = await arena.contents()
        (plan.folder / "contents.json").write_bytes(msgspec.json.encode(left))
    finally:
        await arena.stop()
    operations, done = history.read(plan.folder)
    verdict = check(operations, done, left, gateways=plan.size.gateways, queue_size=plan.size.queue_size)
    verdict.violations += [*stuck, *checks_processes.check(arena.gateways, arena.clients)]
    report = Report(plan.seed, seconds, dict(Counter(fault.name for fault in done)), verdict)
    if plan.cluster:
        report.outages = failovers.outages(operations, done)
        if plan.durability != "replicated":
            verdict.violations, report.unpromised = failovers.unpromised(
                verdict.violations, operations, done, plan.size.gateways
            )
    return report


def _disk(plan: Plan) -> Disk:
    small = any(name in plan.faults for name in faults.NEED_SMALL_DISK)
    forgetful = any(name in plan.faults for name in faults.NEED_FORGETFUL_DISK)
    if small and forgetful:
        raise RuntimeError("`disk_full` and `power_cut` need different disks: run them one after the other")
    kind = SmallDisk if small else ForgetfulDisk if forgetful else Disk
    return kind(plan.folder / "data")


async def _rage(arena: Arena, plan: Plan) -> None:
    """Inject faults until the time is over; every fault is mended before it ends."""
    deadline = time.monotonic() + plan.seconds
    async with asyncio.TaskGroup() as group:
        for hand in range(_HANDS):
            group.create_task(_hand(arena, plan, random.Random(f"{plan.seed} hand {hand}"), hand, deadline))
    await asyncio.sleep(max(0.0, deadline - time.monotonic()))


async def _hand(arena: Arena, plan: Plan, rng: random.Random, hand: int, deadline: float) -> None:
    if not plan.faults:
        return
    weights = [faults.FAULTS[name][1] for name in plan.faults]
    # Each kind comes once before chance decides, however long that takes: no campaign is left without some.
    shuffled = list(plan.faults)
    random.Random(plan.seed).shuffle(shuffled)
    first = shuffled[hand::_HANDS]
    while first or time.monotonic() < deadline:
        await asyncio.sleep(rng.uniform(*plan.pause_seconds))
        name = first.pop() if first else rng.choices(plan.faults, weights)[0]
        await faults.FAULTS[name][0](arena, rng)


async def _drain(arena: Arena, seconds: float) -> list[Violation]:
    """Let quiet workers finish what is left, twice: what a lapse brings back late is met by the second."""
    for _ in range(2):
        node = arena.start_drain()
        deadline = time.monotonic() + seconds
        try:
            while any((left := await asyncio.to_thread(arena.counts)).values()):
                if time.monotonic() > deadline:
                    return [Violation("not drained", "", f"{left} after {seconds:.0f} s")]
                await asyncio.sleep(0.1)
        finally:
            await asyncio.to_thread(node.end, signal.SIGTERM)
        await asyncio.sleep(LONGEST_LEASE_SECONDS + 1.0)
    return []
