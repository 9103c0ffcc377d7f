"""The examples that do real work, each run as its README says against a live gateway; results are checked otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import arq.jobs
import msgspec
import pytest
import pytest_asyncio
from arq.connections import ArqRedis

from tests.harness import LiveGateway, wait_until
from workers_sdk import Client, Task

ROOT = Path(__file__).parents[1]
NAMES = ("image_resize", "file_process", "data_export", "email_send")
SECONDS = 20.0


def blocks(name: str) -> list[str]:
    """What an example's README says to type: one block to set up and run it, one to use it."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / "examples" / name / "README.md").read_text(), re.DOTALL)


def worker_line(name: str) -> str:
    """The line that runs an example's worker."""
    (line,) = re.findall(r"^\.venv/bin/python (-m workers_sdk \S+)", blocks(name)[0], re.MULTILINE)
    return str(line)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what the examples read, so that whatever they write lies there."""
    for name in ("examples", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("output", "target", "__pycache__"))
    shutil.copy(ROOT / "LICENSE", tmp_path)
    return tmp_path


class Child:
    """A worker in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    async def end(self) -> None:
        """SIGTERM; it must end well."""
        self.process.terminate()
        assert await asyncio.to_thread(self.process.wait, 10) == 0, self.log.read_text()


@contextlib.asynccontextmanager
async def child(folder: Path, url: str, *command: str, **env: str) -> AsyncIterator[Child]:
    """Run a program in a folder until the block ends."""
    log = folder / f"{len(list(folder.glob('*.log')))}.log"
    whole = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "GATEWAY_URL": url, **env}
    with log.open("wb") as file:
        one = Child(subprocess.Popen(command, cwd=folder, env=whole, stdout=file, stderr=file), log)
    try:
        yield one
        if one.process.poll() is None:
            await one.end()
    finally:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


def worker(name: str, folder: Path, url: str, **env: str) -> contextlib.AbstractAsyncContextManager[Child]:
    """Run an example's worker by the line of its README."""
    need(name)
    return child(folder, url, sys.executable, *worker_line(name).split(), **env)


def need(name: str) -> None:
    """Skip where a package of the extra `examples` is missing."""
    for package in {"image_resize": ["PIL"], "data_export": ["pyarrow"], "email_send": ["aiosmtpd"]}.get(name, []):
        pytest.importorskip(package, reason=f"{package} is not installed here: pip install 'tasks-gateway[examples]'")


async def run(url: str, job_type: str, payload: Any, **options: Any) -> Task:
    """Enqueue a task and wait for its end."""
    async with Client(url) as client:
        task = await client.enqueue(job_type, payload, **options)
        return await client.wait(task.id, timeout_seconds=SECONDS)


async def result_of(url: str, job_type: str, payload: Any, **options: Any) -> Any:
    """Run a task that must complete."""
    task = await run(url, job_type, payload, **options)
    assert task.status == "completed", task.error
    return task.result


async def refusal_of(url: str, job_type: str, payload: Any, **options: Any) -> str:
    """Run a task that must fail at its first attempt. Returns what it says."""
    task = await run(url, job_type, payload, **options)
    assert (task.status, task.attempt) == ("failed", 1), task
    assert task.error is not None
    assert task.error.type in ("GiveUp", "InvalidPayload")
    return task.error.message


async def processing(client: Client, task_id: str) -> bool:
    return (await client.get(task_id)).status == "processing"


async def tried(client: Client, task_id: str) -> bool:
    """Whether an attempt is over."""
    return bool((await client.get(task_id)).attempts)


