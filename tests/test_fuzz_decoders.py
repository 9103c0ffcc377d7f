"""Everything that reads bytes of others gets arbitrary ones: only the declared refusals come out, and what is kept is
kept byte for byte. Short and the same in every run; raise `EXAMPLES` to search."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway import config
from gateway.api.codec import check_text, decode, raw_bytes
from gateway.api.task_messages import NewTask
from gateway.api.times import format_time, parse_time
from gateway.api.worker_messages import Complete, Fail, Heartbeat, Heartbeats, Outcomes, Poll, Release
from gateway.errors import BadCursor, Refusal
from gateway.store import arq_format
from gateway.store.inspector import Inspector
from gateway.tasks import ID, TaskSpec, public_id, split_id
from tests import lives
from tests.fuzz import decoders
from tests.harness import Clock, Store

EXAMPLES = 200
quick = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

REQUESTS = [
    NewTask,
    Poll,
    Heartbeat,
    Complete,
    Fail,
    Release,
    Outcomes,
    Heartbeats,
]
DECODERS = {kind.__name__: msgspec.json.Decoder(kind) for kind in REQUESTS}
NEW_TASK = DECODERS["NewTask"]
SEEDS = [
    b'{"job_type":"demo","payload":{"a":[1,2.5e3,"x\\u00e9\\n",true,null]},"tags":{"k":"v"}}',
    b'{"title":"demo","run_at":"2030-01-31T08:00:00Z","retry":{"backoff":"fixed","delays_seconds":[1,2]}}',
    b'{"worker_id":"w1","task_type":["a","b"],"wait":1.5,"max":10,"poll_id":"p","lease_seconds":30}',
    b'{"lease_token":"t","progress":[0.5],"log":["one","two"],"lease_seconds":5}',
    b'{"lease_token":"t","result":{"a":{}},"next":{"max":1,"wait":0,"task_type":"x"}}',
    b'{"lease_token":"t","error":{"type":"E","message":"m","stack":"s","details":[]},"retryable":false}',
    b'{"worker_id":"w","outcomes":[{"id":"a~1","lease_token":"t","outcome":"complete","result":1}],"next":{}}',
    b'{"worker_id":"w","leases":[{"id":"a~1","lease_token":"t","progress":1}]}',
    b'["\xf0\x9f\x98\x80", "\\ud83d\\ude00", -0.0, 1E400]',
]
SPLICES = [
    b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"[", b"]", b"{", b"}", b":", b",", b"\x00", b"\n", b"\xff",
    b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"0", b"-", b".", b"e", b"1e400", b"NaN", b"null",
    b"true", b" ", b"[" * 130,
    b"9" * 400,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good text with a few bytes cut, put in, repeated or exchanged."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        piece = draw(st.one_of(st.sampled_from(SPLICES), st.binary(max_size=3), st.just(text[start:end] * 2)))
        text = text[:start] + piece + text[end:]
    return text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
texts = st.one_of(st.binary(max_size=200), mutated())


def accept(text: bytes, decoder: Any) -> Any:
    """Read a request as a handler does. None: it was refused, as it may be."""
    try:
        check_text(text)
        return decode(text, decoder)
    except Refusal as refusal:
        refused = refusal
    assert 0 < len(refused.detail) < 1000
    json.dumps(refused.members)
    return None


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
@quick
@given(text=texts)
def test_a_request_is_read_or_refused(kind: type, text: bytes) -> None:
    accept(text, DECODERS[kind.__name__])


def lenient_json(text: bytes) -> Any:
    """Python's own reader, which takes duplicate members and numbers of any size, and no NaN when told so."""

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} was let through")

    return json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)


@quick
@given(text=texts)
@example(b'"\\ud800\\u0041"')
@example(b'"\xed\xa0\x80"')
@example(b'"a\x1f"')
@example(b'{"\\udc00":1}')
@example(b'{"a":1,"a":2}')
@example(b"-")
@example(b"9" * 5000)
@example(b"[" * 127 + b"]" * 127)
def test_a_kept_value_is_json_for_everyone_and_keeps_its_bytes(text: bytes) -> None:
    message = accept(b'{"job_type":"a","payload":' + text + b"}", NEW_TASK)
    if message is None or message.job_type != "a":
        return
    try:
        kept = raw_bytes(message.payload)
    except Refusal:
        return
    value = lenient_json(kept)
    json.dumps(value, ensure_ascii=False).encode()  # no half of a pair is in it
    assert kept in text or text.strip(b" \t\r\n") == kept or kept == b"null"


