"""The workers and producers of examples/ without an SDK, one language after the other, against a live gateway.

Each worker goes through the same trials.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.credentials import SECRET, bearer, token
from tests.harness import Clock, LiveGateway, live_gateway, wait_until

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGES = ROOT / "docs" / "workers"
JOB_TYPE = "file_process"
# No file of a worker, and no producer, is longer: they are to be read in one go.
MOST_LINES = {"worker": 79, "producer": 39}


def build_go(folder: Path) -> list[str]:
    """Compile the Go worker."""
    program = folder / "worker"
    run(["go", "build", "-o", str(program), "."], EXAMPLES / "go")
    return [str(program)]


def build_java(folder: Path) -> list[str]:
    """Compile the Java worker; a warning is an error."""
    sources = [str(path) for path in sorted((EXAMPLES / "java").glob("*.java"))]
    run(["javac", "-Xlint:all", "-Werror", "-d", str(folder), *sources], EXAMPLES / "java")
    # Quick to start, which is what the trials wait for.
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", str(folder), "Worker"]


def build_rust(folder: Path) -> list[str]:
    """Compile the Rust worker. Its crates are compiled once for many runs of the tests."""
    target = Path(tempfile.gettempdir()) / f"tasks-gateway-examples-{os.getuid()}" / "rust"
    run(["cargo", "build", "--quiet", "--locked", "--target-dir", str(target)], EXAMPLES / "rust")
    return [str(target / "debug" / "worker")]


# Per language: the programs without which its trials are skipped, and how to get a command to run.
LANGUAGES: dict[str, tuple[list[str], Callable[[Path], list[str]]]] = {
    "python": ([], lambda folder: [sys.executable, str(EXAMPLES / "python/worker.py")]),
    "node": (["node"], lambda folder: ["node", str(EXAMPLES / "node/worker.mjs")]),
    "go": (["go"], build_go),
    "java": (["javac", "java"], build_java),
    "rust": (["cargo"], build_rust),
    "ruby": (["ruby"], lambda folder: ["ruby", "-w", str(EXAMPLES / "ruby/worker.rb")]),
    "php": (["php"], lambda folder: ["php", str(EXAMPLES / "php/worker.php")]),
}


PRODUCERS = {
    "curl": (["bash", "curl"], ["bash", str(EXAMPLES / "curl/producer.sh")]),
    "javascript": (["node"], ["node", str(EXAMPLES / "javascript/producer.mjs")]),
    "python": ([], [sys.executable, str(EXAMPLES / "python/producer.py")]),
}
SUFFIXES = {".go", ".java", ".mjs", ".php", ".py", ".rb", ".rs", ".sh"}
# What says that a source is formatted, or at least well-formed, and says nothing else.
CHECKS = {
    "go": ["gofmt", "-d", "go"],
    "rust": ["rustfmt", "--check", "--edition", "2021", "--config-path", "rust", "rust/src/main.rs"],
    "node": ["node", "--check", "node/worker.mjs"],
    "javascript": ["node", "--check", "javascript/producer.mjs"],
    "ruby": ["ruby", "-w", "-e", "RubyVM::InstructionSequence.compile_file('ruby/worker.rb')"],
    "curl": ["shellcheck", "curl/producer.sh"],
}


def run(command: list[str], folder: Path) -> None:
    """Run a compiler; what it says is the failure."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


def need(*programs: str) -> None:
    """Skip where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed here")


@pytest.fixture(scope="session", params=LANGUAGES)
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the worker of each language in turn, built once."""
    programs, build = LANGUAGES[request.param]
    need(*programs)
    return build(tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=PRODUCERS)
def producer(request: pytest.FixtureRequest) -> list[str]:
    """The command that runs the producer of each language in turn."""
    programs, command = PRODUCERS[request.param]
    need(*programs)
    return command


@pytest_asyncio.fixture
async def gateway_of_two(redis_url: str) -> AsyncIterator[LiveGateway]:
    """A gateway whose queues hold two tasks."""
    async with live_gateway(redis_url, task_queue_size=2) as one:
        yield one