async def told(client: Client, task_id: str) -> Task | None:
    """The task, once it has progress."""
    task = await client.get(task_id)
    return task if task.progress is not None else None


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
async def test_the_lines_of_the_readme_run(name: str, gateway: LiveGateway, folder: Path) -> None:
    need(name)
    setup, use = blocks(name)
    for line in setup.splitlines():
        if line.startswith(".venv/bin/python examples/"):
            subprocess.run([sys.executable, *line.split()[1:]], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    async with mail_server() if name == "email_send" else contextlib.nullcontext() as mail:
        env = {"SMTP_URL": mail.url} if mail else {}
        async with worker(name, folder, gateway.url, **env):
            script = use.replace("http://127.0.0.1:8080", gateway.url)
            done = await asyncio.to_thread(
                subprocess.run, ["bash", "-c", script], cwd=folder, capture_output=True, timeout=30, check=True
            )
    task = json.loads(done.stdout)
    assert task["status"] == "completed", task
    assert task["job_type"] == name


# image_resize


@pytest.mark.parametrize(
    ("image", "fit", "size"),
    [
        ("hills.jpg", "contain", (200, 125)),
        ("hills.jpg", "cover", (200, 200)),
        ("badge.png", "contain", (200, 200)),
        ("badge.png", "scale-down", (400, 400)),
        ("tower.jpg", "contain", (133, 200)),
    ],
)
async def test_an_image_is_resized(
    image: str, fit: str, size: tuple[int, int], gateway: LiveGateway, folder: Path
) -> None:
    need("image_resize")
    from PIL import Image

    box = 1000 if fit == "scale-down" else 200
    payload = {"image_path": f"examples/image_resize/images/{image}", "width": box, "height": box, "fit": fit}
    async with worker("image_resize", folder, gateway.url):
        result = await result_of(gateway.url, "image_resize", payload)
    path = Path(result["path"])
    assert path.parent == folder / "examples/image_resize/output"
    assert (result["size"], result["sha256"]) == (path.stat().st_size, sha256(path))
    with Image.open(path) as resized:
        assert resized.size == size == (result["width"], result["height"])
        assert resized.format == {".jpg": "JPEG", ".png": "PNG"}[Path(image).suffix]
        if image == "badge.png":
            assert resized.getpixel((0, 0)) == (0, 0, 0, 0)
        if image == "tower.jpg":
            # It was held upright: the sky is left and right of the tower, the tower goes down to the ground.
            at = {place: resized.getpixel(place) for place in ((5, 190), (66, 195), (128, 10))}
            assert close(at[5, 190], (168, 218, 220))
            assert close(at[128, 10], (168, 218, 220))
            assert close(at[66, 195], (109, 104, 117))


def close(one: Any, other: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(one, other, strict=True))


async def test_resizing_twice_gives_one_file(gateway: LiveGateway, folder: Path) -> None:
    image, box = "examples/image_resize/images/hills.jpg", {"width": 64, "height": 64}
    async with worker("image_resize", folder, gateway.url):
        repeated = (result_of(gateway.url, "image_resize", {"image_path": image, **box}) for _ in range(6))
        results = await asyncio.gather(*repeated)
        results.append(await result_of(gateway.url, "image_resize", {"image_url": (folder / image).as_uri(), **box}))
    assert all(one == results[0] for one in results)
    (only,) = (folder / "examples/image_resize/output").iterdir()
    assert str(only) == results[0]["path"]


async def test_what_is_no_image_fails_at_once(gateway: LiveGateway, folder: Path) -> None:
    need("image_resize")
    from PIL import Image

    images = folder / "examples/image_resize/images"
    (folder / "cut.jpg").write_bytes((images / "hills.jpg").read_bytes()[:8000])
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    Image.new("1", (9000, 9000)).save(folder / "squib.png")
    assert (folder / "bomb.png").stat().st_size < 100_000
    box = {"width": 10, "height": 10}
    async with worker("image_resize", folder, gateway.url):
        for payload, words in [
            ({"image_path": "LICENSE", **box}, "neither a PNG nor a JPEG"),
            ({"image_path": "cut.jpg", **box}, "cannot be read to its end"),
            ({"image_path": "bomb.png", **box}, "too many pixels"),
            ({"image_path": "squib.png", **box}, "too many pixels"),
            ({"image_path": "nothing.png", **box}, "no file nothing.png"),
            ({"image_path": "/dev/zero", **box}, "no file /dev/zero"),
            ({"image_url": "http://127.0.0.1/x.png", **box}, "IMAGE_URL_HOSTS"),
            ({"image_url": "ftp://127.0.0.1/x.png", **box}, "IMAGE_URL_HOSTS"),
            (box, "either `image_path` or `image_url`"),
            ({"image_path": "LICENSE", "width": 0, "height": 10}, "width"),
            ({"image_path": "LICENSE", "fit": "stretch", **box}, "fit"),
        ]:
            assert words in await refusal_of(gateway.url, "image_resize", payload)
    assert not (folder / "examples/image_resize/output").exists()


class Pictures(http.server.BaseHTTPRequestHandler):
    """Answers /busy.png once with 503, /moved.png with a redirect, /*.jpg with a file."""

    folder: Path
    busy = True

    def do_GET(self) -> None:
        status, body = 404, b""
        if self.path == "/busy.png" and type(self).busy:
            type(self).busy, status = False, 503
        elif self.path == "/busy.png":
            status, body = 200, (self.folder / "badge.png").read_bytes()
        elif self.path == "/moved.png":
            status = 302
        elif (self.folder / self.path[1:]).is_file():
            status, body = 200, (self.folder / self.path[1:]).read_bytes()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/badge.png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def picture_server(folder: Path) -> Iterator[str]:
    """Serve a folder's images. Yields the URL."""
    handler = type("Here", (Pictures,), {"folder": folder})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_an_image_is_fetched(gateway: LiveGateway, folder: Path) -> None:
    box = {"width": 50, "height": 50}
    images = folder / "examples/image_resize/images"
    async with worker("image_resize", folder, gateway.url, IMAGE_URL_HOSTS="127.0.0.1"):
        with picture_server(images) as url:
            result = await result_of(gateway.url, "image_resize", {"image_url": f"{url}/hills.jpg", **box})
            local = await result_of(gateway.url, "image_resize", {"image_path": str(images / "hills.jpg"), **box})
            assert result == local
            busy = await run(
                gateway.url, "image_resize", {"image_url": f"{url}/busy.png", **box}, retry={"delays_seconds": [0.05]}
            )
            assert (busy.status, busy.attempt) == ("completed", 2)
            for path, words in (("none.png", "404"), ("moved.png", "302"), ("a b", "")):
                assert words in await refusal_of(gateway.url, "image_resize", {"image_url": f"{url}/{path}", **box})


# file_process


async def test_files_are_hashed_and_counted(gateway: LiveGateway, folder: Path) -> None:
    tree = folder / "tree"
    (tree / "b").mkdir(parents=True)
    shutil.copy(folder / "LICENSE", tree / "b" / "licence of ü.txt")
    (tree / "empty").touch()
    # Words and lines that lie across the pieces it is read in.
    (tree / "long").write_bytes(b"".join(b"%d%s" % (n, b" \n\t\n"[n % 4 : n % 4 + 1]) for n in range(400_000)))
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    async with worker("file_process", folder, gateway.url):
        task = await run(gateway.url, "file_process", {"path": "tree"})
        assert task.status == "completed", task.error
        again = await result_of(gateway.url, "file_process", {"path": "tree"})
        two = await result_of(gateway.url, "file_process", {"paths": ["LICENSE", "tree/b"]})
    assert again == task.result
    assert [one["path"] for one in task.result["files"]] == ["tree/empty", "tree/long", "tree/b/licence of ü.txt"]
    for one in task.result["files"] + two["files"]:
        path = folder / one["path"]
        data = path.read_bytes()
        counted = subprocess.run(["wc", "-l", "-c"], input=data, capture_output=True, check=True).stdout.split()
        assert [one["lines"], one["bytes"]] == [int(number) for number in counted]
        assert (one["sha256"], one["words"]) == (sha256(path), len(data.split()))
    assert two["words"] == 2 * two["files"][0]["words"]
    assert task.result["bytes"] == sum(one["bytes"] for one in task.result["files"])
    assert task.progress == {"done": 3, "of": 3}
    assert task.log is not None
    assert [line.line.partition(":")[0] for line in task.log] == [one["path"] for one in task.result["files"]]


async def test_processing_files_stops_when_it_is_cancelled(gateway: LiveGateway, folder: Path) -> None:
    many = folder / "many"
    many.mkdir()
    for number in range(16):
        with (many / f"{number:02}").open("wb") as file:
            file.truncate(1 << 32)  # sparse: long to read, nothing on the disk
    async with worker("file_process", folder, gateway.url) as child, Client(gateway.url) as client:
        task = await client.enqueue("file_process", {"path": "many"}, lease_seconds=1)
        seen = await wait_until(lambda: told(client, task.id))
        assert seen.progress == {"done": 0, "of": 16, "path": "many/00"}
        await client.cancel(task.id)
        ended = await client.wait(task.id, timeout_seconds=5)
        assert ended.status == "cancelled"
        await child.end()


async def test_files_that_are_not_there_fail_at_once(gateway: LiveGateway, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    async with worker("file_process", folder, gateway.url):
        for payload, words in [
            ({"path": "nothing"}, "'nothing'"),
            ({"path": "a\0b"}, "null byte"),
            ({"path": "pipe"}, "neither a file nor a folder"),
            ({"paths": ["LICENSE", "none"]}, "'none'"),
            ({}, "either `path` or `paths`"),
            ({"path": 1}, "path"),
            ({"path": "LICENSE", "depth": 1}, "depth"),
        ]:
            assert words in await refusal_of(gateway.url, "file_process", payload)


# data_export


def make_database(folder: Path) -> Path:
    path = folder / "zones.sqlite3"
    script = folder / "examples/data_export/make_database.py"
    subprocess.run([sys.executable, str(script), str(path)], check=True, stdout=subprocess.DEVNULL)
    return path


async def test_a_table_is_exported(gateway: LiveGateway, folder: Path) -> None:
    need("data_export")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = make_database(folder)
    payload = {"database": str(path), "query": "SELECT * FROM zones ORDER BY zone;", "name": "all", "chunk_rows": 100}
    async with worker("data_export", folder, gateway.url):
        task = await run(gateway.url, "data_export", payload)
        assert task.status == "completed", task.error
        again = await result_of(gateway.url, "data_export", payload)
    assert again == task.result
    assert task.progress == {"rows": 418, "of": 418}
    with (folder / "examples/data_export/zones.csv").open(newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    assert (task.result["rows"], task.result["columns"]) == (418, columns)
    written = {Path(one["path"]).name: one for one in task.result["files"]}
    output = folder / "examples/data_export/output"
    assert sorted(path.name for path in output.iterdir()) == sorted(written) == ["all.csv", "all.parquet"]
    for one in written.values():
        assert (one["size"], one["sha256"]) == (Path(one["path"]).stat().st_size, sha256(one["path"]))
    with (output / "all.csv").open(newline="", encoding="utf-8") as file:
        assert [[columns, *rows]] == [list(csv.reader(file))]
    table = pq.ParquetFile(output / "all.parquet")
    assert table.num_row_groups == 5
    found = table.read()
    kinds = [pa.string()] * 3 + [pa.float64()] * 2 + [pa.int64()] * 2 + [pa.string()]
    assert found.schema.types == kinds
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert list(zip(*found.to_pydict().values(), strict=True)) == list(
            database.execute("SELECT * FROM zones ORDER BY zone")
        )


async def test_every_kind_of_value_is_exported(gateway: LiveGateway, folder: Path) -> None:
    need("data_export")
    import pyarrow.parquet as pq

    path = folder / "kinds.sqlite3"
    rows = [(1, 1, b"\x00\xff", None, 9007199254740993, 'a"b\n,'), (2, 2.5, b"", None, -1, 7), (None,) * 6]
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (i, r, b, n, big, mixed)")
        database.executemany("INSERT INTO t VALUES (?,?,?,?,?,?)", rows)
    payload = {"database": str(path), "query": "SELECT * FROM t -- all", "name": "kinds"}
    async with worker("data_export", folder, gateway.url):
        result = await result_of(gateway.url, "data_export", payload)
        empty = {**payload, "query": "SELECT i AS only FROM t WHERE i > 5", "name": "empty", "formats": ["csv"]}
        nothing = await result_of(gateway.url, "data_export", empty)
    by_name = {Path(one["path"]).suffix: one["path"] for one in result["files"]}
    found = pq.read_table(by_name[".parquet"]).to_pydict()
    assert found == {
        "i": [1, 2, None],
        "r": [1.0, 2.5, None],
        "b": [b"\x00\xff", b"", None],
        "n": [None, None, None],
        "big": [9007199254740993, -1, None],
        "mixed": ['a"b\n,', "7", None],
    }
    with Path(by_name[".csv"]).open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1:] == [
            ["1", "1", "00ff", "", "9007199254740993", 'a"b\n,'],
            ["2", "2.5", "", "", "-1", "7"],
            [""] * 6,
        ]
    assert (nothing["rows"], Path(nothing["files"][0]["path"]).read_text()) == (0, "only\n")


async def test_a_bad_query_fails_at_once_and_changes_nothing(gateway: LiveGateway, folder: Path) -> None:
    path = make_database(folder)
    before = sha256(path)
    async with worker("data_export", folder, gateway.url):
        for query, words in [
            ("SELECT * FROM nowhere", "no such table: nowhere"),
            ("SELECT", "syntax error"),
            ("", "syntax error"),
            ("DELETE FROM zones", "syntax error"),
            ("SELECT 1; DELETE FROM zones", "syntax error"),
            ("SELECT 1) ; --", "one statement"),
            ("SELECT load_extension('x')", "not authorized"),
            ("SELECT * FROM pragma_database_list", "not authorized"),
            ("SELECT 1 AS a UNION SELECT x'00'", "column a mixes blob and integer"),
            ("SELECT 9007199254740993 AS a UNION SELECT 1.5", "column a does not fit"),
        ]:
            payload = {"database": str(path), "query": query, "name": "bad"}
            assert words in await refusal_of(gateway.url, "data_export", payload), query
        for payload, words in [
            ({"database": "none.db", "query": "SELECT 1", "name": "x"}, "no file none.db"),
            ({"database": "LICENSE", "query": "SELECT 1 FROM t", "name": "x"}, "not a database"),
            ({"database": str(path), "query": "SELECT 1", "name": "../x"}, "name"),
            ({"database": str(path), "query": "SELECT 1", "name": "x", "formats": ["xml"]}, "formats"),
        ]:
            assert words in await refusal_of(gateway.url, "data_export", payload)
    assert sha256(path) == before
    assert not list((folder / "examples/data_export").rglob("*.part"))


async def test_a_busy_database_is_tried_again(gateway: LiveGateway, folder: Path) -> None:
    path = make_database(folder)
    payload = {"database": str(path), "query": "SELECT zone FROM zones", "name": "busy", "formats": ["csv"]}
    async with worker("data_export", folder, gateway.url), Client(gateway.url) as client:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            task = await client.enqueue("data_export", payload, retry={"delays_seconds": [0.05]})
            await wait_until(lambda: tried(client, task.id))
        ended = await client.wait(task.id, timeout_seconds=SECONDS)
    assert (ended.status, ended.result["rows"]) == ("completed", 418)
    assert ended.attempts is not None
    assert ended.attempts[0].error is not None
    assert "locked" in ended.attempts[0].error.message


async def test_an_endless_query_stops_when_it_is_cancelled(gateway: LiveGateway, folder: Path) -> None:
    path = make_database(folder)
    query = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
    payload = {"database": str(path), "query": query, "name": "endless"}
    async with worker("data_export", folder, gateway.url) as child, Client(gateway.url) as client:
        task = await client.enqueue("data_export", payload, lease_seconds=1)
        await wait_until(lambda: processing(client, task.id))
        await client.cancel(task.id)
        assert (await client.wait(task.id, timeout_seconds=5)).status == "cancelled"
        await child.end()
    assert not list((folder / "examples/data_export").rglob("endless*"))


# email_send


class Mailbox:
    """What a mail server is told to answer, and what it got. aiosmtpd's handler: it calls the methods."""

    def __init__(self) -> None:
        self.url = ""
        self.got: list[tuple[list[str], EmailMessage]] = []
        self.connections = 0
        # Answers to the next RCPTs of an address, and to the next mails; after those 250.
        self.recipients: dict[str, list[str]] = {}
        self.mails: list[str] = []
        self.on_mail = lambda: None

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str, responses: Any) -> Any:
        self.connections += 1
        session.host_name = hostname
        return responses

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        answers = self.recipients.get(address)
        if answers:
            return answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        answer = self.mails.pop(0) if self.mails else "250 OK"
        if answer.startswith("250"):
            message = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(message, EmailMessage)
            self.got.append((list(envelope.rcpt_tos), message))
        self.on_mail()
        return answer


@contextlib.asynccontextmanager
async def mail_server() -> AsyncIterator[Mailbox]:
    """A mail server on the loopback."""
    from aiosmtpd.smtp import SMTP

    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailbox, loop=loop, hostname="mail.example"), "127.0.0.1", 0)
    async with server:
        mailbox.url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield mailbox


