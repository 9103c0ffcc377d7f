"""The Lua scripts: what their headers say, what they must not do, and that every supported server runs them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.store import scripts
from gateway.store.calls import Claim
from gateway.store.keys import Keys
from gateway.store.verbs import VERBS
from gateway.tasks import Queue, Status, TaskSpec
from tests import lives
from tests.harness import Clock, RedisServer, Store, redis_binaries, wait_until

_FOLDER = files("gateway.store") / "lua"
_FILES = {
    entry.name.removesuffix(".lua"): entry.read_text() for entry in _FOLDER.iterdir() if entry.name.endswith(".lua")
}
every_file = pytest.mark.parametrize("source", [pytest.param(text, id=name) for name, text in sorted(_FILES.items())])
every_verb = pytest.mark.parametrize("verb", scripts.VERBS)
# What reads only. Everything else must let Redis write although it is full, or write first what needs memory.
_READS = {"read", "page", "stats", "leases", "settings"}


def code(source: str) -> str:
    """The source without its comments."""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("--"))


def header(source: str) -> list[str]:
    """The comment that the file starts with."""
    lines = []
    for line in source.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").rstrip())
    return lines


def test_every_verb_has_a_file_and_every_file_a_verb() -> None:
    assert set(_FILES) == {*scripts.VERBS, *scripts.BARE, "prelude"}
    assert len(scripts.VERBS) == len(set(scripts.VERBS)) == 20


@every_verb
def test_a_header_tells_the_move_its_keys_its_arguments_and_its_reply(verb: str) -> None:
    lines = header(_FILES[verb])
    assert re.match(r" [A-Z].*\. $", " ".join(lines).split(" KEYS:")[0])
    places = [
        [i for i, line in enumerate(lines) if line.startswith(f" {word}: ")] for word in ("KEYS", "ARGV", "Returns")
    ]
    assert [len(found) for found in places] == [1, 1, 1]
    assert places == sorted(places)
    assert lines[places[1][0]].startswith(" ARGV: now")
    assert lines[places[2][0]].startswith(" Returns: 'ok', now")


@every_verb
def test_a_body_reads_the_arguments_that_its_header_names(verb: str) -> None:
    text = " ".join(header(_FILES[verb]))
    named = re.search(r"ARGV: (.*?) Returns:", text)
    assert named is not None
    fixed = re.split(r", then |\. |, (?=lists)", re.sub(r"\([^)]*\)", "", named[1]))[0]
    slots = re.findall(r"ARGV\[(\d+)\]", code(_FILES[verb]))
    assert {str(number + 1) for number in range(len(fixed.split(",")))} <= set(slots)


@every_verb
def test_a_script_says_first_what_its_arguments_are(verb: str) -> None:
    assert "clock(ARGV[1])" in code(_FILES[verb]).splitlines()[0]


@every_verb
def test_a_reply_is_led_by_a_word(verb: str) -> None:
    body = code(_FILES[verb])
    returned = re.findall(r"^return (.*)$", body, re.MULTILINE)
    assert returned
    for value in returned:
        assert value.startswith("{ 'ok', now") or value == "reply"
    if "reply" in returned:
        assert re.search(r"^local reply\b[^=]*= \{ 'ok', now", body, re.MULTILINE)


@every_file
def test_no_script_reads_json_or_walks_the_keyspace(source: str) -> None:
    body = code(source)
    assert "cjson" not in body
    for command in ("KEYS", "SCAN", "SORT", "FLUSHDB", "FLUSHALL", "EVAL", "SELECT", "RANDOMKEY"):
        assert not re.search(rf"call\('{command}'", body, re.IGNORECASE), command
    assert not re.search(r"math\.random|os\.time|os\.clock", body)


@every_file
def test_no_script_unpacks_an_array_onto_the_stack_but_in_parts_that_fit(source: str) -> None:
    unpacked = re.findall(r"(?<![.\w])(?:table\.)?unpack\((.*?)\)", code(source))
    shared = source == _FILES["prelude"]
    assert unpacked == (["list, first, last", "list, first, last", "keys, first, last"] if shared else [])


@every_file
def test_no_script_spells_a_key(source: str) -> None:
    assert not re.search(r"""['"](arq|tg):""", code(source))


@every_verb
def test_what_writes_also_writes_when_redis_is_full(verb: str) -> None:
    asks = "allow_when_full()" in code(_FILES[verb])
    # New work is refused then; `ring` only removes.
    assert asks == (verb not in _READS | {"enqueue", "retry", "ring"})


@every_verb
def test_what_only_reads_calls_no_command_that_writes(verb: str) -> None:
    if verb in _READS:
        called = set(re.findall(r"p?call\('(\w+)'", code(_FILES[verb])))
        assert called <= {"GET", "ZSCORE", "HGETALL", "LRANGE", "ZRANGEBYSCORE", "ZREVRANGEBYLEX", "ZCOUNT", "ZCARD"}


@every_file
def test_every_header_names_a_source_that_exists(source: str) -> None:
    for path in re.findall(r"[\w/]+\.(?:lua|py)\b", "\n".join(line for line in source.splitlines() if "--" in line)):
        store = Path(str(_FOLDER)).parent
        assert any((folder / path).exists() for folder in (store, store.parent, store / "lua")), path


def test_scripts_differ_between_prefixes_and_name_themselves_by_what_they_are() -> None:
    one, two = scripts.load(Keys("tg")), scripts.load(Keys("other"))
    spelling = [verb for verb in scripts.VERBS if "'tg:" in one[verb].source]
    assert len(spelling) > 10
    assert {one[verb].sha for verb in spelling}.isdisjoint(two[verb].sha for verb in spelling)
    assert one["claim"] == scripts.load(Keys("tg"))["claim"]


@every_verb
def test_a_script_brings_along_only_what_it_uses(verb: str) -> None:
    source = code(scripts.load(Keys())[verb].source)
    declared = re.findall(r"^local (?:function )?([\w, ]+?)(?:\(| =|$)", source, re.MULTILINE)
    shared = len(re.findall(r"^local ", source, re.MULTILINE)) - len(
        re.findall(r"^local ", code(_FILES[verb]), re.MULTILINE)
    )
    for names in declared[:shared]:
        uses = sum(len(re.findall(rf"\b{name}\b", source)) for name in names.split(", "))
        assert uses > len(names.split(", ")), f"{verb} brings {names} along"


@every_verb
def test_constants_are_written_where_they_are_used(verb: str) -> None:
    source = re.sub(r"'[^']*'", "", code(scripts.load(Keys())[verb].source))
    declared = set(re.findall(r"[A-Z_]{2,}", " ".join(re.findall(r"^local ([A-Z_, ]+) =", source, re.MULTILINE))))
    assert set(re.findall(r"\b[A-Z][A-Z_]+\b", source)) <= declared | {"KEYS", "ARGV"}


def test_nothing_that_verbs_share_is_used_by_none() -> None:
    whole = "\n".join(code(source) for name, source in _FILES.items() if name not in scripts.BARE)
    for names in re.findall(r"^local (?:function )?([\w, ]+?)(?:\(| =|$)", code(_FILES["prelude"]), re.MULTILINE):
        for name in names.split(", "):
            assert len(re.findall(rf"\b{name}\b", whole)) > 1, name


# On every server that we test with


@pytest.fixture(params=list(redis_binaries()))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    one = RedisServer(tmp_path / "redis", redis_binaries()[request.param])
    one.start()
    yield one
    one.stop()


@pytest_asyncio.fixture
async def served(server: RedisServer, clock: Clock) -> AsyncIterator[Store]:
    one = Store(server.url, clock)
    yield one
    await one.close()


async def whole_life(store: Store, clock: Clock, queue: Queue = lives.QUEUE) -> None:
    """Every verb at least once."""
    tasks = store.tasks
    job_type = queue.job_type
    first = await lives.enqueue(store, queue, tags={"a": "b"}, expires_in_ms=900_000)
    await lives.enqueue(store, queue, delay_ms=1000)
    (leased,) = await lives.take(store, queue=queue, poll_id="p1")
    await tasks.heartbeat(queue, first.id, leased.token, progress=b"1", lines=["line"])
    await tasks.fail(queue, first.id, leased.token, lives.ERROR, lives.ERROR, "no", retry_in_ms=1000)
    assert await tasks.watch(queue, first.id, 60_000) == 0
    clock.advance(1)
    assert (await tasks.expire(queue)).promoted == 2
    one, two = await lives.take(store, 2, queue=queue)
    assert len(await tasks.leases(queue)) == 2
    await tasks.release(queue, one.task.id, one.token)
    await lives.complete(store, two, b'{"done": true}', queue)
    assert await tasks.cancel(queue, one.task.id) is True
    await tasks.retry(queue, one.task.id)
    (again,) = await lives.take(store, queue=queue)
    clock.advance(31)
    assert (await tasks.expire(queue)).lapsed == 1
    await tasks.pass_ring_on(queue)
    (last,) = await lives.take(store, queue=queue)
    assert last.task.attempt == again.task.attempt + 1
    await lives.complete(store, last, queue=queue)
    listed, _ = await store.inspector.page([queue], lives.ANY, 10, None)
    assert [task.status for task in listed] == [Status.COMPLETED] * 2
    (stats,) = await store.inspector.stats([queue])
    assert stats.completed == 2
    assert await tasks.enqueue(queue, [TaskSpec(job_type)] * 3, atomic=True)


async def test_all_scripts_load(server: RedisServer) -> None:
    async with Redis.from_url(server.url) as redis:
        for script in scripts.load(Keys()).values():
            assert (await redis.script_load(script.source)).encode() == script.sha


async def test_a_whole_life_runs(served: Store, clock: Clock) -> None:
    await whole_life(served, clock)


async def test_a_whole_life_runs_by_the_servers_own_clock(server: RedisServer) -> None:
    store = Store(server.url)
    try:
        task = await lives.enqueue(store, delay_ms=300)
        assert await lives.take(store) == []
        (leased,) = await wait_until(lambda: lives.take(store))
        await lives.complete(store, leased)
        final = await lives.read(store, task.id)
        assert final.started_at_ms >= task.created_at_ms + 20
    finally:
        await store.close()


async def test_every_key_that_a_life_touches_stands_under_its_queues_hash_tag(
    server: RedisServer, clock: Clock
) -> None:
    """MONITOR shows every command, those of scripts too: what names a key names it with the tag."""
    store = Store(server.url, clock)
    seen: list[str] = []
    try:
        async with store.redis.monitor() as monitor:
            await whole_life(store, clock)
            await store.redis.echo("the end")
            async for line in monitor.listen():
                command = line["command"]
                if command.upper().startswith("ECHO"):
                    break
                if line["client_type"] == "lua":
                    seen.append(command)
    finally:
        await store.close()
    keyed = [words for words in (command.split() for command in seen) if words[0].upper() not in ("TIME", "PUBLISH")]
    assert len(keyed) > 100
    for words in keyed:
        keys = words[1:] if words[0].upper() in ("DEL", "EXISTS") else words[1:2]
        assert all(re.match(r"(arq:[a-z-]+:|tg:)\{default:demo\}", key) for key in keys), words
    assert {words[0].upper() for words in keyed}.isdisjoint({"KEYS", "SCAN"})


async def test_what_a_life_leaves_stands_under_its_queues_hash_tag(served: Store, clock: Clock) -> None:
    await whole_life(served, clock)
    await whole_life(served, clock, Queue("acme", "mail.send:v2"))
    for key in await served.redis.keys("*"):
        assert re.match(
            r"(arq:(queue|job|in-progress|retry|result):|tg:)\{(default:demo|acme:mail\.send:v2)\}", key.decode()
        )


async def test_a_call_may_carry_more_than_the_stack_takes(served: Store) -> None:
    queue, number = Queue("default", "demo"), 3001
    for made in (1000, 1000, 1000, 1):
        await served.tasks.enqueue(queue, [TaskSpec("demo", b"1")] * made)
    polls = [Claim(f"w{one}", 1, poll_id="p") for one in range(number)]
    claimed = await served.tasks.claim(queue, polls, stays=False, others=0, waited_ms=0)
    assert all(len(tasks) == 1 for tasks in claimed.tasks)
    again = await served.tasks.claim(queue, polls, stays=False, others=0, waited_ms=0)
    assert [one.token for (one,) in again.tasks] == [one.token for (one,) in claimed.tasks]
    leases = [(queue, one.task.id, served.tasks.arq_id(queue, one.task.id), one.token) for (one,) in claimed.tasks]
    scripts_of = {verb.name: verb(served.tasks) for verb in VERBS}
    for name, rest in (("heartbeat", (0, b"", ())), ("complete", (b"\xa1s\xc3\xa1r\xc0", 2))):
        arguments = scripts_of[name].arguments([(*lease, *rest) for lease in leases])
        reply = await served.redis.eval(
            scripts.load(served.keys)[name].source, 1, "arq:queue:{default:demo}", *arguments
        )
        words = {answer[0] for answer in reply[3 - (name == "heartbeat") :]}
        assert words == {b"ok" if name == "heartbeat" else b"completed"}
    assert await served.redis.zcard("tg:{default:demo}:completed") == number
    assert await served.redis.exists("arq:queue:{default:demo}", "tg:{default:demo}:live") == 0
