"""arq's job and result as msgpack, laid out so that scripts can splice them without reading payloads.

A job that we make is arq's dict {t, f, a, k, et} with two more pairs that arq ignores:
    o   bin of 20 bytes, always first: the options that scripts need (OPTIONS)
    u   the unique key, always second; absent when there is none, or when it ends by time alone
    c   the concurrency key, behind it; absent when there is none
    m   what only we need: title, description, tags, retry rule, traceparent, .. (JobFacts); absent when empty
Its one argument is the payload as JSON text. `et` stands last: the script adds the store's clock.
A result is the job's own pairs, then arq's {s, r, t, st, ft, q, id} and three of ours:
    j or e   the result, or the error, as JSON text; x  bin: facts (FinalFacts); z  uint64: lengths of what was added
pickle is never read.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec
from msgspec import Raw

from gateway.retries import DEFAULT_RETRY, RetryPolicy
from gateway.tasks import PRIORITIES, TaskSpec, Unique

OPTIONS = struct.Struct(">BHIIIIB")
_OPTIONS_MARK = b"\xa1o\xc4\x14"
_EXPIRES, _UNIQUE_UNTIL_FINISHED, _UNIQUE_UNTIL_STARTED, _KEYED = 1, 2, 4, 8
_END_OF_TIME_MS = 253_402_300_800_000


class JobFacts(msgspec.Struct, frozen=True, omit_defaults=True, rename={
    "title": "T", "description": "D", "tags": "g", "retry": "R", "traceparent": "p", "tracestate": "s",
    "expires_in_ms": "x", "run_at_ms": "r", "delay_ms": "d", "unique_key": "u",
}):  # fmt: skip
    """The part of a task that scripts never look at."""

    title: str | None = None
    description: str | None = None
    tags: dict[str, str] = {}
    retry: RetryPolicy = DEFAULT_RETRY
    traceparent: str | None = None
    tracestate: str | None = None
    expires_in_ms: int = 0
    run_at_ms: int = 0
    delay_ms: int = 0
    unique_key: str | None = None


class Record(msgspec.Struct, frozen=True):
    """A job or a result as stored. Pairs of results are None in jobs."""

    f: Any
    a: Raw
    k: Raw
    et: int
    o: bytes | None = None
    c: str | None = None
    m: JobFacts | None = None
    s: bool | None = None
    j: Raw = Raw()
    e: Raw = Raw()
    x: bytes | None = None


class Ending(msgspec.Struct, frozen=True):
    """The pairs of a result that were added to the job's own."""

    s: bool
    x: bytes
    j: Raw = Raw()
    e: Raw = Raw()


class FinalFacts(msgspec.Struct, frozen=True, array_like=True):
    """How a task ended. Times are unix ms; started 0: it never did."""

    status: str
    token: str
    attempt: int
    worker_id: str
    started_at_ms: int
    finished_at_ms: int
    code: str


class LeaseRecord(msgspec.Struct, frozen=True, array_like=True):
    """A lease as the scripts keep it; see the places in lua/prelude.lua."""

    token: str
    started_at_ms: int
    lease_ms: int
    rank: float
    worker_id: str
    attempt: int
    max_attempts: int
    deadline_ms: int
    ends_at_ms: int
    priority: int
    cancel_requested: bool
    trailed: bool


