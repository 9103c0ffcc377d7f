"""Mutated bytes for everything that reads bytes of others: nothing but its declared refusal comes out.

Each target is a reader, its refusals, and seeds. What a reader took joins the seeds, so that mutations go deeper than
its first check. The seed that is printed repeats a run.
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway import config, jwts
from gateway.api import enqueue, requests, waits
from gateway.api.admin_messages import NewKey, NewLimits, NewQueueSettings, Pause, Redrive
from gateway.api.codec import check_media_type, check_text, decode, raw_bytes
from gateway.api.endpoint import Call
from gateway.api.large_bodies import LargeBodies
from gateway.api.task_messages import Bulk, NewTask, PatchTask, Retry
from gateway.api.times import parse_time
from gateway.api.worker_messages import Complete, Fail, Heartbeat, Heartbeats, Outcomes, Poll
from gateway.api.workers import _poll_of_query
from gateway.authentication import Authenticator
from gateway.errors import InternalError, Refusal
from gateway.identity import ANYBODY, Identity
from gateway.jwts import JwtRules, JwtVerifier
from gateway.queue_settings import Defaults
from gateway.retries import RetryPolicy
from gateway.store import arq_format
from gateway.store.inspector import Filter, Inspector
from gateway.tasks import ID, TaskSpec, split_id
from tests.credentials import SECRET, key_pair, key_set, token

SPLICES = (
    b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"[", b"]", b"{", b"}", b":", b",", b"\x00", b"\n", b"\r\n", b"\xff",
    b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"0", b"-", b".", b"e", b"1e400", b"NaN", b"null", b"true", b" ",
    b"[" * 130, b"9" * 400, b"%", b"%00", b"%ff", b"&", b"=", b"~", b"~~", b";", b"+", b"/", b"..", b"*", b"\xd9\xa1",
    b"\xc1", b"\xde\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc7\x01\x01", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
)  # fmt: skip
_MOST_BYTES = 4096


class Target(NamedTuple):
    """One reader. read: takes bytes, returns anything; refusals: the exceptions that it declares."""

    name: str
    read: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...]
    seeds: Sequence[bytes]


class Found(Exception):
    """A reader let something out that it does not declare."""


def call_of(headers: Sequence[tuple[bytes, bytes]] = (), query: bytes = b"", identity: Identity = ANYBODY) -> Call:
    """A request as a handler gets it."""

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "headers": list(headers), "query_string": query, "http_version": "1.1"}
    call = Call(scope, receive, "", LargeBodies(), jobs=False)
    call.identity = identity
    return call


def _run(coroutine: Any) -> Any:
    """Run what never waits, without a loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    finally:
        coroutine.close()
    raise Found("it waited")


def _requests() -> list[Target]:
    kinds = [
        (NewTask, b'{"job_type":"demo","payload":{"a":[1,2.5e3,"x\\u00e9\\n",true,null]},"tags":{"k":"v"}}'),
        (NewTask, b'{"title":"t","run_at":"2030-01-31T08:00:00Z","retry":{"delays_seconds":[1,2]}}'),
        (PatchTask, b'{"priority":"high","delay_seconds":1.5,"tags":{},"payload":[]}'),
        (Bulk, b'{"filter":{"status":["failed"],"tags":{"a":"b"},"created_after":"2030-01-31T08:00:00Z"}}'),
        (Poll, b'{"worker_id":"w1","task_type":["a","b"],"wait":1.5,"max":10,"poll_id":"p"}'),
        (Heartbeat, b'{"lease_token":"t","progress":[0.5],"log":["one","two"],"lease_seconds":5}'),
        (Complete, b'{"lease_token":"t","result":{"a":{}},"next":{"max":1,"wait":0,"task_type":"x"}}'),
        (Fail, b'{"lease_token":"t","error":{"type":"E","message":"m","details":[]},"retryable":false}'),
        (Outcomes, b'{"worker_id":"w","outcomes":[{"id":"a~1","lease_token":"t","outcome":"fail"}]}'),
        (Heartbeats, b'{"worker_id":"w","leases":[{"id":"a~1","lease_token":"t","progress":1}]}'),
        (NewQueueSettings, b'{"max_pending":5,"defaults":{"retry":{"backoff":"fixed"}},"paused":true}'),
        (Pause, b'{"until":"2030-01-31T08:00:00Z"}'),
        (Redrive, b'{"rate_per_second":0.5,"filter":{"job_type":"a"},"dry_run":true}'),
        (NewKey, b'{"name":"ci","scopes":["work"],"job_types":["a.*"],"expires_in_seconds":60}'),
        (NewLimits, b'{"max_pending":5,"max_stored_bytes":1000000}'),
    ]  # fmt: skip
    by_kind: dict[type, list[bytes]] = {}
    for kind, seed in kinds:
        by_kind.setdefault(kind, []).append(seed)

    def reader(kind: Any) -> Callable[[bytes], object]:
        decoder = msgspec.json.Decoder(kind)

        def read(data: bytes) -> object:
            check_text(data)
            return decode(data, decoder)

        return read

    return [Target(f"body: {kind.__name__}", reader(kind), (Refusal,), seeds) for kind, seeds in by_kind.items()]