class RunningWorker:
    """A worker in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    async def exit_code(self, seconds: float = 30) -> int:
        """Wait for its end."""
        try:
            return await asyncio.to_thread(self.process.wait, seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {seconds} s: {self.log.read_text()}") from None


@contextlib.asynccontextmanager
async def running(
    command: list[str], url: str, folder: Path, worker_id: str = "w-1", **env: str
) -> AsyncIterator[RunningWorker]:
    """Run a worker until the block ends."""
    log = folder / f"{worker_id}.log"
    with log.open("ab") as file:
        environment = {**os.environ, "GATEWAY_URL": url, "WORKER_ID": worker_id, **env}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        yield RunningWorker(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest_asyncio.fixture
async def worker(command: list[str], gateway: LiveGateway, tmp_path: Path) -> AsyncIterator[RunningWorker]:
    """A worker that polls `gateway`."""
    async with running(command, gateway.url, tmp_path) as one:
        yield one


class Relay:
    """Stands between worker and gateway: cuts connections, or loses a reply after the gateway gave it."""

    def __init__(self) -> None:
        self.gateway_port: int | None = None
        self.to_lose: list[bytes] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the worker."""
        writers = {writer}
        self._writers |= writers
        try:
            there, away = await asyncio.open_connection("127.0.0.1", self.gateway_port or 0)
            writers.add(away)
            self._writers.add(away)
            pumps = [asyncio.create_task(self._pump(reader, away)), asyncio.create_task(self._pump(there, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # there is no gateway
        finally:
            for one in writers:
                one.transport.abort()
            for one in writers:
                with contextlib.suppress(OSError):
                    await one.wait_closed()
            self._writers -= writers

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            for pattern in self.to_lose:
                if pattern in data:
                    self.to_lose.remove(pattern)
                    return
            writer.write(data)
            await writer.drain()

    async def cut(self) -> None:
        """End every connection, and let no new one through."""
        self.gateway_port = None
        for writer in self._writers:
            writer.transport.abort()
        await wait_until(lambda: not self._writers)


@contextlib.asynccontextmanager
async def relaying() -> AsyncIterator[tuple[Relay, str]]:
    """Run a relay until the block ends; gives its address too."""
    relay = Relay()
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        yield relay, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await relay.cut()


async def in_state(gateway: LiveGateway, task: dict[str, Any], status: str, seconds: float = 10) -> dict[str, Any]:
    """Wait until a task has this status; returns it."""
    found: dict[str, Any] = {}

    async def reached() -> bool:
        found.update((await gateway.get(f"/tasks/{task['id']}")).json())
        return found["status"] == status

    try:
        await wait_until(reached, seconds)
    except AssertionError:
        raise AssertionError(f"not {status}: {found}") from None
    return found


async def wait_final(gateway: LiveGateway, task: dict[str, Any]) -> dict[str, Any]:
    """Wait until a task is final; returns it."""
    reply = await gateway.get(f"/tasks/{task['id']}?wait=15")
    return reply.json()


async def worker_ids(gateway: LiveGateway) -> list[str]:
    """Who is known as a worker."""
    return [one["id"] for one in (await gateway.get("/workers")).json()["workers"]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to process."""
    path = tmp_path / "a.txt"
    path.write_text("one two\nthree\n")
    return path


def expected(path: Path) -> dict[str, Any]:
    """What every worker must find: words are runs of bytes between ASCII white space, lines end in \\n."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return {"bytes": len(data), "lines": data.count(b"\n"), "words": len(data.split()), "sha256": digest}


@pytest.mark.usefixtures("worker")
async def test_counts_and_hashes_as_hashlib_does(gateway: LiveGateway, tmp_path: Path) -> None:
    contents = {
        "empty": b"",
        "no newline at the end.txt": b"  one\ttwo\r\n\x0bthree\x0cfour",
        'Grüße "2" 日本 😀.txt': "naïve café\u00a0au lait\u2003x\u0085y\n".encode(),
        "bytes.bin": bytes(range(256)) * 3 + b"\n",
        "long.txt": b"some words here " * 20_000 + b"x" * 70_000 + b"\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    batch = [{"job_type": JOB_TYPE, "payload": {"path": str(tmp_path / name)}} for name in contents]
    tasks = (await gateway.post("/tasks", batch)).json()["tasks"]
    for name, task in zip(contents, tasks, strict=True):
        done = await wait_final(gateway, task)
        assert (done["status"], done.get("result")) == ("completed", expected(tmp_path / name)), name


async def test_says_what_it_does_and_a_clean_stop_is_no_trouble(
    gateway: LiveGateway, worker: RunningWorker, file: Path, tmp_path: Path
) -> None:
    done = await wait_final(gateway, await gateway.enqueue(JOB_TYPE, payload={"path": str(file)}))
    missing = {"path": str(tmp_path / "missing")}
    failed = await wait_final(gateway, await gateway.enqueue(JOB_TYPE, payload=missing))
    await wait_until(lambda: gateway.app.manager.open_polls == 1)
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.exit_code() == 0
    begin, *lines = worker.log.read_text().splitlines()
    assert begin.endswith(f"w-1 polls {gateway.url} for {JOB_TYPE}")
    assert f"w-1: complete {done['id']}: 200" in lines[0]
    assert f"w-1: fail {failed['id']}: 200 " in lines[1]
    assert failed["error"]["message"] in lines[1]
    assert lines[2:] in ([], ["w-1 stops: SIGTERM"])


@pytest.mark.usefixtures("worker")
async def test_says_why_it_failed_and_does_not_try_again_what_stays_so(gateway: LiveGateway, tmp_path: Path) -> None:
    for payload in ({"path": str(tmp_path / "missing")}, [7]):
        failed = await wait_final(gateway, await gateway.enqueue(JOB_TYPE, payload=payload))
        assert (failed["status"], failed["attempt"]) == ("failed", 1), failed
        assert failed["error"]["type"], failed
        assert failed["error"]["message"], failed


@pytest.mark.usefixtures("worker")
async def test_what_may_be_otherwise_in_a_minute_is_tried_again(gateway: LiveGateway, tmp_path: Path) -> None:
    folder = {"path": str(tmp_path)}  # a file may stand there next time
    task = await gateway.enqueue(JOB_TYPE, payload=folder, retry={"delays_seconds": [600]})
    retrying = await in_state(gateway, task, "retrying")
    assert retrying["error"]["type"], retrying
    assert retrying["error"]["message"], retrying


async def test_sigterm_gives_the_task_back_and_signs_off(
    gateway: LiveGateway, worker: RunningWorker, file: Path
) -> None:
    task = await gateway.enqueue(JOB_TYPE, payload={"path": str(file), "seconds": 60})
    await in_state(gateway, task, "processing")
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.exit_code() == 0
    again = (await gateway.get(f"/tasks/{task['id']}")).json()
    assert (again["status"], again["attempt"]) == ("pending", 0)
    assert await worker_ids(gateway) == []


async def test_ctrl_c_ends_the_open_poll(gateway: LiveGateway, worker: RunningWorker, file: Path) -> None:
    await wait_final(gateway, await gateway.enqueue(JOB_TYPE, payload={"path": str(file)}))
    await wait_until(lambda: gateway.app.manager.open_polls == 1)
    worker.process.send_signal(signal.SIGINT)
    assert await worker.exit_code() == 0
    assert gateway.app.manager.open_polls == 0
    assert await worker_ids(gateway) == []


async def test_lets_go_of_a_lost_lease_and_goes_on(
    command: list[str], clocked_gateway: LiveGateway, clock: Clock, tmp_path: Path, file: Path
) -> None:
    gateway = clocked_gateway
    task = await gateway.enqueue(JOB_TYPE, payload={"path": str(file), "seconds": 60}, lease_seconds=1)
    async with running(command, gateway.url, tmp_path) as worker:
        await in_state(gateway, task, "processing")
        worker.process.send_signal(signal.SIGSTOP)
        clock.advance(2)
        ours = (await wait_until(lambda: gateway.poll(JOB_TYPE, worker_id="w-2")))[0]
        assert (ours["id"], ours["attempt"]) == (task["id"], 2)
        worker.process.send_signal(signal.SIGCONT)
        other = await wait_final(gateway, await gateway.enqueue(JOB_TYPE, payload={"path": str(file)}))
        assert (other["status"], other["worker_id"]) == ("completed", "w-1")
    metrics = (await gateway.get("/metrics")).text
    assert 'route="/tasks/{id}/heartbeat",status="409"' in metrics
    for verb in ("complete", "fail", "release"):
        assert f'route="/tasks/{{id}}/{verb}",status="409"' not in metrics, "it reported on a lease that it had lost"
    assert (await gateway.report(ours, "complete", result="ours")).status_code == 200
    assert (await gateway.get(f"/tasks/{task['id']}")).json()["result"] == "ours"


@pytest.mark.usefixtures("worker")
async def test_lets_go_of_a_cancelled_task_and_goes_on(gateway: LiveGateway, file: Path) -> None:
    task = await gateway.enqueue(JOB_TYPE, payload={"path": str(file), "seconds": 60}, lease_seconds=1)
    await in_state(gateway, task, "processing")
    assert (await gateway.client.delete(f"/tasks/{task['id']}")).status_code == 202
    await in_state(gateway, task, "cancelled", 3)
    other = await wait_final(gateway, await gateway.enqueue(JOB_TYPE, payload={"path": str(file)}))
    assert other["status"] == "completed"


async def test_heartbeats_keep_a_lease_and_drain_and_stop_end_a_worker(
    command: list[str], gateway: LiveGateway, worker: RunningWorker, tmp_path: Path, file: Path
) -> None:
    drained = await gateway.enqueue(JOB_TYPE, payload={"path": str(file), "seconds": 1.2}, lease_seconds=1)
    await in_state(gateway, drained, "processing")
    async with running(command, gateway.url, tmp_path, "w-2") as other:
        stopped = await gateway.enqueue(JOB_TYPE, payload={"path": str(file), "seconds": 60}, lease_seconds=1)
        await in_state(gateway, stopped, "processing")
        await gateway.post("/workers/w-1/drain")
        await gateway.post("/workers/w-2/stop")
        done = await wait_final(gateway, drained)
        # Longer than the lease, and yet the first attempt; after it, the worker takes nothing more.
        assert (done["status"], done.get("result"), done["attempt"]) == ("completed", expected(file), 1)
        assert await worker.exit_code() == 0
        assert await other.exit_code() == 0
    again = (await gateway.get(f"/tasks/{stopped['id']}")).json()
    assert (again["status"], again["attempt"]) == ("pending", 0)
    assert await worker_ids(gateway) == []


async def test_goes_on_when_the_gateway_comes_back(
    command: list[str], redis_url: str, tmp_path: Path, file: Path
) -> None:
    async with relaying() as (relay, url), running(command, url, tmp_path) as worker:
        for _ in range(2):
            async with live_gateway(redis_url) as gateway:
                relay.gateway_port = gateway.port
                done = await wait_final(gateway, await gateway.enqueue(JOB_TYPE, payload={"path": str(file)}))
                assert done["status"] == "completed"
                # First, since asyncio leaks a connection that it accepts in the very moment its server closes.
                await relay.cut()
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.exit_code() == 0, "it must stop without a gateway, too"


async def test_repeats_what_was_lost_on_the_way(
    command: list[str], gateway: LiveGateway, tmp_path: Path, file: Path
) -> None:
    async with relaying() as (relay, url):
        relay.gateway_port = gateway.port
        relay.to_lose = [b'"lease_token"', b'"status":"completed"']
        task = await gateway.enqueue(JOB_TYPE, payload={"path": str(file)})
        async with running(command, url, tmp_path):
            done = await wait_final(gateway, task)
            assert (done["status"], done["attempt"]) == ("completed", 1)
            again = await wait_final(gateway, await gateway.enqueue(JOB_TYPE, payload={"path": str(file)}))
            assert again["status"] == "completed"
        assert relay.to_lose == []


async def test_says_who_it_is(command: list[str], redis_url: str, tmp_path: Path, file: Path) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway:
        gateway.client.headers.update(bearer(token()))
        task = await gateway.enqueue(JOB_TYPE, payload={"path": str(file)})
        secret = token(scope="work")
        async with running(command, gateway.url, tmp_path, GATEWAY_TOKEN=secret) as worker:
            assert (await wait_final(gateway, task))["status"] == "completed"
            worker.process.send_signal(signal.SIGTERM)
            assert await worker.exit_code() == 0
        assert (await gateway.get("/workers")).json()["workers"] == []
        assert "unauthenticated" not in worker.log.read_text()
        assert secret not in worker.log.read_text()


async def test_a_producer_says_who_it_is(producer: list[str], redis_url: str, tmp_path: Path, file: Path) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway:
        env = {"GATEWAY_URL": gateway.url, "GATEWAY_TOKEN": token()}
        async with running([sys.executable, str(EXAMPLES / "python/worker.py")], gateway.url, tmp_path, **env):
            done = await asyncio.to_thread(
                subprocess.run, [*producer, str(file)], env={**os.environ, **env}, capture_output=True, timeout=20
            )
        assert b"completed" in done.stdout


async def test_a_batch_and_a_single_task_wait_for_room(
    gateway_of_two: LiveGateway, producer: list[str], tmp_path: Path, file: Path
) -> None:
    gateway = gateway_of_two
    other = tmp_path / 'b "quoted" \\ ü.txt'
    other.write_text("one\n")
    waiting = [await gateway.enqueue(JOB_TYPE, payload={"path": str(file)}) for _ in range(2)]
    arguments = [str(file), str(other), file.name]
    process = await asyncio.create_subprocess_exec(
        *producer, *arguments, cwd=tmp_path, env={**os.environ, "GATEWAY_URL": gateway.url}, stdout=subprocess.PIPE
    )

    async def refused() -> bool:
        return 'route="/tasks",status="503"' in (await gateway.get("/metrics")).text

    await wait_until(refused)
    async with running([sys.executable, str(EXAMPLES / "python/worker.py")], gateway.url, tmp_path):
        output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    for task in waiting:
        assert (await wait_final(gateway, task))["status"] == "completed"
    lines = output.decode().splitlines()
    assert len(lines) == 3, lines
    for line, path in zip(lines, (file, other, file), strict=True):
        assert "completed" in line
        assert expected(path)["sha256"] in line


async def test_a_producer_tells_a_failure_and_ends_with_1(
    gateway: LiveGateway, producer: list[str], tmp_path: Path, file: Path
) -> None:
    async with running([sys.executable, str(EXAMPLES / "python/worker.py")], gateway.url, tmp_path):
        for arguments in (["nosuchfile"], [file.name, "nosuchfile", file.name]):
            done = await asyncio.to_thread(
                subprocess.run, [*producer, *arguments], cwd=tmp_path, env={**os.environ, "GATEWAY_URL": gateway.url},
                capture_output=True, text=True, timeout=20,
            )  # fmt: skip
            assert done.returncode == 1, done
            lines = done.stdout.splitlines()
            assert len(lines) == len(arguments), lines
            for argument, line in zip(arguments, lines, strict=True):
                missing = argument == "nosuchfile"
                words = ("failed", "No such file") if missing else ("completed", expected(file)["sha256"])
                assert all(word in line for word in words), line


@pytest.mark.parametrize("language", CHECKS)
def test_sources_are_formatted(language: str) -> None:
    need(CHECKS[language][0])
    done = subprocess.run(CHECKS[language], cwd=EXAMPLES, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("language", sorted({*LANGUAGES, *PRODUCERS}))
def test_sources_are_short(language: str) -> None:
    sources = [path for path in (EXAMPLES / language).rglob("*") if path.suffix in SUFFIXES]
    assert sources
    for path in sources:
        most = MOST_LINES["producer" if path.stem == "producer" else "worker"]
        assert len(path.read_text().splitlines()) <= most, path


@pytest.mark.parametrize("language", ["README", "bash", *LANGUAGES])
def test_pages_name_files_that_exist(language: str) -> None:
    page = (PAGES / f"{language}.md").read_text()
    named = {ROOT / path for path in re.findall(r"examples/[\w./-]*\w", page)}
    linked = {PAGES / path for path in re.findall(r"\]\(([^)#:]+)[^)]*\)", page)}
    assert language == "README" or named
    assert [str(path) for path in sorted(named | linked) if not path.exists()] == []