@pytest_asyncio.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    need("email_send")
    async with mail_server() as one:
        yield one


MAIL = {"to": ["Ada Lovelace <ada@example.org>"], "subject": "Grüße ☃ aus Köln", "text": "Schöne Grüße\n"}


async def test_a_mail_arrives_whole(gateway: LiveGateway, folder: Path, mailbox: Mailbox) -> None:
    payload = {
        **MAIL,
        "cc": ["Öz <oz@bücher.example>"],
        "bcc": ["hidden@example.org", "ada@example.org"],
        "reply_to": "desk@example.org",
        "html": "<p>Schöne Grüße</p>",
        "attachments": [
            {"path": "LICENSE"},
            {"path": "examples/image_resize/images/badge.png", "filename": "Bild ä.png"},
        ],
    }
    env = {"SMTP_URL": mailbox.url, "MAIL_FROM": "Tasks <tasks@sender.example>"}
    async with worker("email_send", folder, gateway.url, **env):
        result = await result_of(gateway.url, "email_send", payload)
        dry = await result_of(gateway.url, "email_send", {**MAIL, "dry_run": True})
    ((recipients, message),) = mailbox.got
    everybody = ["ada@example.org", "oz@xn--bcher-kva.example", "hidden@example.org"]
    assert recipients == everybody == result["recipients"]
    assert dry["dry_run"]
    assert dry["message_id"] != result["message_id"] == message["Message-ID"]
    assert re.fullmatch(r"<[0-9a-f]{32}@sender\.example>", result["message_id"])
    assert message["Subject"] == MAIL["subject"]
    assert message["To"] == "Ada Lovelace <ada@example.org>"
    assert message["Cc"].addresses[0].display_name == "Öz"
    assert message["Reply-To"] == "desk@example.org"
    assert message["Date"] is not None
    assert "hidden" not in message.as_string()
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert (text.get_content().strip(), html.get_content().strip()) == ("Schöne Grüße", "<p>Schöne Grüße</p>")
    licence, badge = message.iter_attachments()
    assert (badge.get_filename(), badge.get_content_type()) == ("Bild ä.png", "image/png")
    assert badge.get_content() == (folder / "examples/image_resize/images/badge.png").read_bytes()
    assert licence.get_payload(decode=True) == (folder / "LICENSE").read_bytes()


