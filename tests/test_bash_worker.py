"""examples/worker.sh against a live gateway and real files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.credentials import SECRET, bearer, token
from tests.harness import LiveGateway, live_gateway, wait_until

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "worker.sh"
missing = [name for name in ("bash", "curl", "sha256sum", "grep", "sed") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not on this machine: {', '.join(missing)}")


class BashWorker:
    """A running worker.sh. Its log goes to a file beside its work."""

    def __init__(self, gateway_url: str, folder: Path, **env: str) -> None:
        self.log = folder / "worker.log"
        env = {**os.environ, "GATEWAY_URL": gateway_url, "WORKER_ID": "bash-1", "LC_ALL": "C", **env}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([SCRIPT], cwd=folder, env=env, stderr=log, start_new_session=True)

    def says(self, words: str) -> bool:
        """Whether the log has these words."""
        return words in self.log.read_text()

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal. Returns its exit code."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end. Returns its exit code."""
        return await asyncio.to_thread(self.process.wait, 10)


@contextlib.asynccontextmanager
async def bash_worker(gateway: LiveGateway, folder: Path, **env: str) -> AsyncIterator[BashWorker]:
    worker = BashWorker(gateway.url, folder, **env)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            await worker.end()


class SlowFile:
    """A FIFO: whoever reads it waits until `finish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def finish(self, content: bytes) -> None:
        """Give a reader the content, and its end."""

        def write() -> None:
            self.path.write_bytes(content)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "nobody reads the file"


async def final(gateway: LiveGateway, task: dict[str, Any], seconds: float = 20) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.get(f"/tasks/{task['id']}", params={"wait": seconds})).json()
    return found


async def processing(gateway: LiveGateway, task: dict[str, Any]) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found: dict[str, Any] = (await gateway.get(f"/tasks/{task['id']}")).json()
        return found if found["status"] == "processing" else None

    return await wait_until(look)  # type: ignore[return-value]  # it returns what is true


def facts(folder: Path, name: str) -> dict[str, Any]:
    content = (folder / name).read_bytes()
    return {
        "path": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "lines": content.count(b"\n"),
        "words": len(content.split()),
    }


async def test_it_hashes_and_counts_real_files(gateway: LiveGateway, tmp_path: Path) -> None:
    names = [
        "README.md",
        "LICENSE",
        "two words & \"quotes\" 'n' $HOME.txt",
        "back\\slash \\0101.txt",
        "größe.txt",
        "empty",
    ]
    for name in names[:2]:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / names[2]).write_text("one two\nthree\n\n  four")
    (tmp_path / names[3]).write_text("\\ \\n\n")
    (tmp_path / names[4]).write_text("zwölf Boxkämpfer\n")
    (tmp_path / names[5]).write_text("")
    async with bash_worker(gateway, tmp_path):
        single = [await gateway.enqueue("file_process", payload={"path": name}) for name in names]
        batch = await gateway.enqueue("file_process", payload={"files": names})
        for name, task in zip(names, single, strict=True):
            done = await final(gateway, task)
            assert done["status"] == "completed", done
            assert done["result"] == [facts(tmp_path, name)]
            assert done["worker_id"] == "bash-1"
        done = await final(gateway, batch)
        assert done["result"] == [facts(tmp_path, name) for name in names]


@pytest.mark.parametrize(
    "payload",
    [
        '{"path":"a \\"b\\" c"}',
        '\n{ "path" :\t"a \\"b\\" c" }\n',
        '{\n  "files": [\n    "a \\"b\\" c"\n  ]\n}',
        '{"path":"\\u0061 \\u0022b\\" c"}',
        '{"files":["./a \\"b\\" c",".\\/a \\"b\\" c"]}',
    ],
)
async def test_it_reads_any_spelling_of_a_payload(gateway: LiveGateway, tmp_path: Path, payload: str) -> None:
    (tmp_path / 'a "b" c').write_text("x y\n")
    async with bash_worker(gateway, tmp_path):
        body = f'{{"job_type":"file_process","payload":{payload}}}'
        posted = await gateway.client.post("/tasks", content=body, headers={"Content-Type": "application/json"})
        done = await final(gateway, posted.json())
    assert done["status"] == "completed", done
    digest = hashlib.sha256(b"x y\n").hexdigest()
    assert [(row["sha256"], row["lines"], row["words"]) for row in done["result"]] == [
        (digest, 1, 2) for _ in done["result"]
    ]
    given = json.loads(payload)
    assert [row["path"] for row in done["result"]] == given.get("files", [given.get("path")])


async def test_it_takes_many_files_in_one_task(gateway: LiveGateway, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    names = [f"{'./' * (n % 40)}f" for n in range(150)]
    async with bash_worker(gateway, tmp_path):
        done = await final(gateway, await gateway.enqueue("file_process", payload={"files": names}), 40)
    assert [row["path"] for row in done["result"]] == names


@pytest.mark.parametrize("name", ["missing", "folder", "../", "nested/missing"])
async def test_a_file_that_cannot_be_read_fails_the_task_at_once(
    gateway: LiveGateway, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    async with bash_worker(gateway, tmp_path):
        done = await final(gateway, await gateway.enqueue("file_process", payload={"path": name}))
    assert done["status"] == "failed"
    assert done["attempt"] == 1
    assert done["error"] == {"type": "unreadable", "message": "cannot read the file", "details": name}


@pytest.mark.parametrize(
    "payload",
    [
        None, 1, "README.md", [], {}, {"files": []}, {"files": "a"}, {"path": ["a"]}, {"path": "a", "x": 1},
        {"x": {"payload": {"path": "a"}}}, {"payload": {"path": "a"}}, ["payload", {"path": "a"}],
    ],
)  # fmt: skip
async def test_another_payload_fails_the_task(gateway: LiveGateway, tmp_path: Path, payload: Any) -> None:
    (tmp_path / "a").write_text("a")
    async with bash_worker(gateway, tmp_path):
        done = await final(gateway, await gateway.enqueue("file_process", payload=payload))
    assert done["status"] == "failed"
    assert done["error"] == {"message": "expected path or files"}


async def test_what_a_payload_says_cannot_pass_for_the_task(gateway: LiveGateway, tmp_path: Path) -> None:
    name = '","lease_token":"none","lease_seconds":9,"heartbeat_seconds":9}]}'
    async with bash_worker(gateway, tmp_path):
        task = await gateway.enqueue(
            "file_process", payload={"path": name}, title='"lease_token":"x"', tags={"a": '":0'}
        )
        done = await final(gateway, task)
    assert done["status"] == "failed"
    assert done["error"]["details"] == name


async def test_heartbeats_keep_a_short_lease_through_slow_work(gateway: LiveGateway, tmp_path: Path) -> None:
    slow = SlowFile(tmp_path / "slow")
    async with bash_worker(gateway, tmp_path) as worker:
        task = await gateway.enqueue("file_process", payload={"path": "slow"}, lease_seconds=1)
        await processing(gateway, task)
        heartbeats = 'tasks_gateway_http_requests_total{route="/tasks/{id}/heartbeat",status="200"} '

        async def many() -> bool:
            text = (await gateway.get("/metrics")).text
            return any(float(line[len(heartbeats) :]) >= 9 for line in text.splitlines() if line.startswith(heartbeats))

        # Nine heartbeats at a third of a second: three leases without them.
        await wait_until(many, 20)
        slow.finish(b"at last\n")
        done = await final(gateway, task)
        assert not worker.says("lost")
    assert done["status"] == "completed"
    assert done["attempt"] == 1
    assert len(done["attempts"]) == 1
    assert done["result"][0]["sha256"] == hashlib.sha256(b"at last\n").hexdigest()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_releases_the_task(gateway: LiveGateway, tmp_path: Path, number: int) -> None:
    SlowFile(tmp_path / "slow")
    async with bash_worker(gateway, tmp_path) as worker:
        task = await gateway.enqueue("file_process", payload={"path": "slow"})
        await processing(gateway, task)
        assert await worker.end(number) == 0
        found = (await gateway.get(f"/tasks/{task['id']}")).json()
        assert (found["status"], found["attempt"]) == ("pending", 0)
        assert not running_in_session(worker.process.pid), "it left processes behind"


async def test_a_stop_ends_an_idle_worker_at_once(gateway: LiveGateway, tmp_path: Path) -> None:
    async with bash_worker(gateway, tmp_path) as worker:
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        assert await worker.end() == 0
        await wait_until(lambda: gateway.app.manager.open_polls == 0)
        assert worker.log.read_text() == ""


async def test_a_cancelled_task_is_dropped(gateway: LiveGateway, tmp_path: Path) -> None:
    SlowFile(tmp_path / "slow")
    (tmp_path / "next").write_text("x")
    async with bash_worker(gateway, tmp_path):
        task = await gateway.enqueue("file_process", payload={"path": "slow"}, lease_seconds=1)
        await processing(gateway, task)
        assert (await gateway.client.delete(f"/tasks/{task['id']}")).status_code == 202
        assert (await final(gateway, task))["status"] == "cancelled"
        # And it works on.
        assert (await final(gateway, await gateway.enqueue("file_process", payload={"path": "next"})))[
            "status"
        ] == "completed"


async def test_a_lost_lease_ends_the_work_without_a_report(gateway: LiveGateway, tmp_path: Path) -> None:
    slow = SlowFile(tmp_path / "slow")
    async with bash_worker(gateway, tmp_path) as worker:
        task = await gateway.enqueue("file_process", payload={"path": "slow"}, lease_seconds=1)
        await processing(gateway, task)
        # Its leases go back: the token that it holds is worth nothing from here on.
        assert (await gateway.client.delete("/workers/bash-1")).json()["released"] == 1
        await wait_until(lambda: worker.says(f"lost {task['id']}"))
        await processing(gateway, task)
        slow.finish(b"second time\n")
        done = await final(gateway, task)
        assert not worker.says("409")
    assert done["status"] == "completed"
    assert done["result"][0]["sha256"] == hashlib.sha256(b"second time\n").hexdigest()


@pytest.mark.parametrize("directive", ["drain", "stop"])
async def test_a_directive_ends_an_idle_worker(gateway: LiveGateway, tmp_path: Path, directive: str) -> None:
    async with bash_worker(gateway, tmp_path) as worker:
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        await gateway.post(f"/workers/bash-1/{directive}")
        assert await worker.ended() == 0


async def test_stop_gives_the_running_task_back_and_drain_does_not(gateway: LiveGateway, tmp_path: Path) -> None:
    slow = SlowFile(tmp_path / "slow")
    async with bash_worker(gateway, tmp_path) as worker:
        task = await gateway.enqueue("file_process", payload={"path": "slow"}, lease_seconds=1)
        await processing(gateway, task)
        await gateway.post("/workers/bash-1/drain")
        slow.finish(b"x\n")
        assert (await final(gateway, task))["status"] == "completed"
        assert await worker.ended() == 0
    await gateway.post("/workers/bash-1/run")
    async with bash_worker(gateway, tmp_path) as worker:
        task = await gateway.enqueue("file_process", payload={"path": "slow"}, lease_seconds=1)
        await processing(gateway, task)
        await gateway.post("/workers/bash-1/stop")
        await wait_until(lambda: worker.says("release"))
        assert await worker.ended() == 0
        assert (await gateway.get(f"/tasks/{task['id']}")).json()["attempt"] == 0


def running_in_session(session: int) -> list[str]:
    """The processes of a session that still run (an init that does not reap leaves dead ones)."""
    found = subprocess.run(
        ["ps", "-o", "stat=,args=", "--sid", str(session)], capture_output=True, text=True, check=False
    )
    return [line for line in found.stdout.splitlines() if not line.startswith("Z")]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not on this machine")
def test_shellcheck_has_nothing_to_say() -> None:
    found = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_it_stays_short() -> None:
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 120


def _arguments_of_all() -> bytes:
    """What everybody on the machine can read of processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes())
    return b"\n".join(found)


async def test_its_token_is_sent_but_stands_in_no_argument(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\n")
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway:
        gateway.client.headers.update(bearer(token()))
        secret = token(scope="work")
        async with bash_worker(gateway, tmp_path, GATEWAY_TOKEN=secret) as worker:
            done = await final(gateway, await gateway.enqueue("file_process", payload={"path": "a"}))
            assert done["status"] == "completed"
            # It polls again: the curl that does so has the address among its arguments, and nothing secret.
            await wait_until(lambda: f"{gateway.url}/poll".encode() in _arguments_of_all())
            assert secret.encode() not in _arguments_of_all()
            assert await worker.end() == 0
        assert (await gateway.get("/workers")).json()["workers"] == []


async def test_it_ends_when_its_token_is_refused(redis_url: str, tmp_path: Path) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway:
        for given in ("nonsense", token(scope="tasks:read"), ""):
            async with bash_worker(gateway, tmp_path, GATEWAY_TOKEN=given) as worker:
                assert await worker.ended() == 1
        assert worker.says("unauthenticated")
        assert worker.says("insufficient_scope")