def _enqueued(data: bytes) -> None:
    """A body of POST /tasks, as one task, a batch or lines: what is kept is JSON for everybody."""
    for media in (b"application/json", b"application/x-ndjson"):
        try:
            specs, _ = requests.specs_of(call_of(), data, media)
        except Refusal:
            continue
        for spec in specs:
            if isinstance(spec, TaskSpec):
                json.dumps(json.loads(spec.payload, parse_int=str), ensure_ascii=False).encode()
                stored = arq_format.encode_job(spec) + b"\xcf" + (1_800_000_000_000).to_bytes(8)
                if arq_format.spec_of(arq_format.decode_record(stored), spec.job_type).payload != spec.payload:
                    raise Found("a payload changed on its way")


def _query(data: bytes) -> None:
    for read in (
        lambda call: _poll_of_query(call),
        lambda call: call.query("status", "limit", repeated=("tag",)),
    ):
        try:
            read(call_of(query=data))
        except Refusal:
            pass


def _headers(data: bytes) -> None:
    """Every header that is read, with the same value."""
    value = bytes(byte for byte in data if byte not in (0, 10, 13))
    names = (b"x-request-id", b"prefer", b"traceparent", b"tracestate", b"idempotency-key", b"content-type")
    call = call_of([(name, value) for name in names])
    call.request_id.encode("ascii")
    waits.preferred_wait(call)
    for read in (enqueue._idempotency_key, lambda call: check_media_type(call.headers.get(b"content-type"))):
        try:
            read(call)
        except Refusal:
            pass
    requests.spec_of(call, b'{"job_type":"demo"}').payload  # noqa: B018 - reads traceparent and tracestate


def _cursor(data: bytes) -> None:
    # No queue is looked at: nothing but the cursor is read.
    _run(Inspector(None).page((), Filter(), 10, data.decode("latin-1") or "x"))  # type: ignore[arg-type]


def _identifier(data: bytes) -> None:
    text = data.decode("latin-1")
    if ID.fullmatch(text):
        split_id(text)


async def _nobody(secret: str) -> None:
    return None


def _authorization() -> Callable[[bytes], object]:
    authenticator = Authenticator(JwtVerifier(JwtRules(secret=SECRET)), _nobody)
    return lambda data: _run(authenticator.identify(data))


def _record(data: bytes) -> None:
    # Whoever can write our own header into Redis is believed about the payload behind it.
    if data[1:5] == b"\xa1o\xc4\x14":
        arq_format.decode_record(data)
        return
    json.loads(arq_format.spec_of(arq_format.decode_record(data), "demo").payload, parse_int=str)


def _settings(data: bytes) -> None:
    """Lines of NAME=value."""
    lines = data.decode("utf-8", "replace").splitlines()
    config.load({name: value for name, mark, value in (line.partition("=") for line in lines) if mark}, None)


def _retry_rule(data: bytes) -> None:
    check_text(data)
    rule = decode(data, msgspec.json.Decoder(Retry))
    policy: RetryPolicy = requests.retry_policy(rule)
    Defaults(retry=policy)


