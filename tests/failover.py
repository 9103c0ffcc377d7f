"""Failovers of Redis under load: what was acknowledged, and what of it is lost.

`python -m tests.failover --rounds 10` runs rounds of one primary, two replicas and three sentinels with two gateways
in a network namespace of its own (Linux, root, `unshare`, `ip` and `nft`), and prints a table for each durability mode:
- kill: the primary is killed (-9), and comes back as a replica;
- split: for some seconds no packet passes between the primary, one sentinel and one gateway on this side, and the
  replicas, two sentinels and the other gateway on that side. Clients write on both sides all the time;
- split with a replica: the same, with one of the two replicas on the primary's side.
Workers repeat reports that nobody answers for, until long after their leases. After each round: heal, wait until every
server follows one primary, hold what clients were told on both sides against itself and against what is there.
Exit code 1: a promise was broken, or there was an answer that nobody promised.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.failover_books import Judgement, Lease, Told, judge
from tests.topologies import MASTER, Node, SentinelSet, free_port, until

_HERE, _THERE = 4001, 4002  # groups of the gateways' processes, so that the packet filter tells them apart
_TASKS_PER_REQUEST = 5
# Shorter than a split: what a worker cannot report lapses, and the other side hands it out.
_LEASE_SECONDS = 8
_KINDS = ("kill", "split", "split with a replica")
_MIN_REPLICAS = ("min-replicas-to-write 1", "min-replicas-max-lag 2")
# Settings of the gateways (DURABILITY, DURABILITY_REPLICAS) and of the servers.
_MODES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "local": ("local", 1, ()),
    "local, min-replicas": ("local", 1, _MIN_REPLICAS),
    "replicated": ("replicated", 1, _MIN_REPLICAS),
    "replicated to all": ("replicated", 2, _MIN_REPLICAS),
}
# What is promised not to lose anything, and so to do nothing twice.
_PROMISED = {("replicated", "kill"), ("replicated", "split"), *(("replicated to all", kind) for kind in _KINDS)}
# Members of `Judgement`, as the table has them.
_COLUMNS = (
    "acknowledged", "lost", "leases", "leases_twice", "outcomes", "outcomes_lost", "outcomes_twice", "stale",
)  # fmt: skip


@dataclass
class Round:
    """One round's figures. broken: promises; election_seconds: from the fault to the election.

    here_seconds, there_seconds: from the election of the new primary to a side's first acknowledgement after it.
    """

    mode: str
    kind: str
    judged: Judgement
    broken: list[str]
    election_seconds: float
    here_seconds: float | None
    there_seconds: float | None
    answers: dict[str, int]


class Gateway:
    """A gateway process of a group of its own."""

    def __init__(self, folder: Path, servers: SentinelSet, durability: str, replicas: int, group: int) -> None:
        port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{port}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}
        env = {
            **clean,
            "PORT": str(port),
            "REDIS_SENTINELS": ",".join(node.address for node in servers.sentinels),
            "REDIS_MASTER": MASTER,
            "DURABILITY": durability,
            "DURABILITY_REPLICAS": str(replicas),
            "TASK_QUEUE_SIZE": "10000000",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        self.log = folder / f"gateway-{group}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"], cwd=folder, env=env, stdout=log, stderr=log, group=group
            )

    async def ready(self) -> None:
        """Wait until it serves."""
        async with httpx.AsyncClient() as client:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{self.url}/health/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(f"the gateway never became ready: {self.log.read_text()[-2000:]}")

    def end(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def parted(here: Iterable[str], there: Iterable[str]) -> None:
    """Let no packet pass between two sets of addresses, nor from a gateway to the other side's."""
    one, other = ", ".join(here), ", ".join(there)
    rules = f"""
table inet parted {{
  chain out {{
    type filter hook output priority 0;
    ip saddr {{ {one} }} ip daddr {{ {other} }} drop
    ip saddr {{ {other} }} ip daddr {{ {one} }} drop
    meta skgid {_HERE} ip daddr {{ {other} }} drop
    meta skgid {_THERE} ip daddr {{ {one} }} drop
  }}
}}
"""
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)


def healed() -> None:
    """Let everything pass again."""
    subprocess.run(["nft", "delete", "table", "inet", "parted"], check=True)