@quick
@given(value=json_values, indent=st.sampled_from([None, 0, 1]), ascii=st.booleans())
def test_every_json_value_is_accepted_and_keeps_its_bytes(value: Any, indent: int | None, ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    assume(not re.search("[\ud800-\udfff]", text))
    body = b'{"job_type":"a","payload": ' + text.encode() + b" }"
    check_text(body)
    kept = raw_bytes(decode(body, NEW_TASK).payload)
    assert kept == text.encode()
    again = arq_format.spec_of(arq_format.decode_record(stored(TaskSpec("a", kept))), "a")
    assert again.payload == kept


def stored(spec: TaskSpec) -> bytes:
    """A job as the enqueue script leaves it: the store's clock is added behind."""
    return arq_format.encode_job(spec) + b"\xcf" + (1_800_000_000_000).to_bytes(8)


@quick
@given(text=st.binary(max_size=3000))
@example(b'["]]]' + b"[" * 200)
@example(b'"\\\\"' + b"[" * 129)
@example(b'["[""["' + b"[" * 128)
@example(b'["","",""' + b"[" * 128)
@example(b'["\\\\\\""' + b"[" * 128)
@example(b'"' + b'\\"' * 3000 + b"[" * 129)
def test_nesting_is_counted_as_a_reader_would(text: bytes) -> None:
    """Whatever is let through, no reader goes deeper than 128."""
    if accept(text, msgspec.json.Decoder(msgspec.Raw)) is None:
        return
    deepest = depth = 0
    inside = escaped = False
    for byte in text:
        if inside:
            inside, escaped = escaped or byte != ord('"'), not escaped and byte == ord("\\")
        elif byte == ord('"'):
            inside = True
        else:
            depth += (byte in b"[{") - (byte in b"]}")
            deepest = max(deepest, depth)
    assert deepest <= 128


# ---- Times, ids, cursors.


@quick
@given(text=st.one_of(st.text(max_size=40), st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:]{8}.{0,12}")))
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59-23:59")
@example("2030-01-31T08:00:60Z")
def test_a_time_is_read_or_none(text: str) -> None:
    at_ms = parse_time(text)
    if at_ms is not None:
        assert re.fullmatch(r"[0-9]{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", text, re.ASCII)


@quick
@given(
    at=st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)),
    minutes=st.integers(-1439, 1439),
)
def test_a_time_means_what_it_says(at: datetime, minutes: int) -> None:
    at = at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC)
    at_ms = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse_time(format_time(at_ms)) == at_ms
    zone = f"{'+' if minutes >= 0 else '-'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    local = at + timedelta(minutes=minutes)
    if 1 < local.year < 9999:
        assert parse_time(f"{local:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}{zone}") == at_ms


@quick
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,8}~([0-9]{1,2}\.)?~?[A-Za-z0-9_~-]{0,30}", fullmatch=True),
    )
)
def test_an_id_is_read_or_nobodys_and_has_one_spelling(text: str) -> None:
    parts = split_id(text)
    if parts is None:
        return
    job_type, rest = parts.job_type, parts.rest
    tag = f"{{default:{job_type}{f'/{parts.partition}' if parts.partition else ''}}}"
    if parts.plain:
        rest.encode("utf-8", "surrogateescape")
        if not (rest.startswith(tag) and len(rest) == len(tag) + 26):
            assert public_id(job_type, rest, tag) == text


@quick
@given(
    job_type=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,30}", fullmatch=True), raw=st.binary(min_size=1, max_size=90)
)
def test_every_id_of_arq_has_a_public_one(job_type: str, raw: bytes) -> None:
    arq_id = raw.decode("utf-8", "surrogateescape")
    task_id = public_id(job_type, arq_id, "{default:x}")
    assert ID.fullmatch(task_id)
    parts = split_id(task_id)
    assert parts is not None
    assert parts.job_type == job_type
    assert parts.rest.encode("utf-8", "surrogateescape") == raw


@quick
@given(text=st.one_of(st.text(max_size=60), st.text("ABCDEFabcdef0123456789-_=", max_size=60)).filter(bool))
def test_a_cursor_is_read_or_refused(text: str) -> None:
    # No queue is looked at: nothing but the cursor is read.
    inspector = Inspector(None)  # type: ignore[arg-type]
    try:
        assert asyncio.run(inspector.page((), lives.ANY, 10, text)) == ([], None)
    except BadCursor:
        return
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)


async def test_a_walk_passes_ids_that_are_no_text(store: Store, redis: Redis, clock: Clock) -> None:
    body = msgspec.msgpack.encode({"t": None, "f": "demo", "a": [1], "k": {}, "et": clock.now_ms})
    for raw in (b"plain", b"\xff\xfe1", "é".encode(), b"\xc3", b"a\x00\nb", b"z" * 140):
        await redis.set(b"arq:job:" + raw, body)
        await redis.zadd(lives.ARQ_QUEUE, {raw: clock.now_ms})
    await lives.enqueue(store)
    await store.tasks.expire(lives.QUEUE)
    seen: list[str] = []
    cursor = None
    while True:
        tasks, cursor = await store.inspector.page([lives.QUEUE], lives.ANY, 1, cursor)
        seen += [task.id for task in tasks]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 7
    for task_id in seen:
        assert (await store.inspector.get(lives.QUEUE, task_id)).id == task_id