def targets() -> list[Target]:
    """Every reader there is."""
    whole = token(tenant="acme", scope="work admin", job_types=["a.*"])
    job = {"o": bytes(20), "t": None, "f": "f", "a": ["1"], "k": {}, "et": 1_800_000_000_000}
    plain = {name: value for name, value in job.items() if name != "o"}
    return [
        *_requests(),
        Target("kept values", lambda data: raw_bytes(msgspec.Raw(data)), (Refusal,), [b'{"a":[1,"\\ud83d\\ude00"]}']),
        Target("POST /tasks", _enqueued, (), [
            b'{"job_type":"demo","payload":[-0.0,1E400,"\xf0\x9f\x98\x80"]}', b'[{"job_type":"a"},{"job_type":"b"}]',
            b'{"job_type":"a"}\n{"job_type":"b","payload":1}\r\n',
        ]),
        Target("queries", _query, (), [b"worker_id=w&task_type=a,b&wait=1&max=2", b"status=failed&tag=a:b&limit=10"]),
        Target("headers", _headers, (), [
            b"wait=10", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b'"8e03978e-40d5"',
            b"application/json; charset=utf-8", b"a=b,c=d",
        ]),
        Target("cursors", _cursor, (Refusal,), [b"MDAwMDAwMDAwMGE", b"MDFtODByMDFyeT1h"]),
        Target("ids", _identifier, (), [b"demo~01m80rw4hr77qngj49sarresr2", b"demo~~YXJxOnF1ZXVl"]),
        Target("times", lambda data: parse_time(data.decode("latin-1")), (), [b"2030-01-31T08:00:00.123456+01:00"]),
        Target("Authorization", _authorization(), (Refusal,), [
            f"Bearer {whole}".encode(), b"Bearer tgw_" + b"A" * 43, b"Basic YTpi",
        ]),
        Target("JWT header and claims", lambda data: jwts._object(_segment(data)), (Refusal,), [
            b'{"alg":"HS256","typ":"JWT","kid":"a"}', b'{"exp":1.5,"tenant":"acme","scope":["a"],"job_types":["b.*"]}',
        ]),
        Target("claims", lambda data: jwts._identity_of(_dictionary(data)), (Refusal, ValueError), [
            b'{"exp":1,"tenant":"acme","scope":"work","job_types":["b.*"],"sub":"x"}', b'{"scopes":["admin"]}',
        ]),
        Target("JWKS", jwts._read_keys, (config.ConfigError,), [
            key_set(a=key_pair("ES256"), b=key_pair("EdDSA"), c=key_pair("RS256")),
        ]),
        Target("arq records", _record, (arq_format.Corrupt,), [
            msgspec.msgpack.encode(job), msgspec.msgpack.encode(plain),
        ]),
        Target("settings", _settings, (config.ConfigError,), [
            b"PORT=8080\nREDIS_URL=redis://a:1/0\nCORS_ORIGINS=https://a.b", b"JWT_SECRET=" + b"x" * 40,
        ]),
        Target("retry rules", _retry_rule, (Refusal,), [b'{"backoff":"linear","base_seconds":1,"delays_seconds":[1]}']),
    ]  # fmt: skip


def _segment(data: bytes) -> str:
    """Bytes as a part of a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _dictionary(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError
    return found


def try_one(target: Target, data: bytes) -> bool:
    """Give a reader some bytes. Returns whether it took them. Raises Found."""
    try:
        target.read(data)
    except InternalError as error:
        raise Found(f"{target.name}: {data!r} ends in an internal error") from error
    except target.refusals:
        return False
    except Found as error:
        raise Found(f"{target.name}: {data!r}: {error}") from error
    except RecursionError as error:
        raise Found(f"{target.name}: {data[:80]!r}.. ({len(data)} bytes) is too deep") from error
    except Exception as error:
        raise Found(f"{target.name}: {data!r} ends in {type(error).__name__}: {error}") from error
    return True


def mutate(chance: random.Random, text: bytes, other: bytes) -> bytes:
    """Cut, put in, repeat, exchange a few bytes, or join two texts."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(text))
        end = min(len(text), start + chance.choice((0, 0, 1, 1, 2, 5, 12)))
        way = chance.randrange(6)
        if way == 0:
            piece = chance.choice(SPLICES)
        elif way == 1:
            piece = chance.randbytes(chance.randint(1, 3))
        elif way == 2:
            piece = text[start:end] * chance.choice((2, 2, 40))
        elif way == 3:
            piece = other[chance.randint(0, len(other)) :][:20]
        elif way == 4 and end > start:
            piece = bytes([text[start] ^ 1 << chance.randrange(8)]) + text[start + 1 : end]
        else:
            piece = b""
        text = text[:start] + piece + text[end:]
    return text[:_MOST_BYTES]


def search(target: Target, seed: int, inputs: int) -> tuple[int, int]:
    """Try so many mutations of what was taken so far. Returns how many were tried, and how many taken."""
    chance, taken = random.Random(f"{seed} {target.name}"), 0
    corpus = list(target.seeds)
    for number in range(inputs):
        data = mutate(chance, chance.choice(corpus), chance.choice(corpus))
        if try_one(target, data):
            taken += 1
            if len(corpus) < 500 or number % 50 == 0:
                corpus[chance.randrange(len(corpus)) if len(corpus) >= 500 else len(corpus) :] = [data]
    return inputs, taken


def main(seconds: float, seed: int | None) -> int:
    """Try all readers for so long together. Prints what was done. Returns 1 when something was found."""
    seed = int(time.time()) if seed is None else seed
    every = targets()
    share = seconds / len(every)
    total, found = 0, 0
    print(f"seed {seed}, {share:.0f} s for each of {len(every)} readers")
    for target in every:
        tried = taken = 0
        ends = time.monotonic() + share
        try:
            while time.monotonic() < ends:
                done, took = search(target, seed + tried, 2000)
                tried, taken = tried + done, taken + took
        except Found as error:
            found += 1
            print(f"FOUND {str(error)[:2000]}")
        total += tried
        print(f"{target.name}: {tried:,} inputs, {taken:,} taken")
    print(f"{total:,} inputs; {found} found")
    return 1 if found else 0