async def test_what_is_refused_for_now_is_sent_later(gateway: LiveGateway, folder: Path, mailbox: Mailbox) -> None:
    mailbox.mails = ["451 try later"]
    mailbox.recipients = {"slow@example.org": ["450 greylisted", "450 greylisted"]}
    payload = {**MAIL, "to": ["ada@example.org", "slow@example.org"]}
    async with worker("email_send", folder, gateway.url, SMTP_URL=mailbox.url):
        task = await run(gateway.url, "email_send", payload, retry={"delays_seconds": [0.05]})
    assert (task.status, task.attempt) == ("completed", 3), task.error
    assert task.attempts is not None
    messages = [one.error.message for one in task.attempts if one.error]
    assert "451 try later" in messages[0]
    assert "slow@example.org: 450 greylisted" in messages[1]
    # Who had it already gets it no second time.
    assert [recipients for recipients, _ in mailbox.got] == [["ada@example.org"], ["slow@example.org"]]
    assert {message["Message-ID"] for _, message in mailbox.got} == {task.result["message_id"]}


async def test_what_is_refused_for_good_fails_at_once(gateway: LiveGateway, folder: Path, mailbox: Mailbox) -> None:
    async with worker("email_send", folder, gateway.url, SMTP_URL=mailbox.url), Client(gateway.url) as client:
        mailbox.mails = ["554 looks like spam"]
        assert "554 looks like spam" in await refusal_of(gateway.url, "email_send", MAIL)
        mailbox.recipients = {"gone@example.org": ["550 no such user"]}
        assert "gone@example.org: 550 no such user" in await refusal_of(
            gateway.url, "email_send", {**MAIL, "to": ["gone@example.org"]}
        )
        mailbox.recipients = {"gone@example.org": ["550 no such user"]}
        half = await run(gateway.url, "email_send", {**MAIL, "to": ["ada@example.org", "gone@example.org"]})
        assert half.status == "failed"
        assert [recipients for recipients, _ in mailbox.got] == [["ada@example.org"]]
        # The mailbox is there now: the retry is for it alone.
        await client.retry(half.id)
        assert (await client.wait(half.id, timeout_seconds=SECONDS)).status == "completed"
    assert [recipients for recipients, _ in mailbox.got] == [["ada@example.org"], ["gone@example.org"]]