# ---- What stands in Redis, and what stands in the environment.

packed_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=25),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Bytes, or an arq job or result some pairs of which are anything."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=80))
    pairs: dict[str, Any] = {"o": bytes(20), "t": None, "f": "f", "a": ["1"], "k": {}, "et": 1_800_000_000_000}
    for name in draw(st.lists(st.sampled_from("otfakmsrjexz") | st.just("et"), max_size=4)):
        if draw(st.booleans()):
            pairs[name] = draw(packed_values)
        else:
            pairs.pop(name, None)
    packed = msgspec.msgpack.encode(pairs)
    cut = draw(st.integers(0, 6))
    return packed[: len(packed) - cut] if cut < 3 else packed


@quick
@given(raw=records())
@example(b"")
@example(b"\x91" * 3000)
@example(msgspec.msgpack.encode({"f": "f", "a": [float("nan")], "k": {}, "et": 1}))
@example(msgspec.msgpack.encode({"f": b"\xff", "a": [msgspec.msgpack.Ext(1, b"x")], "k": {"": 2**64 - 1}, "et": 1}))
def test_what_stands_in_redis_is_read_or_corrupt(raw: bytes) -> None:
    try:
        spec = arq_format.spec_of(arq_format.decode_record(raw), "demo")
    except arq_format.Corrupt:
        return
    json.loads(spec.payload)


@quick
@given(spec=st.builds(
    TaskSpec,
    job_type=st.just("demo"),
    payload=json_values.map(lambda value: msgspec.json.encode(value) if not has_surrogates(value) else b"null"),
    title=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    description=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    priority=st.integers(0, 3),
    tags=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.just("x"), max_size=3),
    delay_ms=st.integers(0, 31_622_400_000),
    run_at_ms=st.integers(0, 2**48),
    max_attempts=st.integers(1, 1000),
    lease_ms=st.integers(1000, 43_200_000),
    timeout_ms=st.integers(0, 2**32 - 1),
    expires_in_ms=st.integers(0, 31_622_400_000),
    retention_ms=st.integers(0, 2_592_000_000),
    failed_retention_ms=st.integers(0, 2_592_000_000),
))  # fmt: skip
def test_a_job_is_read_as_it_was_written(spec: TaskSpec) -> None:
    assert arq_format.spec_of(arq_format.decode_record(stored(spec)), "demo") == spec


def has_surrogates(value: Any) -> bool:
    return bool(re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)))


def test_the_longest_durations_of_a_request_fit_into_a_job() -> None:
    year_ms, month_ms = 31_622_400_000, 2_592_000_000
    spec = TaskSpec(
        "demo", max_attempts=1000, lease_ms=43_200_000, timeout_ms=month_ms, retention_ms=month_ms,
        failed_retention_ms=month_ms, delay_ms=year_ms, expires_in_ms=year_ms,
    )  # fmt: skip
    assert arq_format.spec_of(arq_format.decode_record(stored(spec)), "demo") == spec


VARIABLES = [name for row in config.table() for name in row.variables]


@quick
@given(environ=st.dictionaries(
    st.sampled_from(VARIABLES),
    st.text(max_size=12) | st.sampled_from(["0", "-1", "8080", "65536", "1e3", "nan", "true", "x" * 300, "a:6379"]),
    max_size=4,
))  # fmt: skip
def test_settings_are_read_or_refused_by_name(environ: dict[str, str]) -> None:
    try:
        config.load(environ, None)
        return
    except config.ConfigError as error:
        message = str(error)
    assert any(name in message for name in environ)
    for name, value in environ.items():
        if ("PASSWORD" in name or "SECRET" in name) and len(value) > 12 and list(environ.values()).count(value) == 1:
            assert value not in message


# ---- Every reader, and random mutations of what it takes. `python -m tests.fuzz decoders` goes on for millions.

READERS = decoders.targets()


@pytest.mark.parametrize("target", READERS, ids=[one.name for one in READERS])
def test_a_reader_lets_nothing_out_but_its_refusals(target: decoders.Target) -> None:
    tried, taken = decoders.search(target, 4, 20 if target.name == "settings" else 1000)
    assert 0 < taken <= tried
    if target.refusals:
        assert taken < tried, "nothing was refused: the mutations are too tame"


def test_a_reader_that_lets_something_else_out_is_found() -> None:
    broken = decoders.Target("broken", lambda data: 1 // (b"{{" not in data), (Refusal,), [b'{"a":1}'])
    with pytest.raises(decoders.Found, match="ZeroDivisionError"):
        decoders.search(broken, 1, 20_000)
