"""A Redis Cluster: every script on one slot, slots that move under load, primaries that are killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.crc import key_slot

from gateway import config
from gateway.app import LANES
from gateway.commands.redis_checks import check_redis
from gateway.errors import NotReplicated, StoreUnavailable, TaskNotFound
from gateway.queue_settings import QueueSettings
from gateway.store import scripts
from gateway.store.calls import Claim
from gateway.store.cluster import ClusterClient, Slots
from gateway.store.connect import Connections
from gateway.store.idempotency import Idempotency
from gateway.store.inspector import Filter, Inspector
from gateway.store.keys import Keys
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.tasks import Queue, TaskSpec, Unique
from tests.harness import LiveGateway, live_gateway, redis_binaries, wait_until
from tests.topologies import ClusterSet, Node, until

SLOT = key_slot(b"{default:demo}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSet]:
    """Three primaries with a replica each, for all tests here."""
    with ClusterSet(tmp_path_factory.mktemp("cluster")) as nodes:
        nodes.start()
        yield nodes


@pytest.fixture
def cluster(running: ClusterSet) -> ClusterSet:
    """Those nodes, empty."""
    for node in running.nodes:
        until(lambda node=node: running.healthy(node))  # type: ignore[misc]  # a default binds the loop's value
        if node.redis.role()[0] == "master":
            node.redis.flushall()
    return running


@pytest_asyncio.fixture
async def gateway(cluster: ClusterSet) -> AsyncIterator[LiveGateway]:
    """A live gateway over the cluster."""
    async with live_gateway(cluster.url) as one:
        yield one


class ClusterStore:
    """A TaskStore over a cluster."""

    def __init__(self, url: str, replicas: int = 0) -> None:
        self.connections = Connections(url, replicas=replicas)
        self.keys = Keys(cluster=self.connections.cluster)
        loaded = scripts.load(self.keys)
        lanes = {name: self.connections.lane(loaded, lambda *_: None) for name in LANES}
        self.tasks = TaskStore(self.keys, lanes, "gw1", 1000)
        self.inspector = Inspector(self.tasks)
        self.registry = Registry(self.connections.redis, self.keys)

    async def close(self) -> None:
        await self.tasks.close()
        await self.connections.close()


@pytest_asyncio.fixture(params=[0, 1], ids=["local", "replicated"])
async def store(cluster: ClusterSet, request: pytest.FixtureRequest) -> AsyncIterator[ClusterStore]:
    one = ClusterStore(cluster.url, request.param)
    yield one
    await one.close()


def keys_of(node: Node) -> list[str]:
    return [str(key) for key in node.redis.keys("*")]


async def test_every_verb_touches_one_slot_on_every_primary(store: ClusterStore, cluster: ClusterSet) -> None:
    """A script that touched a key of another slot would be refused: CROSSSLOT, or a key that is not the node's."""
    queues = [Queue("default", f"q{number}") for number in range(24)]
    await store.registry.register(set(queues))
    assert len(await store.registry.queues()) == 24
    owners = {cluster.owner(store.keys.of(queue).slot).address for queue in queues}
    assert len(owners) == 3
    for queue in queues:
        unique = Unique("u")
        spec = TaskSpec(queue.job_type, b"1", unique=unique, expires_in_ms=60_000)
        first, _, *others = await store.tasks.enqueue(
            queue, [spec, spec, *(TaskSpec(queue.job_type, b"2") for _ in range(7))]
        )
        tasks = [first, *others]
        claim = Claim("w1", 6, poll_id="p1")
        claimed = await store.tasks.claim(queue, [claim], stays=True, others=0, waited_ms=0)
        repeated = await store.tasks.claim(queue, [claim], stays=True, others=0, waited_ms=0)
        assert [one.token for one in claimed.tasks[0]] == [one.token for one in repeated.tasks[0]]
        one, two, three, four, five, six = claimed.tasks[0]
        await store.tasks.heartbeat(queue, one.task.id, one.token, progress=b"1", lines=["a"])
        await store.tasks.complete(queue, one.task.id, one.token, b"1")
        await store.tasks.fail(queue, two.task.id, two.token, b"{}", b"{}", "no", retryable=False)
        await store.tasks.fail(queue, three.task.id, three.token, b"{}", b"{}", "no")
        await store.tasks.release(queue, four.task.id, four.token, front=True)
        await store.tasks.cancel(queue, five.task.id)
        await store.tasks.retry(queue, two.task.id)
        waiting = tasks[-1].id  # type: ignore[union-attr]  # stored, as asserted by what follows
        await store.tasks.patch(queue, waiting, lambda spec: spec, None)
        assert not await store.tasks.watch(queue, six.task.id, 1000)
        await store.tasks.expire(queue)
        await store.tasks.pass_ring_on(queue)
        assert len(await store.tasks.leases(queue)) == 2
        await store.tasks.delete(queue, waiting)
        assert (await store.tasks.configure(queue, QueueSettings(max_processing=5))).max_processing == 5
        await store.tasks.spend("tenant:default", queue.job_type, 60, 0)
        assert (await store.inspector.get(queue, one.task.id)).status == "completed"
    page, _ = await store.inspector.page(queues, Filter(), 200, None)
    assert len(page) == 24 * 7
    assert await store.tasks.purge(queues[0]) == 4
    assert all(stats.completed == 1 for stats in await store.inspector.stats(queues))
    for node in cluster.nodes[:3]:
        for key in keys_of(node):
            assert cluster.owner(key_slot(key.encode())) is node, key