class Trial:
    """Servers, two gateways and their clients, for some rounds of one mode."""

    def __init__(self, folder: Path, mode: str, clients: int) -> None:
        self.folder = folder
        self.mode = mode
        self.clients = clients
        self.durability, self.replicas, config = _MODES[mode]
        self.servers = SentinelSet(
            folder, hosts=lambda number: f"127.0.1.{1 + number}", down_after_ms=2000, failover_ms=4000, config=config
        )
        self.told = Told()
        self.elected_at = float("inf")

    async def run(self, kinds: Iterable[str], split_seconds: float) -> list[Round]:
        """Run rounds on one set of servers."""
        rounds = []
        with self.servers:
            await asyncio.to_thread(self.servers.start)
            here = Gateway(self.folder, self.servers, self.durability, self.replicas, _HERE)
            there = Gateway(self.folder, self.servers, self.durability, self.replicas, _THERE)
            try:
                await asyncio.gather(here.ready(), there.ready())
                for number, kind in enumerate(kinds):
                    rounds.append(await self._round(number, kind, here, there, split_seconds))
                    print(json.dumps(asdict(rounds[-1])), file=sys.stderr, flush=True)
            finally:
                here.end()
                there.end()
        return rounds

    async def _round(self, number: int, kind: str, here: Gateway, there: Gateway, seconds: float) -> Round:
        self.told, self.elected_at = Told(), float("inf")
        stop = asyncio.Event()
        job_type = f"round-{number}"
        async with asyncio.TaskGroup() as group:
            for side, gateway in (("here", here), ("there", there)):
                for client in range(self.clients):
                    group.create_task(self._produce(side, gateway.url, job_type, stop))
                    if client < 2:
                        group.create_task(self._work(side, gateway.url, job_type, f"{side}-{client}", stop))
            await asyncio.sleep(2)
            before = await asyncio.to_thread(self.servers.primary)
            fault_at = time.monotonic()
            if kind == "kill":
                before.kill()
            else:
                own = self.servers.sentinels[0]
                here_hosts = [before.host, own.host]
                if kind == "split with a replica":
                    here_hosts.append(next(node.host for node in self.servers.servers if node is not before))
                parted(here_hosts, [node.host for node in self.servers.nodes if node.host not in here_hosts])
            try:
                await asyncio.to_thread(self._await_election, before)
                self.elected_at = time.monotonic()
                await asyncio.sleep(max(3.0, fault_at + seconds - time.monotonic() if kind != "kill" else 3.0))
            finally:
                if kind != "kill":
                    healed()
            if kind == "kill":
                await asyncio.to_thread(before.start)
            await asyncio.sleep(12 if kind != "kill" else 2)
            await asyncio.to_thread(self._await_one_primary)
            await asyncio.sleep(2)
            stop.set()
        await asyncio.to_thread(self._await_one_primary)
        found = await self._read(there.url, job_type)
        told = self.told
        judged = judge(told, found)
        return Round(
            self.mode,
            kind,
            judged,
            judged.broken((self.mode, kind) in _PROMISED),
            round(self.elected_at - fault_at, 2),
            self._served("here"),
            self._served("there"),
            dict(sorted(told.answers.items())),
        )

    def _served(self, side: str) -> float | None:
        first = self.told.first_after.get(side)
        return None if first is None else round(first - self.elected_at, 2)

    async def _produce(self, side: str, url: str, job_type: str, stop: asyncio.Event) -> None:
        body = [{"job_type": job_type, "payload": number} for number in range(_TASKS_PER_REQUEST)]
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            while not stop.is_set():
                status, reply = await self._send(side, client, "/tasks", body)
                if status >= 300:
                    await asyncio.sleep(0.05)
                    continue
                now = time.monotonic()
                for item in reply["tasks"]:
                    self.told.stored[item["id"]] = now

    async def _work(self, side: str, url: str, job_type: str, worker: str, stop: asyncio.Event) -> None:
        poll = {"worker_id": worker, "task_type": job_type, "max": 10, "wait": 1, "lease_seconds": _LEASE_SECONDS}
        held: dict[str, str] = {}
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            while not stop.is_set():
                sent = time.monotonic()
                status, reply = await self._send(side, client, "/poll", poll)
                if status >= 300:
                    await asyncio.sleep(0.05)
                for task in reply.get("tasks", ()):
                    lease = Lease(task["lease_token"], side, sent, time.monotonic(), task["lease_seconds"])
                    self.told.leases[task["id"]].append(lease)
                    held[task["id"]] = lease.token
                await self._complete(side, client, held)
            await self._complete(side, client, held)

    async def _complete(self, side: str, client: httpx.AsyncClient, held: dict[str, str]) -> None:
        """Report what is held, until nobody answers for sure: the rest is reported again, perhaps too late."""
        for id, token in list(held.items()):
            sent = time.monotonic()
            status, _ = await self._send(side, client, f"/tasks/{id}/complete", {"lease_token": token, "result": 1})
            if status >= 500:
                return
            del held[id]
            if status < 300:
                self.told.accepted[id].setdefault(token, sent)

    async def _send(self, side: str, client: httpx.AsyncClient, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """POST. Returns the status, 599 for none, and the body of a 2xx; every answer is counted by its code."""
        began = time.monotonic()
        try:
            reply = await client.post(path, json=body)
        except httpx.HTTPError as error:
            self.told.answers[type(error).__name__] += 1
            return 599, {}
        if reply.status_code >= 300:
            self.told.answers[f"{reply.status_code} {reply.json().get('code')}"] += 1
            return reply.status_code, {}
        self.told.answers[f"{reply.status_code}"] += 1
        if began > self.elected_at and path == "/tasks":
            self.told.first_after.setdefault(side, time.monotonic())
        return reply.status_code, reply.json() if reply.status_code != 204 else {}

    def _await_election(self, before: Node) -> None:
        """Wait until a sentinel names another primary, and that one says so itself."""

        def elected() -> bool:
            for sentinel in self.servers.sentinels[1:]:
                host, port = sentinel.redis.sentinel_get_master_addr_by_name(MASTER)
                if f"{host}:{port}" != before.address:
                    chosen = next(node for node in self.servers.servers if node.address == f"{host}:{port}")
                    return bool(chosen.redis.role()[0] == "master")
            return False

        until(elected, 60, "nobody was elected")

    def _await_one_primary(self) -> None:
        """Wait until all sentinels name one primary, and all others follow it."""

        def whole() -> bool:
            if not self.servers.agreed() or not self.servers.watched():
                return False
            return self.servers.in_sync(len(self.servers.servers) - 1, self.servers.primary())

        until(whole, 90, "the servers did not come together again")

    async def _read(self, url: str, job_type: str) -> dict[str, str]:
        """Every task that is there, and its status."""
        found: dict[str, str] = {}
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            cursor: str | None = ""
            while cursor is not None:
                given = {"job_type": job_type, "limit": "200", **({"cursor": cursor} if cursor else {})}
                reply = await client.get("/tasks", params=given)
                reply.raise_for_status()
                page = reply.json()
                found.update((task["id"], task["status"]) for task in page["tasks"])
                cursor = page.get("next_cursor")
        return found


def table(rounds: list[Round]) -> str:
    """The figures of each mode and kind, as Markdown."""
    lines = [
        "| durability | fault | rounds | acknowledged | lost | leases | of them beside another | outcomes accepted | "
        "of them lost | twice | stale | election after | served again, s after the election (median, worst) |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (mode, kind), group in itertools.groupby(
        sorted(rounds, key=lambda one: (list(_MODES).index(one.mode), one.kind)), key=lambda one: (one.mode, one.kind)
    ):
        some = list(group)
        served = sorted(one.there_seconds if one.there_seconds is not None else float("inf") for one in some)
        elected = sorted(one.election_seconds for one in some)
        sums = (f"{sum(getattr(one.judged, name) for one in some):,}" for name in _COLUMNS)
        lines.append(
            f"| {mode} | {kind} | {len(some)} | {' | '.join(sums)} | {elected[0]}-{elected[-1]} s | "
            f"{served[len(served) // 2]}, {served[-1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the rounds in a network namespace of our own."""
    parser = argparse.ArgumentParser(description="failovers of Redis under load")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of `replicated`; the others run a third each")
    parser.add_argument("--split-seconds", type=float, default=12.0)
    parser.add_argument("--clients", type=int, default=4, help="producers on each side")
    parser.add_argument("--kinds", nargs="+", default=["kill", "split"], choices=list(_KINDS))
    parser.add_argument("--modes", nargs="+", default=list(_MODES)[:3], choices=list(_MODES))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.inside:
        missing = [tool for tool in ("unshare", "ip", "nft") if shutil.which(tool) is None]
        if missing or os.geteuid() != 0:
            sys.exit(f"needs root, and {' and '.join(missing) or 'nothing else'}")
        os.execvp("unshare", ["unshare", "--net", sys.executable, "-m", "tests.failover", *sys.argv[1:], "--inside"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rounds: list[Round] = []
    for mode in given.modes:
        number = given.rounds if mode.startswith("replicated") else max(2, given.rounds // 3)
        kinds = list(itertools.islice(itertools.cycle(given.kinds), number))
        with tempfile.TemporaryDirectory(prefix="failover-") as folder:
            rounds += asyncio.run(Trial(Path(folder), mode, given.clients).run(kinds, given.split_seconds))
    print(table(rounds))
    broken = [f"{one.mode}, {one.kind}: {', '.join(one.broken)}" for one in rounds if one.broken]
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
