"""What users of five older systems send, and what comes back: one test a line of their requests."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.credentials import OTHER_SECRET, SECRET, bearer, token
from tests.harness import Clock, GatewayProcess, LiveGateway, RedisServer, live_gateway, redis_binaries, wait_until

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
RESIZE = {"image_url": "https://example.com/image.jpg", "width": 800, "height": 600}


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TcpRedis(RedisServer):
    """A Redis with a port and a password, as one that somebody else runs."""

    def __init__(self, folder: Path) -> None:
        self.tcp_port = free_port()
        options = ("--port", str(self.tcp_port), "--bind", "127.0.0.1")
        super().__init__(folder, next(iter(redis_binaries().values())), *options)

    async def keys(self, db: int = 0) -> list[bytes]:
        """List every key of a database."""
        async with Redis(host="127.0.0.1", port=self.tcp_port, password="s3cret", db=db) as redis:
            return await redis.keys()


@pytest.fixture
def tcp_redis(tmp_path: Path) -> Iterator[TcpRedis]:
    server = TcpRedis(tmp_path / "tcp")
    server.start()
    yield server
    server.stop()


async def protect(server: TcpRedis) -> None:
    """From now on it wants a password."""
    async with Redis(unix_socket_path=str(server.socket)) as redis:
        await redis.config_set("requirepass", "s3cret")


# A. Tasks Platform


async def test_a_job_is_posted(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", {"job_type": "demo", "payload": {"hello": "world"}})
    assert reply.status_code == 201
    assert reply.json()["id"]
    assert reply.json()["status"] == "pending"


async def test_it_is_polled_with_its_payload_unchanged(gateway: LiveGateway) -> None:
    posted = '{"job_type":"demo","payload":{"hello":"world","big":12345678901234567890,"one":1.0}}'
    await gateway.client.post("/tasks", content=posted, headers={"Content-Type": "application/json"})
    reply = await gateway.get("/poll?worker_id=myworker&task_type=demo")
    assert reply.status_code == 200
    assert '"payload":{"hello":"world","big":12345678901234567890,"one":1.0}' in reply.text


async def test_a_poll_is_held_open_while_there_is_none(gateway: LiveGateway) -> None:
    poll = asyncio.create_task(gateway.get("/poll?worker_id=myworker&task_type=demo"))
    await wait_until(lambda: gateway.app.manager.open_polls == 1)
    assert not poll.done()
    task = await gateway.enqueue("demo", payload={"hello": "world"})
    assert [one["id"] for one in (await poll).json()["tasks"]] == [task["id"]]


async def test_health_is_asked(gateway: LiveGateway) -> None:
    reply = await gateway.get("/health")
    assert reply.status_code == 200
    assert reply.json()["status"] == "ok"


async def test_a_worker_heartbeats_and_signals_completion(gateway: LiveGateway) -> None:
    await gateway.enqueue("demo")
    (task,) = await gateway.poll("demo", worker_id="myworker")
    assert (await gateway.report(task, "heartbeat")).status_code == 200
    assert (await gateway.report(task, "complete")).json()["status"] == "completed"


async def test_tasks_survive_a_restart_of_the_service(redis_url: str) -> None:
    async with live_gateway(redis_url) as before:
        waiting = await before.enqueue("demo", payload="kept")
    async with live_gateway(redis_url) as after:
        (task,) = await after.poll("demo")
        assert (task["id"], task["payload"]) == (waiting["id"], "kept")


async def test_several_instances_never_process_a_task_twice_at_a_time(redis_url: str) -> None:
    async with live_gateway(redis_url) as one, live_gateway(redis_url) as two:
        posted = {(await one.enqueue("demo"))["id"] for _ in range(40)}
        polls = [(one, two)[number % 2].poll("demo", worker_id=f"w{number}") for number in range(60)]
        got = [task["id"] for tasks in await asyncio.gather(*polls) for task in tasks]
        assert sorted(got) == sorted(posted)


async def test_port_redis_addr_password_and_db_are_read(tcp_redis: TcpRedis, tmp_path: Path) -> None:
    await protect(tcp_redis)
    address = {"REDIS_ADDR": f"127.0.0.1:{tcp_redis.tcp_port}", "REDIS_PASSWORD": "s3cret", "REDIS_DB": "3"}
    gateway = GatewayProcess(None, tmp_path, **address)  # sets PORT
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.post("/tasks", json={"job_type": "demo"})).status_code == 201
    assert await gateway.end() == 0
    assert await tcp_redis.keys(db=3)
    assert not await tcp_redis.keys(db=0)


# B. Task Pool System


async def test_a_task_with_a_title_and_a_description_is_posted(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", {"title": "example", "description": "demo task"})
    assert reply.status_code == 201
    task = reply.json()
    assert (task["title"], task["description"], task["status"]) == ("example", "demo task", "pending")


async def test_a_task_is_read_by_its_id(gateway: LiveGateway) -> None:
    task = (await gateway.post("/tasks", {"title": "example"})).json()
    reply = await gateway.get(f"/tasks/{task['id']}")
    assert reply.status_code == 200
    assert reply.json()["title"] == "example"


async def test_all_tasks_are_listed(gateway: LiveGateway) -> None:
    posted = [(await gateway.post("/tasks", {"title": f"number {number}"})).json()["id"] for number in range(3)]
    reply = await gateway.get("/tasks")
    assert reply.status_code == 200
    assert [task["id"] for task in reply.json()["tasks"]] == posted[::-1]


async def test_the_pool_inside_the_service_processes_tasks(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=5) as gateway:
        reply = await gateway.post("/tasks", {"title": "example"}, headers={"Prefer": "wait=15"})
        assert reply.status_code == 200
        task = reply.json()
        assert task["status"] == "completed"
        assert 1 <= task["result"]["planned_seconds"] <= 5


async def test_task_queue_size_is_shared_by_all_instances(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=3) as one, live_gateway(redis_url, task_queue_size=3) as two:
        replies = await asyncio.gather(*((one, two)[n % 2].post("/tasks", {"title": "x"}) for n in range(10)))
        assert sorted(reply.status_code for reply in replies) == [201] * 3 + [503] * 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_a_graceful_shutdown(number: signal.Signals, redis_url: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(redis_url, tmp_path, SHUTDOWN_TIMEOUT_SECONDS="20")
    await gateway.start()
    assert await gateway.end(number, seconds=5) == 0


async def test_app_host_app_port_and_redis_host_port_and_key_are_read(tcp_redis: TcpRedis, tmp_path: Path) -> None:
    port = free_port()
    gateway = on_port(
        port, None, tmp_path, APP_HOST="127.0.0.1", APP_PORT=str(port), REDIS_HOST="127.0.0.1",
        REDIS_PORT=str(tcp_redis.tcp_port), REDIS_QUEUE_KEY="shop", TASK_WORKERS="5", SHUTDOWN_TIMEOUT="1.5",
        RATE_LIMIT_PER_MINUTE="60", DATABASE_DSN="tasks.db",
    )  # fmt: skip
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        id = (await client.post("/tasks", json={"title": "example"})).json()["id"]

        async def taken() -> bool:
            return (await client.get(f"/tasks/{id}")).json()["status"] == "processing"

        await wait_until(taken)
    assert await gateway.end() == 0
    async with Redis(unix_socket_path=str(tcp_redis.socket)) as redis:
        keys = await redis.keys()
    ours = [key for key in keys if not key.startswith(b"arq:")]
    assert ours
    assert all(key.startswith(b"shop") for key in ours)


def on_port(port: int, redis_url: str | None, folder: Path, **env: str) -> GatewayProcess:
    """A gateway that hears of its port in another way than by PORT. Empty variables count as absent."""
    gateway = GatewayProcess(redis_url, folder, **{"PORT": "", "HOST": "", **env})
    gateway.port, gateway.url = port, f"http://127.0.0.1:{port}"
    return gateway


# C. Worker Pool


async def test_a_created_task_is_201(gateway: LiveGateway) -> None:
    assert (await gateway.post("/tasks", {"title": "work"})).status_code == 201


async def test_invalid_json_is_400(gateway: LiveGateway) -> None:
    reply = await gateway.client.post("/tasks", content="{title", headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_json")


async def test_an_empty_title_is_400(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", {"title": ""})
    assert (reply.status_code, reply.json()["member"]) == (400, "title")


@pytest.mark.parametrize("id", ["a%20b", "a%00b", "%C3%A9", "x" * 201, "a*b"])
async def test_a_malformed_id_in_the_path_is_400(gateway: LiveGateway, id: str) -> None:
    reply = await gateway.get(f"/tasks/{id}")
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_id")


async def test_an_unknown_id_is_404(gateway: LiveGateway) -> None:
    known = (await gateway.post("/tasks", {"title": "work"})).json()["id"]
    for id in ("1", "unknown", known[:-1] + ("0" if known[-1] != "0" else "1")):
        reply = await gateway.get(f"/tasks/{id}")
        assert (reply.status_code, reply.json()["code"]) == (404, "task_not_found")


async def test_a_full_queue_is_503_task_pool_is_full(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=2) as gateway:
        for _ in range(2):
            assert (await gateway.post("/tasks", {"title": "work"})).status_code == 201
        reply = await gateway.post("/tasks", {"title": "one too many"})
        assert reply.status_code == 503
        assert "task pool is full" in reply.json()["detail"]
        assert len((await gateway.get("/tasks")).json()["tasks"]) == 2


async def test_while_shutting_down_it_is_503_task_pool_is_closed(gateway: LiveGateway) -> None:
    gateway.app.manager.close()
    reply = await gateway.post("/tasks", {"title": "too late"})
    assert reply.status_code == 503
    assert "task pool is closed" in reply.json()["detail"]


async def test_running_tasks_are_finished_within_shutdown_timeout_and_waiting_ones_are_still_there(
    redis_url: str, tmp_path: Path
) -> None:
    gateway = GatewayProcess(redis_url, tmp_path, WORKERS="2", SHUTDOWN_TIMEOUT="15")
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        ids = [(await client.post("/tasks", json={"title": f"work {n}"})).json()["id"] for n in range(6)]

        async def both_run() -> bool:
            return (await client.get("/health")).json()["processing"] == 2

        await wait_until(both_run)
    assert await gateway.end() == 0
    async with live_gateway(redis_url) as after:
        statuses = [(await after.get(f"/tasks/{id}")).json()["status"] for id in ids]
    assert set(statuses) == {"completed", "pending"}
    assert statuses.count("completed") >= 2


async def test_pool_size_workers_and_the_port_are_read_from_a_dot_env_file(redis_url: str, tmp_path: Path) -> None:
    gateway = on_port(free_port(), redis_url, tmp_path)
    (tmp_path / ".env").write_text(f"POOL_SIZE=2\nWORKERS=0\nSERVER_PORT={gateway.port}\n")
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        statuses = [(await client.post("/tasks", json={"title": "work"})).status_code for _ in range(3)]
    assert statuses == [201, 201, 503]
    assert await gateway.end() == 0


async def test_two_spellings_with_different_values_refuse_to_boot(redis_url: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(redis_url, tmp_path, POOL_SIZE="10", TASK_QUEUE_SIZE="20")
    with pytest.raises(AssertionError, match="POOL_SIZE and TASK_QUEUE_SIZE are the same setting but differ"):
        await gateway.start()
    assert await gateway.end() == 2


async def test_start_and_end_of_each_task_are_logged_with_planned_and_actual_time(
    redis_url: str, tmp_path: Path
) -> None:
    gateway = GatewayProcess(redis_url, tmp_path, WORKERS="1")
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        task = (await client.post("/tasks", json={"title": "work"}, headers={"Prefer": "wait=15"})).json()
    assert await gateway.end() == 0
    lines = [line for line in log_of(gateway) if line.get("task_id") == task["id"]]
    started, finished = lines
    assert started["planned_seconds"] == finished["planned_seconds"]
    assert finished["actual_seconds"] >= finished["planned_seconds"]


def log_of(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """Read its log: JSON lines."""
    return [json.loads(line) for line in gateway.log.read_text().splitlines()]


# D. Task Service API


async def test_a_first_task_has_an_id_a_title_a_status_and_its_time_in_utc(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", {"title": "My first task"})
    assert reply.status_code == 201
    task = reply.json()
    assert task["id"]
    assert task["title"] == "My first task"
    assert task["status"] == "pending"
    assert RFC_3339_UTC.fullmatch(task["created_at"])


async def test_a_task_is_read_with_its_id_in_the_query(gateway: LiveGateway) -> None:
    task = (await gateway.post("/tasks", {"title": "My first task"})).json()
    by_query = await gateway.get("/task", params={"id": task["id"]})
    by_path = await gateway.get(f"/tasks/{task['id']}")
    assert by_query.status_code == 200
    assert by_query.content == by_path.content
    assert (await gateway.get("/task?id=unknown")).status_code == 404
    assert (await gateway.get("/task")).status_code == 400


async def test_a_task_goes_from_pending_to_processing_to_completed(gateway: LiveGateway) -> None:
    id = (await gateway.post("/tasks", {"title": "My first task"})).json()["id"]

    async def status() -> str:
        found: str = (await gateway.get("/task", params={"id": id})).json()["status"]
        return found

    seen = [await status()]
    (task,) = await gateway.poll("default")
    seen.append(await status())
    await gateway.report(task, "complete")
    seen.append(await status())
    assert seen == ["pending", "processing", "completed"]


async def test_its_wishes_for_pages_retries_metrics_and_health(gateway: LiveGateway) -> None:
    for number in range(3):
        await gateway.post("/tasks", {"title": f"task {number}", "max_attempts": 2})
    page = (await gateway.get("/tasks?limit=2")).json()
    assert len(page["tasks"]) == 2
    assert page["next_cursor"]
    (task,) = await gateway.poll("default")
    assert (await gateway.report(task, "fail", error="no luck")).json()["status"] == "retrying"
    assert (await gateway.get("/metrics")).status_code == 200
    assert (await gateway.get("/health")).status_code == 200


# E. Task Queue System: every call with its JWT; the persistence in SQL, its web UI and its road map are left out.


@pytest_asyncio.fixture
async def jobs_gateway(redis_url: str, clock: Clock) -> AsyncIterator[LiveGateway]:
    """A gateway with a JWT_SECRET, and a client whose every call has its token."""
    async with live_gateway(redis_url, jwt_secret=SECRET) as one:
        one.client.headers.update(bearer(token()))
        yield one


@pytest_asyncio.fixture
async def clocked_jobs_gateway(redis_url: str, clock: Clock) -> AsyncIterator[LiveGateway]:
    """The same by a clock moved by hand."""
    async with live_gateway(redis_url, clock=clock, jwt_secret=SECRET) as one:
        one.client.headers.update(bearer(token()))
        yield one


@pytest.mark.parametrize("headers", [{}, bearer(token(OTHER_SECRET)), bearer("none"), bearer(token(exp=1))])
async def test_without_a_valid_jwt_every_call_is_refused(redis_url: str, headers: dict[str, str]) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway:
        for method, path in (
            ("POST", "/api/v1/jobs"), ("GET", "/api/v1/jobs"), ("GET", "/api/v1/jobs/image_resize~x"),
            ("GET", "/metrics"),
        ):  # fmt: skip
            assert (await gateway.client.request(method, path, headers=headers)).status_code == 401
        assert (await gateway.get("/health")).json()["status"] == "ok"


async def test_a_job_that_fails_is_retried_with_exponential_backoff(
    clocked_jobs_gateway: LiveGateway, clock: Clock
) -> None:
    gateway = clocked_jobs_gateway
    retry = {"backoff": "exponential", "base_seconds": 2, "jitter": False}
    job = (await gateway.post("/api/v1/jobs", {"type": "data_export", "retry": retry, "max_attempts": 3})).json()
    for attempt, wait in ((1, 2), (2, 4)):
        (task,) = await gateway.poll("data_export")
        failed = (await gateway.report(task, "fail", error="no")).json()
        assert failed["status"] == "retrying"
        clock.advance(wait - 0.001)
        assert await gateway.poll("data_export") == []
        assert (await gateway.get(f"/api/v1/jobs/{job['job_id']}")).json()["attempt"] == attempt
        clock.advance(0.001)
    (task,) = await gateway.poll("data_export")
    assert (await gateway.report(task, "fail", error="no")).json()["status"] == "failed"


async def test_a_job_is_posted_and_read_in_the_jobs_spelling(clocked_jobs_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_jobs_gateway
    reply = await gateway.post("/api/v1/jobs", {"type": "image_resize", "payload": RESIZE, "priority": "normal"})
    assert reply.status_code == 201
    job = reply.json()
    assert job["job_id"] == job["id"]
    assert (await gateway.get(reply.headers["location"])).status_code == 200
    (task,) = await gateway.poll("image_resize")
    assert task["payload"] == RESIZE
    clock.advance(5)
    await gateway.report(task, "complete", result={"url": "https://example.com/small.jpg"})
    job = (await gateway.get(f"/api/v1/jobs/{job['job_id']}")).json()
    assert job["status"] == "completed"
    assert job["result"] == {"url": "https://example.com/small.jpg"}
    assert job["created_at"] < job["completed_at"] == job["finished_at"]
    assert RFC_3339_UTC.fullmatch(job["completed_at"])


@pytest.mark.parametrize("job_type", ["image_resize", "email_send", "data_export", "file_process"])
async def test_its_job_types_are_queues(jobs_gateway: LiveGateway, job_type: str) -> None:
    gateway = jobs_gateway
    await gateway.post("/api/v1/jobs", {"type": job_type, "payload": {}})
    (task,) = await gateway.poll(job_type)
    assert task["job_type"] == job_type


async def test_pending_jobs_are_listed_in_the_jobs_spelling(jobs_gateway: LiveGateway) -> None:
    gateway = jobs_gateway
    posted = (await gateway.post("/api/v1/jobs", {"type": "email_send"})).json()
    await gateway.enqueue("data_export")
    await gateway.poll("data_export")
    reply = await gateway.get("/api/v1/jobs?status=pending&limit=50")
    assert [job["job_id"] for job in reply.json()["tasks"]] == [posted["job_id"]]


async def test_health_counts_workers_and_the_depth_of_the_queue(jobs_gateway: LiveGateway) -> None:
    gateway = jobs_gateway
    for _ in range(23):
        await gateway.enqueue("email_send")
    for number in range(5):
        await gateway.poll("data_export", worker_id=f"w{number}")

    async def counted() -> bool:
        health = (await gateway.get("/health")).json()
        return (health["status"], health["workers"], health["queue_depth"]) == ("ok", 5, 23)

    await wait_until(counted)


async def test_metrics_are_in_prometheus_form(jobs_gateway: LiveGateway) -> None:
    gateway = jobs_gateway
    reply = await gateway.get("/metrics", headers=bearer(token(scope="admin")))
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain")
    assert "# TYPE tasks_gateway_tasks_enqueued_total counter" in reply.text