async def test_the_fence_is_never_there(store: ClusterStore, cluster: ClusterSet) -> None:
    await store.tasks.enqueue(Queue("default", "demo"), [TaskSpec("demo", b"1")])
    assert all("fence" not in key for node in cluster.nodes for key in keys_of(node))


async def test_an_open_poll_is_rung_through_another_gateway(gateway: LiveGateway, cluster: ClusterSet) -> None:
    async with live_gateway(cluster.url) as other:
        for job_type in (f"bell-{number}" for number in range(6)):
            polls = [asyncio.create_task(gateway.poll(job_type, wait=20)) for _ in range(2)]
            await wait_until(lambda: gateway.app.manager.open_polls == 2)
            await wait_until(lambda job_type=job_type: receivers(cluster, job_type))
            started = time.monotonic()
            await other.enqueue(job_type)
            await other.enqueue(job_type)
            assert all(await asyncio.gather(*polls))
            assert time.monotonic() - started < 2


async def test_a_full_shard_does_not_hide_what_the_partitions_of_another_took(
    gateway: LiveGateway, cluster: ClusterSet
) -> None:
    await gateway.client.put("/queues/demo", json={"partitions": 3})
    await gateway.enqueue()
    full = {cluster.owner(key_slot(f"{{default:demo/{number}}}".encode())).port for number in (1, 2)}
    full.discard(cluster.owner(SLOT).port)
    assert full
    nodes = [node for node in cluster.nodes if node.port in full]
    for node in nodes:
        node.redis.config_set("maxmemory", "1mb")
    try:
        codes = []
        for number in range(3):
            batch = [{"job_type": "demo", "unique_key": f"k{number}"}, {"job_type": "demo"}]
            reply = await gateway.post("/tasks", batch)
            assert reply.status_code in (200, 201)
            codes += [one["error"]["code"] for one in reply.json().get("results", ()) if one["status"] == 503]
            assert reply.status_code == 201 or reply.json()["results"][0]["status"] == 201
        assert codes
        assert set(codes) == {"store_full"}
    finally:
        for node in nodes:
            node.redis.config_set("maxmemory", "0")


def receivers(cluster: ClusterSet, job_type: str) -> bool:
    """Whether a gateway listens on this queue's channel at the queue's node."""
    tag = f"{{default:{job_type}}}"
    node = cluster.owner(key_slot(tag.encode()))
    return any(str(name).endswith(tag) for name in node.redis.execute_command("PUBSUB SHARDCHANNELS"))


async def test_who_waits_for_an_end_hears_of_it(gateway: LiveGateway, cluster: ClusterSet) -> None:
    async with live_gateway(cluster.url) as other:
        task = await gateway.enqueue()
        waiting = asyncio.create_task(gateway.get(f"/tasks/{task['id']}?wait=20"))
        (taken,) = await other.poll()
        await wait_until(lambda: receivers(cluster, "demo"))
        await other.report(taken, "complete", result=7)
        async with asyncio.timeout(5):
            assert (await waiting).json()["result"] == 7


