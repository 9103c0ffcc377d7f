"""What commands print: full ids everywhere, JSON that scripts can read, no colours in pipes, quiet ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from tests.command_line import ESCAPE, environment, run, terminal
from tests.harness import LiveGateway

_READING = (("list",), ("queues",), ("workers",), ("health",), ("top",))


async def populate(gateway: LiveGateway) -> list[str]:
    """A completed, a processing and a scheduled task. Returns their ids."""
    done = await gateway.enqueue(title="First", payload={"a": 1})
    (leased,) = await gateway.poll()
    await gateway.report(leased, "complete", result=1)
    running = await gateway.enqueue(title="Second, with words")
    await gateway.poll()
    later = await gateway.enqueue(title="Third", delay_seconds=60)
    return [done["id"], running["id"], later["id"]]


@pytest.mark.parametrize("arguments", _READING)
async def test_nothing_but_text_goes_into_a_pipe(gateway: LiveGateway, arguments: tuple[str, ...]) -> None:
    await populate(gateway)
    ended = await run(gateway.url, *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert ESCAPE not in ended.out
    assert ended.out


async def test_a_pipe_gets_whole_ids_in_columns_that_awk_can_take_apart(gateway: LiveGateway) -> None:
    done, running, later = await populate(gateway)
    listed = await run(gateway.url, "list", COLUMNS="40")
    rows = [line.split(maxsplit=5) for line in listed.lines]
    assert rows[0] == ["id", "status", "attempt", "created", "worker", "title"]
    assert [row[:3] + row[4:] for row in rows[1:]] == [
        [later, "scheduled", "0/25", "-", "Third"],
        [running, "processing", "1/25", "w1", "Second, with words"],
        [done, "completed", "1/25", "w1", "First"],
    ]


@pytest.mark.parametrize("columns", [40, 60, 120])
async def test_a_terminal_shows_whole_ids_however_narrow(gateway: LiveGateway, columns: int) -> None:
    ids = await populate(gateway)
    with terminal(gateway.url, "list", columns=columns) as one:
        assert await one.ended() == 0
        for id in ids:
            assert id in one.text
        assert "processing" in one.text
        assert ("Second, with words" in one.text) == (columns == 120)
        assert ESCAPE in one.raw


async def test_no_color_is_obeyed(gateway: LiveGateway) -> None:
    await populate(gateway)
    with terminal(gateway.url, "list", NO_COLOR="1") as one:
        assert await one.ended() == 0
        assert "\x1b[3" not in one.raw


async def test_what_clients_send_cannot_drive_the_terminal(gateway: LiveGateway) -> None:
    evil = "a\x1b[2Jb\nc\u202ed"
    task = await gateway.enqueue(title=evil, payload={"text": "\x9b2J"})
    for arguments in (("list",), ("get", task["id"])):
        with terminal(gateway.url, *arguments) as one:
            assert await one.ended() == 0
            assert "\x1b[2J" not in one.raw
            assert "\u202e" not in one.raw
            assert "\x9b" not in one.raw
            assert "[2Jb c" in one.text


async def test_every_json_is_json(gateway: LiveGateway) -> None:
    done, running, later = await populate(gateway)
    for arguments in (
        ("health",), ("queues",), ("workers",), ("get", done), ("wait", done), ("top",), ("cancel", running),
        ("retry", later), ("cancel", later), ("retry", later), ("drain", "w1"), ("drain", "w1", "--undo"),
        ("enqueue", "other", "1"),
    ):  # fmt: skip
        ended = await run(gateway.url, *arguments, "--json")
        assert json.loads(ended.out), arguments
        assert len(ended.lines) == 1
        assert ended.err == ""


async def test_list_and_file_print_a_document_a_line(gateway: LiveGateway) -> None:
    lines = '{"job_type": "a"}\n\n{"job_type": "b", "nonsense": 1}\n{"job_type": "c"}\n'
    ended = await run(gateway.url, "enqueue", "--file", "-", "--json", stdin=lines)
    assert [json.loads(line)["job_type"] for line in ended.lines] == ["a", "c"]
    assert ended.code == 1
    assert ended.err == "line 3: unknown member 'nonsense'\n", "blank lines count, too"
    listed = await run(gateway.url, "list", "--json")
    assert [json.loads(line)["job_type"] for line in listed.lines] == ["c", "a"]


async def test_options_hold_for_every_payload_of_a_file(gateway: LiveGateway) -> None:
    options = ("--delay", "3600", "--max-attempts", "2", "--priority", "high", "--tag", "team:web", "--title", "Later")
    ended = await run(gateway.url, "enqueue", "later", "--file", "-", *options, "--json", stdin='{"a": 1.0}\n[2]\n')
    tasks = [json.loads(line) for line in ended.lines]
    assert [task["payload"] for task in tasks] == [{"a": 1.0}, [2]]
    for task in tasks:
        assert (task["status"], task["max_attempts"], task["priority"]) == ("scheduled", 2, "high")
        assert (task["tags"], task["title"]) == ({"team": "web"}, "Later")


@pytest.mark.parametrize("arguments", [("--wait", "3"), ("--priority", "high")])
async def test_what_would_be_ignored_beside_a_file_is_refused(gateway: LiveGateway, arguments: tuple[str, str]) -> None:
    ended = await run(gateway.url, "enqueue", "--file", "-", *arguments, stdin='{"job_type": "a"}\n')
    assert ended.code == 2
    assert "--file" in ended.err
    ended = await run(gateway.url, "enqueue", "a", '{"x": 1}', "--file", "-", stdin="1\n")
    assert ended.code == 2
    assert (await gateway.get("/tasks")).json()["tasks"] == []


async def test_a_line_whose_unique_key_is_held_is_told_apart_from_one_that_was_stored(gateway: LiveGateway) -> None:
    line = '{"job_type": "a", "unique_key": "one"}\n'
    ended = await run(gateway.url, "enqueue", "--file", "-", stdin=line + line + '{"job_type": "a"}\n')
    assert (ended.code, ended.out, ended.err) == (0, "2 enqueued, 1 known by unique key\n", "")
    lines = line + '{"job_type": "a", "unique_key": "one", "on_conflict": "reject"}\n'
    ended = await run(gateway.url, "enqueue", "--file", "-", stdin=lines)
    assert (ended.code, ended.out) == (1, "0 enqueued, 1 known by unique key, 1 refused\n")
    assert ended.err.startswith("line 2: ")
    ended = await run(gateway.url, "enqueue", "--file", "-", "--json", stdin=line)
    (known,) = (json.loads(one) for one in ended.lines)
    assert (known["unique_key"], ended.code) == ("one", 0)


async def test_json_keeps_every_digit_and_one_line_a_document(gateway: LiveGateway) -> None:
    payload = '{"big": 12345678901234567890123, "one": 1.0,\n "tiny": 1e-400}'
    ended = await run(gateway.url, "enqueue", "demo", "-", "--json", stdin=payload)
    assert len(ended.lines) == 1
    for text in (
        ended.out,
        (await run(gateway.url, "list", "--json")).out,
        (await run(gateway.url, "list", "--json")).out,
    ):
        assert payload.replace("\n", " ") in text


async def test_a_long_list_comes_in_pages(gateway: LiveGateway) -> None:
    many = "".join(f'{{"job_type": "demo", "title": "{number}"}}\n' for number in range(450))
    assert (await run(gateway.url, "enqueue", "--file", "-", stdin=many)).out == "450 enqueued\n"
    listed = await run(gateway.url, "list", "--limit", "430")
    assert [line.split()[-1] for line in listed.lines[1:]] == [str(number) for number in range(449, 19, -1)]
    assert len((await run(gateway.url, "list", "--limit", "1000", "--json")).lines) == 450


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_a_reader_that_goes_away_ends_it_without_a_word(gateway: LiveGateway, options: tuple[str, ...]) -> None:
    many = "".join(f'{{"job_type": "demo", "title": "{"long " * 80}"}}\n' for _ in range(300))
    await run(gateway.url, "enqueue", "--file", "-", stdin=many)
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "list", "--limit", "300", *options], env=environment(gateway.url),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert await asyncio.to_thread(process.stdout.readline)
        process.stdout.close()
        assert await asyncio.to_thread(process.wait, 20) == 141
        assert process.stderr.read() == b""


async def test_ctrl_c_is_130_without_a_word() -> None:
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    async with server:
        with terminal(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "wait", "demo~1") as one:
            async with asyncio.timeout(20):
                await asked.wait()
            one.process.send_signal(signal.SIGINT)
            assert await one.ended() == 130
            assert one.text == ""


async def test_errors_say_the_next_step(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    for arguments, step in (
        (("get", "demo~nobody"), "gateway list"),
        (("retry", task["id"]), "gateway cancel"),
        (("drain", "nobody/else"), "will hear"),
        (("health", "--url", "http://127.0.0.1:1"), "gateway run"),
        (("lst",), "list"),
        (("enqueue", "demo", "text"), "quotes"),
    ):
        ended = await run(gateway.url, *arguments)
        assert step in ended.out + ended.err, arguments


async def test_what_is_no_gateway_is_3() -> None:
    server = await asyncio.start_server(_answer_with_a_page, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        for arguments in (("health",), ("list",), ("queues",), ("top",), ("tail", "a~b"), ("tail",), ("enqueue", "a")):
            ended = await run(url, *arguments)
            assert (ended.code, "no gateway" in ended.err) == (3, True), (arguments, ended.err)


async def test_the_shell_completes_commands() -> None:
    code = "import sys; sys.argv[0] = 'gateway'; from gateway.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE,
        env=environment(None, _GATEWAY_COMPLETE="complete_bash", COMP_WORDS="gateway ta", COMP_CWORD="1"),
    )  # fmt: skip
    out, _ = await process.communicate()
    assert out.split() == [b"tail"]


async def _answer_with_a_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
    await writer.drain()
    writer.close()


async def test_an_id_with_the_name_of_an_emoji_is_printed_as_it_is(gateway: LiveGateway) -> None:
    ended = await run(gateway.url, "enqueue", "a:x:b")
    assert ended.out.startswith("a:x:b~")