async def test_a_bad_mail_fails_before_any_server_is_asked(
    gateway: LiveGateway, folder: Path, mailbox: Mailbox
) -> None:
    async with worker("email_send", folder, gateway.url, SMTP_URL=mailbox.url):
        for change, words in [
            ({"to": ["nobody"]}, "to: 'nobody' is no mail address"),
            ({"to": ["a@b.example\r\nBcc: x@y.example"]}, "no mail address"),
            ({"cc": ["a@b.example, c@d.example"]}, "cc: "),
            ({"bcc": ["a@-b.example"]}, "bcc: "),
            ({"reply_to": "("}, "reply_to: "),
            ({"to": []}, "to"),
            ({"subject": "one\nBcc: x@y.example"}, "subject: "),
            ({"attachments": [{"path": "nothing.pdf"}]}, "no file nothing.pdf"),
            ({"attachments": [{"path": "LICENSE", "filename": "a\nb"}]}, "no name of a file"),
            ({"body": "x"}, "body"),
        ]:
            assert words in await refusal_of(gateway.url, "email_send", {**MAIL, **change})
    assert mailbox.connections == 0


async def test_no_server_is_a_reason_to_wait(gateway: LiveGateway, folder: Path, mailbox: Mailbox) -> None:
    mailbox.mails = ["421 going away"]
    async with Client(gateway.url) as client:
        async with worker("email_send", folder, gateway.url, SMTP_URL="smtp://127.0.0.1:1"):
            task = await client.enqueue("email_send", MAIL, retry={"delays_seconds": [0.05]})
            await wait_until(lambda: tried(client, task.id))
        async with worker("email_send", folder, gateway.url, SMTP_URL=mailbox.url):
            ended = await client.wait(task.id, timeout_seconds=SECONDS)
    assert ended.status == "completed"
    assert ended.attempts is not None
    assert ended.attempts[0].error is not None
    assert "no mail server answers" in ended.attempts[0].error.message
    assert len(mailbox.got) == 1