async def test_a_dead_gateway_in_the_register_swallows_no_ring(gateway: LiveGateway, cluster: ClusterSet) -> None:
    poll = asyncio.create_task(gateway.poll(wait=20))
    await wait_until(lambda: gateway.app.manager.open_polls == 1)
    await wait_until(lambda: receivers(cluster, "demo"))
    node = cluster.owner(SLOT)
    await wait_until(lambda: node.redis.zcard("tg:{default:demo}:waiting") == 1)
    # It waits longer than ours, and was killed: nobody is subscribed to its channel.
    node.redis.zadd("tg:{default:demo}:waiting", {"dead": 1})
    node.redis.hset("tg:{default:demo}:wants", "dead", f"1:{round(time.time() * 1000)}")
    started = time.monotonic()
    await gateway.enqueue()
    assert await poll
    assert time.monotonic() - started < 2


async def test_health_directives_and_idempotency_keys_work(gateway: LiveGateway, cluster: ClusterSet) -> None:
    key = {"Idempotency-Key": "k1"}
    one, two = [await gateway.post("/tasks", {"job_type": "demo"}, headers=key) for _ in range(2)]
    assert one.json()["id"] == two.json()["id"]
    async with live_gateway(cluster.url) as other:
        poll = asyncio.create_task(other.poll("none", worker_id="w7", wait=20))
        await wait_until(lambda: other.app.manager.open_polls == 1)
        assert (await gateway.post("/workers/w7/drain")).status_code == 200
        async with asyncio.timeout(5):
            assert await poll == []
    assert (await gateway.get("/health")).json()["queue_depth"] == 1
    assert (await gateway.get("/health/ready")).status_code == 200
    assert (await gateway.get("/queues")).json()["queues"][0]["job_type"] == "demo"


@pytest.mark.parametrize("what", ["an Idempotency-Key", "a queue's name"])
async def test_what_is_noted_is_vouched_for_by_the_server_that_noted_it(
    what: str, cluster: ClusterSet, tmp_path: Path
) -> None:
    """A primary that was replaced and does not know it yet notes what its heir, who has replicas, knows nothing of."""
    keys = Keys(cluster=True)
    name = keys.queues if what == "a queue's name" else keys.idempotency("default", "k")
    slot = key_slot(name.encode())
    with ClusterSet(tmp_path, primaries=1, replicas=0) as old:
        old.start()
        slots = Slots([(old.nodes[0].host, old.nodes[0].port)], tls=False)
        client = ClusterClient(slots)
        if name == keys.queues:
            noting: Any = Registry(client, keys, replicas=1).register({Queue("default", "demo")})
        else:
            noting = Idempotency(client, keys, None, replicas=1).begin("default", "k", [b"request"], ["1"])
        await slots.read()
        old.nodes[0].redis.client_pause(300, all=False)
        asking = asyncio.create_task(noting)
        await wait_until(lambda: old.nodes[0].redis.info("clients")["blocked_clients"] == 1)
        heir = cluster.owner(slot)
        slots.moved(slot, (heir.host, heir.port))
        with pytest.raises(NotReplicated):
            await asking
        assert old.nodes[0].redis.exists(name)
        await client.aclose()


async def test_a_node_that_forgot_its_scripts_gets_them_again(gateway: LiveGateway, cluster: ClusterSet) -> None:
    await gateway.enqueue()
    for node in cluster.nodes[:3]:
        node.redis.script_flush()
    await gateway.enqueue()
    assert len(await gateway.poll(max=5)) == 2