class HistoryRecord(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that is over, as `remember` in lua/prelude.lua keeps it."""

    attempt: int
    worker_id: str
    started_at_ms: int
    finished_at_ms: int
    outcome: str
    error: str


_records = msgspec.msgpack.Decoder(Record)
_endings = msgspec.msgpack.Decoder(Ending)
_TAIL = struct.Struct(">IHH")
_pack = msgspec.msgpack.Encoder().encode
decode_final_facts = msgspec.msgpack.Decoder(FinalFacts).decode
decode_lease = msgspec.msgpack.Decoder(LeaseRecord, strict=False).decode
decode_history = msgspec.msgpack.Decoder(HistoryRecord).decode
decode_log_line = msgspec.msgpack.Decoder(tuple[int, int, str]).decode


class Corrupt(Exception):
    """What stands under arq's key is not a job that can be handed on."""


def encode_job(spec: TaskSpec) -> bytes:
    """Write a job but for the value of its last pair, `et`, which the script adds."""
    facts = JobFacts(
        spec.title, spec.description, spec.tags, spec.retry, spec.traceparent, spec.tracestate,
        spec.expires_in_ms, spec.run_at_ms, spec.delay_ms, spec.unique.key if spec.unique else None,
    )  # fmt: skip
    packed_facts = _pack(facts)
    has_facts = packed_facts != b"\x80"
    unique = spec.unique
    holds_key = unique is not None and not unique.for_ms
    flags = _EXPIRES if spec.expires_in_ms else 0
    if unique is not None and holds_key:
        flags |= _UNIQUE_UNTIL_STARTED if unique.until == "started" else _UNIQUE_UNTIL_FINISHED
    keyed = spec.concurrency_key is not None
    if keyed:
        flags |= _KEYED
    return b"".join((
        bytes((0x86 + has_facts + holds_key + keyed,)),
        _OPTIONS_MARK,
        OPTIONS.pack(
            spec.priority, spec.max_attempts, spec.lease_ms, spec.timeout_ms, spec.retention_ms,
            spec.failed_retention_ms, flags,
        ),
        b"\xa1u" + _pack(unique.key) if unique is not None and holds_key else b"",
        b"\xa1c" + _pack(spec.concurrency_key) if keyed else b"",
        b"\xa1t\xc0\xa1f", _pack(spec.job_type),
        b"\xa1a\x91", text_header(len(spec.payload)), spec.payload, b"\xa1k\x80",
        b"\xa1m" + packed_facts if has_facts else b"",
        b"\xa2et",
    ))  # fmt: skip


def encode_unique(unique: Unique | None) -> bytes:
    """Write what enqueue.lua wants to know of a unique key."""
    return b"" if unique is None else _pack((unique.key, unique.for_ms, unique.on_conflict))


def without_time(body: bytes) -> bytes:
    """A job made here as `encode_job` wrote it: without the time that the script added."""
    return body[:-9]


def decode_record(raw: bytes) -> Record:
    """Read a job or a result. Raises Corrupt when it is neither."""
    try:
        record = _records.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Corrupt(str(error)) from error
    if not 0 <= record.et < _END_OF_TIME_MS:
        raise Corrupt("its enqueue time is none")
    return record


def decode_ending(raw: bytes) -> Ending:
    """Read how a task ended from the end of its result, whatever its job was. Raises Corrupt."""
    if raw[-11:-8] != b"\xa1z\xcf":
        raise Corrupt("it is no result of ours")
    tail_bytes, _, pairs = _TAIL.unpack(raw[-8:])
    try:
        return _endings.decode(b"\xde" + pairs.to_bytes(2) + raw[-tail_bytes:])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Corrupt(str(error)) from error


def spec_of(record: Record, job_type: str) -> TaskSpec:
    """Say what the producer asked for. Raises Corrupt when a plain arq job's arguments are no JSON."""
    if record.o is None or len(record.o) != OPTIONS.size:
        return TaskSpec(job_type, _foreign_payload(record))
    priority, max_attempts, lease_ms, timeout_ms, retention_ms, failed_retention_ms, flags = OPTIONS.unpack(record.o)
    if priority >= len(PRIORITIES):
        raise Corrupt("its options are none of ours")
    payload = _argument(record.a)
    facts = record.m
    if facts is None:
        return TaskSpec(
            job_type, payload, priority=priority, max_attempts=max_attempts, lease_ms=lease_ms, timeout_ms=timeout_ms,
            retention_ms=retention_ms, failed_retention_ms=failed_retention_ms, concurrency_key=record.c,
        )  # fmt: skip
    return TaskSpec(
        job_type, payload, facts.title, facts.description, priority, facts.tags, facts.delay_ms, facts.run_at_ms,
        max_attempts, facts.retry, lease_ms, timeout_ms, facts.expires_in_ms, retention_ms, failed_retention_ms,
        facts.traceparent, facts.tracestate, _unique_of(facts.unique_key, flags), record.c,
    )  # fmt: skip


def completed_pairs(result: bytes) -> tuple[bytes, int]:
    """Write the pairs of a good outcome: success, the result as arq's value, and as the JSON text it was."""
    if result == b"null":
        return b"\xa1s\xc3\xa1r\xc0", 2
    return b"".join((b"\xa1s\xc3\xa1r", _value(result), b"\xa1j", text_header(len(result)), result)), 3


def failed_pairs(message: str, error: bytes) -> tuple[bytes, int]:
    """Write the pairs of a bad outcome: no success, a message that arq's clients raise, the error as JSON text."""
    return b"".join((b"\xa1s\xc2\xa1r", _pack(message), b"\xa1e", text_header(len(error)), error)), 3


def text_header(length: int) -> bytes:
    """The msgpack header of a str of `length` bytes."""
    if length < 32:
        return bytes((0xA0 | length,))
    if length < 256:
        return bytes((0xD9, length))
    if length < 65_536:
        return b"\xda" + length.to_bytes(2)
    return b"\xdb" + length.to_bytes(4)


def text_of(raw: Raw) -> bytes | None:
    """The bytes of a msgpack str that was kept raw. None: it is absent."""
    text = bytes(raw)
    return _text_at(text, 0) if text else None


def _text_at(raw: bytes, at: int) -> bytes:
    head = raw[at]
    if 0xA0 <= head <= 0xBF:
        return raw[at + 1 :]
    width = {0xD9: 1, 0xDA: 2, 0xDB: 4}.get(head)
    if width is None:
        raise Corrupt("expected a text")
    return raw[at + 1 + width :]


def _unique_of(key: str | None, flags: int) -> Unique | None:
    if key is None:
        return None
    if flags & (_UNIQUE_UNTIL_FINISHED | _UNIQUE_UNTIL_STARTED):
        return Unique(key, until="started" if flags & _UNIQUE_UNTIL_STARTED else "finished")
    # It ends by time alone, which Redis keeps.
    return Unique(key, for_ms=1)


def _argument(arguments: Raw) -> bytes:
    raw = bytes(arguments)
    if raw[:1] != b"\x91":
        raise Corrupt("expected one argument")
    return _text_at(raw, 1)


def _value(text: bytes) -> bytes:
    """JSON as arq's clients expect a value; what msgpack cannot hold (huge numbers) stays text."""
    try:
        return _pack(msgspec.json.decode(text))
    except (msgspec.MsgspecError, OverflowError, RecursionError, ValueError):
        return text_header(len(text)) + text


def _foreign_payload(record: Record) -> bytes:
    try:
        call = {
            "function": record.f,
            "args": msgspec.msgpack.decode(record.a),
            "kwargs": msgspec.msgpack.decode(record.k),
        }
        return msgspec.json.encode(call, enc_hook=_plain)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise Corrupt(f"its arguments are not JSON: {error}") from error


def _plain(value: object) -> str:
    if isinstance(value, msgspec.msgpack.Ext):
        return base64.b64encode(value.data).decode()
    raise TypeError(f"{type(value).__name__} has no JSON form")
