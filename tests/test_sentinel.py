"""Redis behind sentinels: failovers, sentinels that are away, and acknowledgements that wait for a replica.

The long form, with a packet filter and figures: `python -m tests.failover`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from gateway.errors import StoreUnavailable
from gateway.redis_watch import RedisWatch, complaints
from gateway.store.connect import Connections
from gateway.store.keys import Keys
from gateway.store.location import Location, parse
from gateway.store.registry import Registry, ServerFacts
from tests.command_line import run
from tests.harness import Clock, LiveGateway, RedisServer, live_gateway, redis_binaries, wait_until
from tests.topologies import MASTER, Node, SentinelSet, until

GOOD = ServerFacts((7, 0, 15), "noeviction", 0, True, 1, 1)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    """A primary, two replicas and three sentinels, for all tests here: each leaves them running."""
    with SentinelSet(tmp_path_factory.mktemp("sentinels"), down_after_ms=700, failover_ms=2000) as servers:
        servers.start()
        yield servers


@pytest.fixture
def servers(running: SentinelSet) -> SentinelSet:
    """Those servers, empty. An old primary may not have been made a replica yet: sentinels take eight seconds."""
    for node in running.nodes:
        until(node.redis.ping)
    until(lambda: running.agreed() and running.in_sync(1, running.primary()))
    running.primary().redis.flushall()
    return running


async def failed_over(servers: SentinelSet, before: Node) -> float:
    """Wait until a sentinel names another primary that says so itself. Returns when (monotonic)."""

    def elected() -> bool:
        chosen = servers.primary()
        return chosen is not before and chosen.redis.role()[0] == "master"

    await wait_until(lambda: asyncio.to_thread(elected), 20, "nobody was elected")
    return time.monotonic()


async def served(gateway: LiveGateway) -> dict[str, Any]:
    """Enqueue a task as soon as that can be done; every refusal before must be one to repeat."""
    while True:
        reply = await gateway.post("/tasks", {"job_type": "demo"})
        if reply.status_code == 201:
            return reply.json()
        assert (reply.status_code, reply.json()["retryable"]) == (503, True), reply.text


async def test_a_task_lives_its_life_behind_sentinels(servers: SentinelSet) -> None:
    async with live_gateway(servers.url) as gateway:
        poll = asyncio.create_task(gateway.poll(wait=10))
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        task = await gateway.enqueue(payload={"n": 1})
        (taken,) = await poll
        assert (await gateway.report(taken, "complete", result=2)).status_code == 200
        assert (await gateway.get(f"/tasks/{task['id']}")).json()["status"] == "completed"
        health = (await gateway.get("/health")).json()
        assert (health["status"], health["durability"]) == ("ok", "local")
        assert any("min-replicas-to-write" in warning for warning in health["warnings"])


async def test_the_settings_name_sentinels_and_the_primary(servers: SentinelSet) -> None:
    addresses = ",".join(node.address for node in servers.sentinels)
    assert parse(f"redis-sentinel://{addresses}/0#{MASTER}").addresses == tuple(
        (node.host, node.port) for node in servers.sentinels
    )
    connections = Connections(f"redis-sentinel://{addresses}#another")
    try:
        with pytest.raises(StoreUnavailable):
            await connections.link().call([b"PING\r\n"], repeat=False)
    finally:
        await connections.close()


async def test_the_password_of_the_sentinels_is_used_by_the_gateway_and_by_what_asks_redis_itself(
    servers: SentinelSet, tmp_path: Path
) -> None:
    settings = {"REDIS_SENTINELS": ",".join(node.address for node in servers.sentinels), "REDIS_MASTER": MASTER}
    for node in servers.sentinels:
        node.redis.execute_command("ACL", "SETUSER", "default", ">secret")
    try:
        doctor = await run(None, "doctor", folder=tmp_path, PORT="0", **settings)
        keys = await run(None, "keys", "list", "--local", folder=tmp_path, **settings)
        assert (doctor.code, keys.code) == (1, 3)
        assert "or REDIS_SENTINEL_PASSWORD" in doctor.out
        settings["REDIS_SENTINEL_PASSWORD"] = "secret"
        doctor = await run(None, "doctor", folder=tmp_path, PORT="0", **settings)
        keys = await run(None, "keys", "list", "--local", folder=tmp_path, **settings)
        assert (doctor.code, keys.code) == (0, 0), (doctor.out, keys.err)
        assert "min-replicas-to-write is 0" in doctor.out
        async with live_gateway(servers.url, redis_sentinel_password="secret") as gateway:
            await gateway.enqueue()
    finally:
        for node in servers.sentinels:
            node.redis.execute_command("ACL", "SETUSER", "default", "nopass")


async def test_while_all_sentinels_are_away_the_known_primary_is_used(servers: SentinelSet) -> None:
    async with live_gateway(servers.url) as gateway:
        await gateway.enqueue()
        for sentinel in servers.sentinels:
            sentinel.signal(signal.SIGSTOP)
        try:
            await gateway.enqueue()
            # New connections need its address, too.
            for node in servers.servers:
                node.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert (await served(gateway))["status"] == "pending"
        finally:
            for sentinel in servers.sentinels:
                sentinel.signal(signal.SIGCONT)


async def test_without_a_replica_nothing_is_acknowledged_and_a_repeated_request_tells_when_it_is(
    servers: SentinelSet,
) -> None:
    primary = servers.primary()
    replicas = [node for node in servers.servers if node is not primary]
    key = {"Idempotency-Key": "k1"}
    clock = Clock()
    async with live_gateway(servers.url, clock=clock, durability="replicated") as gateway:
        await gateway.enqueue("other")
        (task,) = await gateway.poll("other")
        async with live_gateway(servers.url, durability="replicated", durability_replicas=3) as strict:
            reply = await strict.post("/tasks", {"job_type": "three"})
            assert reply.json()["code"] == "not_replicated"
        try:
            for node in replicas:
                node.signal(signal.SIGSTOP)
            reply = await gateway.post("/tasks", {"job_type": "demo"}, headers=key)
            assert (reply.status_code, reply.json()["code"]) == (503, "not_replicated"), reply.text
            assert reply.json()["retryable"]
            assert reply.headers["retry-after"] == "1"
            reply = await gateway.report(task, "complete", result=1)
            assert reply.json()["code"] == "not_replicated"
            # What reads only is answered; nor does a gateway that wrote nothing itself vouch for what is done.
            assert (await gateway.get(f"/tasks/{task['id']}")).json()["status"] == "completed"
            async with live_gateway(servers.url, clock=clock, durability="replicated") as fresh:
                assert (await fresh.report(task, "complete", result=1)).json()["code"] == "not_replicated"
        finally:
            for node in replicas:
                node.signal(signal.SIGCONT)
        await wait_until(lambda: servers.in_sync(1, primary))
        assert (await gateway.report(task, "complete", result=1)).status_code == 200
        # The key stays taken for ten seconds, as after any answer that leaves it open.
        clock.advance(11)
        assert (await gateway.post("/tasks", {"job_type": "demo"}, headers=key)).status_code == 201
        assert len((await gateway.get("/tasks?job_type=demo")).json()["tasks"]) == 1


async def test_after_a_failover_clients_are_served_within_two_seconds_and_nothing_acknowledged_is_lost(
    servers: SentinelSet,
) -> None:
    before = servers.primary()
    stored: list[str] = []
    stop = asyncio.Event()
    async with live_gateway(servers.url, durability="replicated") as gateway, live_gateway(servers.url) as other:
        idle = asyncio.create_task(other.poll("later", wait=40))
        await wait_until(lambda: other.app.manager.open_polls == 1)

        async def produce() -> None:
            while not stop.is_set():
                stored.append((await served(gateway))["id"])

        producers = [asyncio.create_task(produce()) for _ in range(4)]
        await wait_until(lambda: len(stored) > 50)
        before.kill()
        elected_at = await failed_over(servers, before)
        known = len(stored)
        await wait_until(lambda: len(stored) > known + 4, 2.0, "it took more than two seconds")
        assert time.monotonic() - elected_at < 2.0
        await served(other)
        # An open poll outlives the failover, and hears of the next task at once.
        await gateway.enqueue("later")
        async with asyncio.timeout(3):
            (task,) = await idle
        assert task["id"].startswith("later~")
        await asyncio.to_thread(before.start)
        stop.set()
        await asyncio.gather(*producers)
        for id in stored:
            assert (await gateway.get(f"/tasks/{id}")).status_code == 200, id


async def test_a_planned_failover_moves_every_connection(servers: SentinelSet) -> None:
    before = servers.primary()
    async with live_gateway(servers.url) as gateway:
        await gateway.enqueue()
        # It refuses while the failover before this one ends.
        await asyncio.to_thread(until, lambda: servers.sentinels[0].redis.execute_command("SENTINEL FAILOVER", MASTER))
        await failed_over(servers, before)

        async def there() -> bool:
            # Until the sentinels tell it otherwise, the old primary takes tasks.
            task = await served(gateway)
            return bool(servers.primary().redis.exists(f"arq:job:{{default:demo}}{task['id'].partition('~')[2]}"))

        await wait_until(there, 2.0, "it stayed with the old primary")
        (await gateway.get("/workers")).raise_for_status()


@pytest.mark.parametrize("binary", redis_binaries().values(), ids=redis_binaries())
async def test_a_repeated_report_that_writes_nothing_is_not_vouched_for_on_any_redis(
    binary: str, tmp_path: Path
) -> None:
    """Redis 7.2 and later wait only for what the same connection wrote."""
    with SentinelSet(tmp_path, replicas=1, binary=binary) as servers:
        primary, replica = servers.servers
        primary.start()
        replica.start()
        await wait_until(lambda: servers.in_sync(1), 20)
        url = f"redis://{primary.address}"
        async with live_gateway(url, durability="local") as gateway:
            await gateway.enqueue()
            (task,) = await gateway.poll()
            replica.signal(signal.SIGSTOP)
            assert (await gateway.report(task, "complete", result=1)).status_code == 200
            async with live_gateway(url, durability="replicated") as fresh:
                assert (await fresh.report(task, "complete", result=1)).json()["code"] == "not_replicated"


@pytest.mark.parametrize(
    ("facts", "kind", "durability", "word"),
    [
        (GOOD, "sentinel", "replicated", None),
        (GOOD, "server", "local", None),
        (ServerFacts((7, 0), "noeviction", 0, True, 0, 1), "server", "local", None),
        (ServerFacts((7, 0), "noeviction", 0, True, 0, 1), "sentinel", "local", "min-replicas-to-write"),
        (ServerFacts((7, 0), "noeviction", 0, True, -1, 1), "sentinel", "local", None),
        (ServerFacts((7, 0), "noeviction", 0, True, 1, 0), "server", "replicated", "no replica"),
        (ServerFacts((7, 0), "noeviction", 0, False, 1, 1), "server", "local", "appendonly"),
        (ServerFacts((7, 0), "noeviction", 0, False, 1, 1), "server", "memory", None),
        (ServerFacts((6, 2), "noeviction", 0, True, 1, 1), "cluster", "local", "older than 7.0"),
    ],
)
def test_redis_is_complained_of_where_it_cannot_keep_the_promise(
    facts: ServerFacts, kind: str, durability: Any, word: str | None
) -> None:
    found = complaints(facts, embedded=False, kind=kind, durability=durability)
    assert len(found) == (word is not None)
    assert word is None or word in found[0].text


@pytest.mark.parametrize("binary", redis_binaries().values(), ids=redis_binaries())
async def test_a_redis_that_is_loading_is_away_and_not_one_without_aof(binary: str, tmp_path: Path) -> None:
    """While it reads its file it answers INFO, and says there that it appends to none."""
    server = RedisServer(tmp_path, binary, "--appendonly", "yes")
    server.start()
    connections = Connections(server.url)
    try:
        async with connections.redis.pipeline(transaction=False) as pipe:
            for number in range(30_000):
                pipe.set(f"key {number}", 1)
            await pipe.execute()
        registry = Registry(connections.redis, Keys())
        watch = RedisWatch(registry, embedded=False, strict=True)
        await watch.look()
        assert (watch.answers, watch.warnings) == (True, [])
        server.kill()
        # In microseconds; it looks at its clients after every thousand commands of the file.
        server.options += ("--key-load-delay", "100")
        starting = asyncio.create_task(asyncio.to_thread(server.start))
        await wait_until(lambda: _says_that_it_loads(connections))
        assert (await connections.redis.info())["aof_enabled"] == 0
        with pytest.raises(StoreUnavailable):
            await registry.server_facts()
        await watch.look()
        assert (watch.answers, watch.ready, watch.warnings) == (False, False, [])
        assert not starting.done()
        await connections.redis.config_set("key-load-delay", 0)
        await starting
        await watch.look()
        assert (watch.answers, watch.ready, watch.warnings) == (True, True, [])
    finally:
        await connections.close()
        server.stop()


async def _says_that_it_loads(connections: Connections) -> bool:
    try:
        return bool((await connections.redis.info())["loading"])
    except (OSError, RedisError):
        return False


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("redis://a:1/2", Location("server", "redis://a:1/2")),
        ("unix:///run/r.sock", Location("server", "unix:///run/r.sock")),
        ("redis-sentinel://a,b:1/3#m", (("a", 26379), ("b", 1))),
        ("redis-sentinel://[::1]:5", (("::1", 5),)),
        ("redis-cluster://a:1,b", (("a", 1), ("b", 6379))),
        ("rediss-cluster://a", (("a", 6379),)),
    ],
)
def test_a_location_is_read(url: str, location: Location | tuple[tuple[str, int], ...]) -> None:
    found = parse(url)
    assert location in (found, found.addresses)
    assert found.tls == url.startswith("rediss-")


@pytest.mark.parametrize(
    "url", ["redis-cluster://", "redis-cluster://a:x", "redis-cluster://a/1", "redis-sentinel://:1"]
)
def test_a_location_that_names_nothing_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|database|host:port"):
        parse(url)