async def test_a_job_of_another_slot_is_nobodys_and_stops_no_queue(store: ClusterStore, cluster: ClusterSet) -> None:
    """A plain arq producer may choose ids freely; here they must hold the queue's tag."""
    queue = Queue("default", "demo")
    strangers = [f"stranger-{number}" for number in range(30)]
    cluster.owner(SLOT).redis.zadd("arq:queue:{default:demo}", dict.fromkeys(strangers, time.time() * 1000 - 1000))
    (task,) = await store.tasks.enqueue(queue, [TaskSpec("demo", b"1")])
    given: list[str] = []
    while not given:
        claimed = await store.tasks.claim(queue, [Claim("w1", 10)], stays=False, others=0, waited_ms=0)
        given += [one.task.id for one in claimed.tasks[0]]
    assert given == [task.id]  # type: ignore[union-attr]  # stored
    with pytest.raises(TaskNotFound):
        await store.tasks.cancel(queue, "demo~~c3RyYW5nZXItMQ")


async def test_while_a_slot_moves_its_queue_waits_and_no_task_is_torn_apart(
    gateway: LiveGateway, cluster: ClusterSet
) -> None:
    source = cluster.owner(SLOT)
    target = next(node for node in cluster.nodes[:3] if node is not source)
    stored: list[str] = []
    completed: set[str] = set()
    answers: dict[str, int] = {}
    stop = asyncio.Event()

    async def say(path: str, body: Any) -> Any:
        reply = await gateway.post(path, body)
        answers[str(reply.status_code)] = answers.get(str(reply.status_code), 0) + 1
        if reply.status_code == 503:
            assert reply.json()["code"] == "store_unavailable", reply.text
            return None
        assert reply.status_code < 300, reply.text
        return reply.json() if reply.status_code != 204 else {}

    async def produce(job_type: str) -> None:
        while not stop.is_set():
            made = await say("/tasks", {"job_type": job_type, "payload": len(stored)})
            if made:
                stored.append(made["id"])

    async def work() -> None:
        while not stop.is_set():
            found = await say("/poll", {"worker_id": "w1", "task_type": ["demo", "other"], "max": 5, "wait": 1})
            for task in (found or {}).get("tasks", ()):
                token = {"lease_token": task["lease_token"], "result": 1}
                while await say(f"/tasks/{task['id']}/complete", token) is None:
                    pass
                completed.add(task["id"])

    workers = [asyncio.create_task(work()) for _ in range(2)]
    producers = [asyncio.create_task(produce(name)) for name in ("demo", "demo", "demo", "other")]
    await wait_until(lambda: len(stored) > 100)
    source, target = await asyncio.to_thread(cluster.begin_move, SLOT, target)
    known = len(stored)
    while await asyncio.to_thread(cluster.move_keys, SLOT, source, target, 5):
        # Half of it is here, half of it is there: nothing of this queue may run now.
        await asyncio.sleep(0)
    await wait_until(lambda: len(stored) > known, 5, "other queues stood still, too")
    await asyncio.to_thread(cluster.end_move, SLOT, source, target)
    known = sum(id.startswith("demo~") for id in stored)
    await wait_until(lambda: sum(id.startswith("demo~") for id in stored) > known + 20, 5)
    stop.set()
    await asyncio.gather(*producers, *workers)
    assert cluster.owner(SLOT) is target
    while tasks := await gateway.poll("demo", "other", max=50):
        for task in tasks:
            assert (await gateway.report(task, "complete", result=1)).status_code == 200
            completed.add(task["id"])
    assert set(stored) <= completed
    assert not [key for key in keys_of(source) if "{default:demo}" in key]
    health = (await gateway.get("/health")).json()
    assert (health["failed"], health["queue_depth"]) == (0, 0)


async def test_a_poll_is_rung_after_its_slot_moved(gateway: LiveGateway, cluster: ClusterSet) -> None:
    source = cluster.owner(SLOT)
    target = next(node for node in cluster.nodes[:3] if node is not source)
    async with live_gateway(cluster.url) as other:
        poll = asyncio.create_task(gateway.poll(wait=30))
        await wait_until(lambda: receivers(cluster, "demo"))
        source, target = await asyncio.to_thread(cluster.begin_move, SLOT, target)
        while await asyncio.to_thread(cluster.move_keys, SLOT, source, target):
            pass
        await asyncio.to_thread(cluster.end_move, SLOT, source, target)
        await wait_until(lambda: receivers(cluster, "demo"), 5, "it did not follow the slot")
        started = time.monotonic()
        await other.enqueue()
        assert await poll
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("binary", redis_binaries().values(), ids=redis_binaries())
async def test_a_task_lives_its_life_on_every_redis_we_can_find(binary: str, tmp_path: Path) -> None:
    with ClusterSet(tmp_path, replicas=0, binary=binary) as nodes:
        nodes.start()
        async with live_gateway(nodes.url) as gateway:
            for number in range(9):
                poll = asyncio.create_task(gateway.poll(f"q{number}", wait=10))
                await wait_until(lambda: gateway.app.manager.open_polls == 1)
                await gateway.enqueue(f"q{number}")
                (task,) = await poll
                assert (await gateway.report(task, "complete", result=1)).status_code == 200
            assert (await gateway.get("/health")).json()["queue_depth"] == 0