async def test_a_worker_that_dies_at_the_worst_moment_sends_the_same_message_id_again(
    gateway: LiveGateway, folder: Path, mailbox: Mailbox
) -> None:
    async with Client(gateway.url) as client:
        async with worker("email_send", folder, gateway.url, SMTP_URL=mailbox.url) as child:
            # The server has the mail; its yes never arrives.
            mailbox.on_mail = lambda: child.process.send_signal(signal.SIGKILL)
            task = await client.enqueue("email_send", MAIL, lease_seconds=1)
            await asyncio.to_thread(child.process.wait, 10)
        mailbox.on_mail = lambda: None
        async with worker("email_send", folder, gateway.url, SMTP_URL=mailbox.url):
            ended = await client.wait(task.id, timeout_seconds=SECONDS)
    assert (ended.status, ended.attempt) == ("completed", 2)
    assert [message["Message-ID"] for _, message in mailbox.got] == [ended.result["message_id"]] * 2
    first, second = (message.as_bytes() for _, message in mailbox.got)
    assert first == second


# legacy_arq


async def test_an_arq_producer_gets_results_of_workers_without_arq(
    gateway: LiveGateway, redis_url: str, folder: Path
) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed here; checksum.sh reads JSON with it")
    producer, odd = folder / "examples/legacy_arq/producer.py", folder / 'it\'s "odd" $(x).txt'
    odd.write_text("to be or not to be\n")
    async with (
        child(folder, gateway.url, sys.executable, *worker_line("legacy_arq").split()),
        child(folder, gateway.url, "bash", "examples/legacy_arq/checksum.sh"),
    ):
        for path in (folder / "LICENSE", odd):
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, str(producer), str(path)],
                env={**os.environ, "REDIS_URL": redis_url},
                capture_output=True,
                timeout=30,
                check=True,
            )
            words = path.read_text().lower().split()
            assert json.loads(done.stdout) == {
                "count_words": {
                    "words": len(words),
                    "most_common": [list(pair) for pair in Counter(words).most_common(3)],
                },
                "checksum": sha256(path),
            }
        async with ArqRedis.from_url(redis_url) as redis:
            redis.job_serializer, redis.job_deserializer = msgspec.msgpack.encode, msgspec.msgpack.decode
            for function, argument, words_of_failure in (
                ("checksum", "nothing.txt", "cannot read nothing.txt"),
                ("count_words", 5, "AttributeError"),
            ):
                job = await redis.enqueue_job(function, argument, _queue_name=f"arq:queue:{{default:{function}}}")
                assert job is not None
                with pytest.raises(arq.jobs.SerializationError, match=words_of_failure):
                    await job.result(timeout=SECONDS, poll_delay=0.01)
    failed = (await gateway.get("/tasks", params={"status": "failed"})).json()["tasks"]
    assert [task["attempt"] for task in failed] == [1, 1]


async def test_what_json_has_not_arrives_as_text(gateway: LiveGateway, redis_url: str) -> None:
    async with ArqRedis.from_url(redis_url) as redis:
        redis.job_serializer = msgspec.msgpack.encode
        arguments = (b"\xff", datetime(2026, 1, 2, tzinfo=UTC), (1, {2}))
        assert await redis.enqueue_job("demo", *arguments, at=arguments[1], _queue_name="arq:queue:{default:demo}")
    (task,) = await gateway.poll(wait=10)
    when = "2026-01-02T00:00:00Z"
    assert task["payload"] == {"function": "demo", "args": ["/w==", when, [1, [2]]], "kwargs": {"at": when}}


def test_the_recipe_shows_the_lines_of_the_example() -> None:
    recipe = (ROOT / "docs/legacy-arq.md").read_text()
    code = (ROOT / "examples/legacy_arq/producer.py").read_text()
    new = [line.partition("  # new")[0].strip().rstrip(",") for line in code.splitlines() if "# new" in line]
    assert len(new) == 4
    for line in new:
        assert line.replace("checksum", "count_words") in recipe