async def test_a_killed_primary_is_replaced_by_its_replica_and_other_queues_go_on(cluster: ClusterSet) -> None:
    victim = cluster.owner(SLOT)
    names = [f"q{number}" for number in range(100)]
    elsewhere = next(name for name in names if cluster.owner(key_slot(f"{{default:{name}}}".encode())) is not victim)
    stored: list[str] = []
    async with live_gateway(cluster.url, durability="replicated") as gateway:
        for _ in range(50):
            stored.append((await gateway.enqueue())["id"])
        await gateway.enqueue(elsewhere)
        idle = asyncio.create_task(gateway.poll("later", wait=30))
        await wait_until(lambda: receivers(cluster, "later"))
        victim.kill()
        failed_at = time.monotonic()
        until(lambda: victim.process is not None and victim.process.poll() is not None)
        reply = await gateway.post("/tasks", {"job_type": "demo"})
        assert (reply.status_code, reply.json()["retryable"]) == (503, True)
        # It is no gateway's fault: none is taken out of service for one node.
        assert (await gateway.get("/health/ready")).status_code == 200

        async def again() -> bool:
            reply = await gateway.post("/tasks", {"job_type": "demo"})
            if reply.status_code == 201:
                stored.append(reply.json()["id"])
                return True
            # Its replica has no replica of its own: it is not acknowledged, and yet it is served.
            assert reply.status_code == 503
            assert reply.json()["retryable"]
            return bool(reply.json()["code"] == "not_replicated")

        await wait_until(again, 20)
        assert time.monotonic() - failed_at < 15
        for id in stored:
            assert (await gateway.get(f"/tasks/{id}")).status_code == 200
        assert (await gateway.get("/health")).status_code == 200
        await asyncio.to_thread(victim.start)

        async def stored_later() -> bool:
            return (await gateway.post("/tasks", {"job_type": "later"})).status_code == 201

        await wait_until(stored_later)
        async with asyncio.timeout(5):
            assert await idle


async def test_the_doctor_looks_at_a_cluster(cluster: ClusterSet) -> None:
    settings = config.load({"REDIS_CLUSTER": ",".join(node.address for node in cluster.nodes)}, None)
    found = {finding.check: finding.level for finding in await check_redis(settings)}
    assert (found["redis"], found["redis version"], found["persistence"]) == ("ok", "ok", "warning")


async def test_the_doctor_looks_at_every_primary_of_a_cluster(cluster: ClusterSet) -> None:
    settings = config.load({"REDIS_CLUSTER": ",".join(node.address for node in cluster.nodes)}, None)
    node = cluster.owner(SLOT)
    node.redis.config_set("maxmemory-policy", "allkeys-lru")
    node.redis.config_set("maxmemory", node.redis.info("memory")["used_memory"] + 1)
    try:
        for _ in range(5):
            found = {finding.check: finding.level for finding in await check_redis(settings)}
            assert (found["maxmemory-policy"], found["memory"]) == ("warning", "warning")
    finally:
        node.redis.config_set("maxmemory", 0)
        node.redis.config_set("maxmemory-policy", "noeviction")


async def test_without_any_node_it_is_unavailable_within_the_deadline() -> None:
    store = ClusterStore("redis-cluster://127.0.0.1:1")
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.tasks.enqueue(Queue("default", "demo"), [TaskSpec("demo", b"1")])
        with pytest.raises(StoreUnavailable):
            await store.registry.queues()
        assert time.monotonic() - started < 6
    finally:
        await store.close()
