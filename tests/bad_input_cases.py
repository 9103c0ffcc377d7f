"""The table of bad input: every member of every request, every parameter, every route, and how each is answered.

In targets and bodies `<waiting>`, `<held>`, `<other>`, `<done>`, `<failed>`, `<cancelled>` stand for ids of tasks in
that state (`<other>` is held, too), `<token>`, `<other token>` and `<done token>` for lease tokens.
See test_bad_input.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

MIB = 1024 * 1024
JSON = ("Content-Type: application/json",)
NDJSON = ("Content-Type: application/x-ndjson",)
TASK_VERBS = ("heartbeat", "complete", "fail", "release")


class Case(NamedTuple):
    """One bad request. names: what `member` or `parameter` of the problem says, where there is one at fault."""

    name: str
    method: str
    target: str
    headers: tuple[str, ...]
    body: bytes | None
    status: int
    code: str
    names: str | None = None


def text(length: int) -> str:
    """A JSON string of that many characters."""
    return '"' + "a" * length + '"'


def _many(name: str, item: str) -> bytes:
    return f'{{"worker_id":"w1","{name}":[{",".join([item] * 1001)}]}}'.encode()


# ---- Members: route -> (members that are right, member -> JSON values that are refused). `a.b` is b inside of a.

NAMES = (
    '""', '" "', '"a b"', '"a/b"', '"demo\\n"', '"\\ndemo"', '"demo\\r\\nSET x y"', '".."', '".a"', '"-a"', '"{x}"',
    '"*"',
    '"démo"', '"d\u0435mo"', '"😀"', '"a\\u0000"', '"demo\\u2028"', text(129), "1", "true", "{}",
)  # fmt: skip
SECONDS = ("-1", "-0.001", "1e9", "1e400", "-1e400", '"5"', '""', "true", "[]", "{}")
LEASE = ("0", "0.5", "0.999", "43200.1", *SECONDS)
WAITS = ("55.1", "61", *SECONDS)
COUNTS = ("0", "-1", "1001", "1.5", "1e9", "1e400", "9223372036854775808", '"5"', "true", "[]", "{}")
NO_TEXT = ("1", "true", "[]", "{}")
NO_OBJECT = ("1", '"x"', "true", "[]")
TOKENS = ("null", '""', text(201), text(10_240), *NO_TEXT)
WORKER_IDS = (
    "null", '""', '" "', '"w 1"', '"w1\\n"', '"w1\\r\\nX-A: b"', '"<b>"', '"wörker"', '"*"', '".w"', text(129),
    text(4096),
    *NO_TEXT,
)  # fmt: skip
POLL_IDS = ('""', '"a b"', '"a\\n"', '"é"', text(129), *NO_TEXT)
TYPES = (
    *NAMES,
    '["demo","a b"]',
    '["demo\\n"]',
    '[""]',
    "[1]",
    "[null]",
    '[["demo"]]',
    "[" + ",".join(['"a"'] * 101) + "]",
)
LOGS = ('"line"', "1", "{}", "[1]", "[null]", f"[{text(8193)}]", "[" + ",".join(['"x"'] * 101) + "]")
NEXT = {
    "next": NO_OBJECT,
    "next.max": COUNTS,
    "next.wait": WAITS,
    "next.task_type": TYPES,
    "next.job_type": ('"a b"', '"demo\\n"', "1", '["demo","*"]'),
    "next.lease_seconds": LEASE,
    "next.poll_id": POLL_IDS,
}
ERRORS = {
    "error": ("1", "true", "[]", text(16_385)),
    "error.type": (text(257), *NO_TEXT),
    "error.message": (text(16_385), *NO_TEXT),
    "error.stack": (text(65_537), *NO_TEXT),
}
RUN_ATS = (
    '""', '"yesterday"', '"2030-01-31"', '"2030-01-31T08:00:00"', '"2030-01-31T08:00Z"', '"2030-01-31T08:00:60Z"',
    '"2016-12-31T23:59:60Z"', '"2030-01-31T24:00:00Z"', '"2030-02-31T08:00:00Z"', '"2029-02-29T08:00:00Z"',
    '"2030-13-01T08:00:00Z"', '"0000-01-01T00:00:00Z"', '"0001-01-01T00:00:00+23:59"', '"1969-12-31T23:59:59Z"',
    '"9999-12-31T23:59:59Z"', '"9999-12-31T23:59:59-23:59"', '"10000-01-01T00:00:00Z"', '"2030-01-31T08:00:00+25:00"',
    '"2030-01-31T08:00:00+01"', '"2030-01-31T08:00:00Z\\n"', '" 2030-01-31T08:00:00Z"', '"2030-01-31T08:00:00,5Z"',
    '"2030-01-31T08:00:00.Z"', '"\u0662\u0660\u0663\u0660-01-31T08:00:00Z"', '"1900000000"',
    '"-2030-01-31T08:00:00Z"',
    text(65), "1900000000", "1900000000000", "1900000000.5", "9223372036854775808", "true", "[]", "{}",
)  # fmt: skip

BULK = (
    {"filter": "{}"},
    {
        "filter": ("null", *NO_OBJECT),
        "filter.status": ('""', '"done"', '"Failed"', '"failed\\n"', '"failed,cancelled"', "1", "{}", "[]"),
        "filter.status[...]": ('["lost"]', '["failed",null]', "[1]"),
        "filter.job_type": NAMES,
        "filter.tags": ("1", '"a:b"', "[]", '{"":"x"}', '{"a:b":"x"}', '{"a\\n":"x"}'),
        "filter.tags[...]": ('{"a":1}', '{"a":null}', '{"a":"x\\n"}'),
        "filter.worker_id": tuple(value for value in WORKER_IDS if value != "null"),
        "filter.created_after": ('""', '"yesterday"', '"2030-01-31"', '"2030-02-31T08:00:00Z"', text(65), "1", "[]"),
        "filter.created_before": ('""', '"now"', '"2030-01-31T08:00:00"', '"2030-01-31T08:00:00Z\\n"', "1", "{}"),
        "dry_run": ('"true"', "1", "[]"),
    },
)

MOST = ("0", "-1", "1.5", "1000000001", "1e400", "9223372036854775808", '"5"', "true", "[]", "{}")
RATES = ("0", "-1", "1000001", "1e400", '"5"', "true", "[]", "{}")
SETTINGS = (
    {"max_pending": "5"},
    {
        "max_pending": MOST,
        "max_processing": MOST,
        "rate_per_second": RATES,
        "max_processing_per_key": MOST,
        "partitions": ("0", "-1", "1.5", "33", "1e400", '"5"', "true", "[]", "{}"),
        "paused": ('"true"', "1", "[]"),
        "defaults": NO_OBJECT,
        "defaults.max_attempts": COUNTS,
        "defaults.retry": NO_OBJECT,
        "defaults.lease_seconds": LEASE,
        "defaults.timeout_seconds": ("0", "2592001", *SECONDS),
        "defaults.retention_seconds": ("2592001", *SECONDS),
    },
)

MEMBERS: dict[str, tuple[dict[str, str], dict[str, tuple[str, ...]]]] = {
    "/tasks": (
        {"job_type": '"demo"'},
        {
            "job_type": (*NAMES, "[]"),
            "type": ('""', '"a b"', '"demo\\n"', text(129), "1"),
            "title": ('""', text(513), *NO_TEXT),
            "description": (text(16_385), *NO_TEXT),
            "priority": ('""', '"urgent"', '"Normal"', '"normal\\n"', '" normal"', "2", "true", "[]", text(10_000)),
            "delay_seconds": ("31622401", *SECONDS),
            "run_at": RUN_ATS,
            "max_attempts": COUNTS,
            "retry": NO_OBJECT,
            "retry.backoff": ('""', '"cubic"', '"Fixed"', '"fixed\\n"', "1", "[]", text(10_000)),
            "retry.base_seconds": ("86401", *SECONDS),
            "retry.factor": ("0", "0.5", "101", *SECONDS),
            "retry.max_seconds": ("31622401", *SECONDS),
            "retry.jitter": ('"true"', "1", "0.5", "[]"),
            "retry.delays_seconds": ("[]", "1", '"1"', "{}", "[" + ",".join(["1"] * 1001) + "]"),
            "retry.delays_seconds[...]": ("[-1]", "[1,31622401]", '["1"]', "[null]", "[true]", "[[1]]", "[1e400]"),
            "lease_seconds": LEASE,
            "timeout_seconds": ("0", "0.5", "2592001", *SECONDS),
            "expires_in_seconds": ("0", "31622401", *SECONDS),
            "retention_seconds": ("2592001", *SECONDS),
            "tags": (
                "1", '"a:b"', "true", "[]", '[["a","b"]]', "{" + ",".join(f'"t{n}":""' for n in range(17)) + "}",
                '{"":"x"}', '{"a:b":"x"}', '{"a\\n":"x"}', '{"\\u0000":"x"}', f'{{{text(65)}:"x"}}',
            ),
            "tags[...]": ('{"a":1}', '{"a":null}', '{"a":["b"]}', '{"a":"x\\n"}', '{"a":"\\u0000"}',
            f'{{"a":{text(257)}}}'),
            "unique_key": ('""', '"a\\n"', '"\\u0000"', '"a\\u007f"', text(256), *NO_TEXT),
            "unique_until": (
                '""', '"never"', '"Finished"', '"started\\n"', '"3600"', "0", "0.0001", "-1", "31622401", "1e400",
                "true", "[]", "{}",
            ),
            "on_conflict": ('""', '"ignore"', '"Return"', '"return\\n"', *NO_TEXT),
        },
    ),
    "PATCH /tasks/<waiting>": (
        {"priority": '"high"'},
        {
            "priority": ('""', '"urgent"', '"High"', "2", "[]"),
            "run_at": RUN_ATS,
            "delay_seconds": ("31622401", *SECONDS),
            "tags": ("1", "[]", '{"":"x"}', '{"a:b":"x"}', "{" + ",".join(f'"t{n}":""' for n in range(17)) + "}"),
            "tags[...]": ('{"a":1}', '{"a":null}', f'{{"a":{text(257)}}}'),
        },
    ),
    "/tasks/cancel": BULK,
    "/tasks/retry": BULK,
    "/tasks/delete": BULK,
    "/poll": (
        {"worker_id": '"w9"', "task_type": '"demo"', "wait": "0"},
        {
            "worker_id": WORKER_IDS,
            "task_type": ("[]", *TYPES),
            "job_type": ('"a b"', '"demo\\n"', '["*"]', "1"),
            "wait": WAITS,
            "max": COUNTS,
            "lease_seconds": LEASE,
            "poll_id": POLL_IDS,
        },
    ),
    "/tasks/<held>/heartbeat": (
        {"lease_token": '"<token>"'},
        {"lease_token": TOKENS, "lease_seconds": LEASE, "log": LOGS},
    ),
    "/tasks/<held>/complete": ({"lease_token": '"<token>"'}, {"lease_token": TOKENS, **NEXT}),
    "/tasks/<held>/fail": (
        {"lease_token": '"<token>"'},
        {
            "lease_token": TOKENS,
            **ERRORS,
            "retryable": ("1", '"true"', '"false"', "[]"),
            "retry_in_seconds": ("31622401", "1e12", *SECONDS),
            **NEXT,
        },
    ),
    "/tasks/<held>/release": (
        {"lease_token": '"<token>"'},
        {"lease_token": TOKENS, "delay_seconds": ("31622401", *SECONDS)},
    ),
    "/outcomes": (
        {"worker_id": '"w1"', "outcomes": '[{"id":"<held>","lease_token":"<token>","outcome":"complete"}]'},
        {"worker_id": WORKER_IDS, "outcomes": ("null", *NO_OBJECT[:-1], "{}"), **NEXT},
    ),
    "/heartbeats": (
        {"worker_id": '"w1"', "leases": '[{"id":"<held>","lease_token":"<token>"}]'},
        {"worker_id": WORKER_IDS, "leases": ("null", *NO_OBJECT[:-1], "{}")},
    ),
    "PUT /queues/demo": SETTINGS,
    "PATCH /queues/demo": SETTINGS,
    "/queues/demo/pause": (
        {"seconds": "60"},
        {"seconds": ("0", "31536001", *SECONDS), "until": RUN_ATS},
    ),
    "/queues/demo/redrive": (
        {"dry_run": "true"},
        {
            "rate_per_second": RATES,
            "dry_run": ('"true"', "1", "[]"),
            "filter": NO_OBJECT,
            "filter.status": ('""', '"done"', '"Failed"', "1", "[]"),
            "filter.job_type": (*NAMES, '"other"'),
            "filter.created_after": ('""', '"yesterday"', "1"),
        },
    ),
    "/keys": (
        {"name": '"ci"', "scopes": '["work"]'},
        {
            "name": ("null", '""', text(101), '"a\\n"', '"\\u0000"', '"a\\u007f"', *NO_TEXT),
            "scopes": (
                "null", "[]", '"work"', "{}", '["work","work","work","work","work"]', "1",
            ),
            "scopes[...]": ('["root"]', '["Admin"]', '["admin "]', '["*"]', "[1]", "[null]", '[""]', '[["work"]]'),
            "tenant": (
                '""', '" "', '"a b"', '"a/b"', '"a:b"', '"{x}"', '"*"', '"demo\\n"', '".a"', '"é"', text(65), *NO_TEXT,
            ),
            "job_types": ("[]", '"demo"', "{}", "[" + ",".join(['"a"'] * 101) + "]"),
            "job_types[...]": (
                '[""]', '["a b"]', '["**"]', '["*a"]', '["a*b"]', '["a\\n"]', "[1]", "[null]", f"[{text(130)}]",
            ),
            "expires_in_seconds": ("0", "0.5", "316224001", *SECONDS),
        },
    ),
    "PUT /tenants/acme": (
        {"max_pending": "5"},
        {
            "rate_limit_per_minute": MOST,
            "max_open_polls": MOST,
            "max_pending": MOST,
            "max_stored_bytes": ("0", "-1", "9007199254740993", "1.5", "1e400", '"5"', "true", "[]"),
            "max_batch": COUNTS,
            "max_queues": MOST,
        },
    ),
}  # fmt: skip
# Their bodies may be left out.
BODILESS = ("/queues/demo/pause", "/queues/demo/redrive")

# The same for the items of lists; a bad item refuses the request.
ITEMS: dict[tuple[str, str], tuple[dict[str, str], dict[str, tuple[str, ...]]]] = {
    ("/outcomes", "outcomes"): (
        {"id": '"<held>"', "lease_token": '"<token>"', "outcome": '"fail"'},
        {
            "id": ("null", '""', text(201), *NO_TEXT),
            "lease_token": TOKENS,
            "outcome": ("null", '""', '"done"', '"Complete"', '"complete\\n"', "1", "[]", text(10_000)),
            **ERRORS,
            "retryable": ("1", '"true"'),
            "retry_in_seconds": ("31622401", *SECONDS),
            "delay_seconds": ("31622401", *SECONDS),
        },
    ),
    ("/heartbeats", "leases"): (
        {"id": '"<held>"', "lease_token": '"<token>"'},
        {"id": ("null", '""', text(201), *NO_TEXT), "lease_token": TOKENS, "lease_seconds": LEASE, "log": LOGS},
    ),
}

# Members that belong to others, to later issues, or to nobody: refused, never accepted and ignored.
UNKNOWN: dict[str, tuple[str, ...]] = {
    "/tasks": (
        "tenant", "state", "status", "attempt", "attempts", "id", "job_id", "queue", "depends_on",
        "on_parent_failure",
        "callback_url", "callback_events", "workflow_id", "schedule_id", "unique", "idempotency_key",
        "result", "error", "progress", "worker_id", "lease_token", "created_at", "delay", "ttl", "retries", "retry.x",
        "retry.delay_seconds", "Job_Type", "JOB_TYPE", "job_type ", "jobType", "payload\u0000", "__proto__",
        "constructor", "$ref", "😀", "a`b", "k" * 199, "k" * 10_000,
    ),
    "PATCH /tasks/<waiting>": (
        "job_type", "title", "description", "max_attempts", "retry", "status", "unique_key", "id", "tenant", "result",
    ),
    "/tasks/cancel": ("tenant", "ids", "status", "limit", "filter.title", "filter.tenant", "filter.type", "filter.tag"),
    "/tasks/retry": ("tenant", "ids", "filter.limit", "filter.cursor"),
    "/tasks/delete": ("tenant", "ids", "filter.id", "filter.queue"),
    "/poll": ("tenant", "types", "type", "queue", "timeout", "worker", "count", "task_types"),
    "/tasks/<held>/heartbeat": ("token", "worker_id", "result", "status", "next", "tenant"),
    "/tasks/<held>/complete": ("token", "error", "status", "retryable", "tenant", "progress", "next.worker_id",
    "next.x"),
    "/tasks/<held>/fail": ("result", "retry_after", "retry_at", "status", "tenant", "error.code", "next.worker_id"),
    "/tasks/<held>/release": ("next", "error", "retryable", "run_at", "tenant"),
    "/outcomes": ("tenant", "reports", "next.worker_id"),
    "/heartbeats": ("tenant", "next", "lease_token", "tasks"),
    "PUT /queues/demo": ("tenant", "job_type", "limit", "pause", "version", "defaults.priority", "paused_until"),
    "PATCH /queues/demo": ("tenant", "version", "defaults.x"),
    "/queues/demo/pause": ("tenant", "paused", "for", "job_type"),
    "/queues/demo/redrive": ("tenant", "limit", "delay_seconds", "filter.id", "filter.tenant"),
    "/keys": ("id", "key", "secret", "hash", "scope", "expires_at", "created_at"),
    "PUT /tenants/acme": ("tenant", "name", "queues", "stored_bytes", "admin"),
}  # fmt: skip

# Required members left out.
MISSING = (
    ("/tasks", "{}", "job_type"),
    ("/tasks", '{"payload":1}', "job_type"),
    ("/tasks", '{"job_type":null,"type":null,"title":null}', "job_type"),
    *(
        (f"/tasks/{verb}", body, "filter")
        for verb in ("cancel", "retry", "delete")
        for body in ("{}", '{"dry_run":true}')
    ),
    ("/poll", '{"worker_id":"w9"}', "task_type"),
    ("/poll", '{"worker_id":"w9","task_type":null,"job_type":null}', "task_type"),
    ("/poll", '{"worker_id":"w9","task_type":[],"job_type":[]}', "task_type"),
    ("/poll", '{"task_type":"demo"}', "worker_id"),
    *((f"/tasks/<held>/{verb}", "{}", "lease_token") for verb in TASK_VERBS),
    ("/outcomes", '{"outcomes":[]}', "worker_id"),
    ("/outcomes", '{"worker_id":"w1"}', "outcomes"),
    ("/outcomes", '{"worker_id":"w1","outcomes":[{}]}', "outcomes[...].id"),
    ("/outcomes", '{"worker_id":"w1","outcomes":[{"id":"<held>","outcome":"fail"}]}', "outcomes[...].lease_token"),
    ("/outcomes", '{"worker_id":"w1","outcomes":[{"id":"<held>","lease_token":"<token>"}]}', "outcomes[...].outcome"),
    ("/heartbeats", '{"leases":[]}', "worker_id"),
    ("/heartbeats", '{"worker_id":"w1"}', "leases"),
    ("/heartbeats", '{"worker_id":"w1","leases":[{"id":"<held>"}]}', "leases[...].lease_token"),
    ("/heartbeats", '{"worker_id":"w1","leases":[{"lease_token":"<token>"}]}', "leases[...].id"),
    ("/keys", '{"name":"ci"}', "scopes"),
    ("/keys", '{"scopes":["work"]}', "name"),
)

# Members that do not go together.
TOGETHER = (
    ('{"job_type":"demo","type":"other"}', "type"),
    ('{"job_type":"demo","delay_seconds":5,"run_at":"2030-01-31T08:00:00Z"}', "run_at"),
    ('{"job_type":"demo","delay_seconds":0,"run_at":"2030-01-31T08:00:00Z"}', "run_at"),
    ('{"job_type":"demo","delay_seconds":10,"expires_in_seconds":5}', "expires_in_seconds"),
    ('{"job_type":"demo","delay_seconds":10,"expires_in_seconds":10}', "expires_in_seconds"),
    ('{"job_type":"demo","unique_until":"started"}', "unique_key"),
    ('{"job_type":"demo","unique_until":60}', "unique_key"),
    ('{"job_type":"demo","on_conflict":"replace","unique_key":null}', "unique_key"),
)

# ---- Texts that are no JSON of ours, whatever the request. `@` is a right body without its brackets.

DEEP = ("[" * 129 + "]" * 129, "[" * 1000 + "]" * 1000, "[" * 100_000 + "]" * 100_000, "[" * 100_000)
TEXTS: tuple[tuple[str, bytes, str], ...] = (
    ("no body", b"", "empty_body"),
    ("spaces only", b" \t\r\n ", "empty_body"),
    ("a byte order mark", b"\xef\xbb\xbf{@}", "bad_json"),
    ("UTF-16 with a mark", '{"job_type":"demo"}'.encode("utf-16"), "bad_utf8"),
    ("UTF-16 without a mark", '{"job_type":"demo"}'.encode("utf-16-le"), "bad_json"),
    ("UTF-32", '{"job_type":"demo"}'.encode("utf-32-be"), "bad_json"),
    ("gzip that is not declared", bytes.fromhex("1f8b0800000000000003"), "bad_utf8"),
    ("an open object", b"{", "bad_json"),
    ("an open string", b'{"a', "bad_json"),
    ("an open member", b"{@,", "bad_json"),
    ("a closing bracket too many", b"{@}}", "bad_json"),
    ("two values", b"{@}{@}", "bad_json"),
    ("two values on lines", b"{@}\n{@}", "bad_json"),
    ("a value and a NUL", b"{@}\x00", "bad_json"),
    ("a form", b"job_type=demo&payload=1", "bad_json"),
    ("XML", b"<job_type>demo</job_type>", "bad_json"),
    ("a comment before", b"/* x */ {@}", "bad_json"),
    ("a member without quotes", b'{job_type:"demo"}', "bad_json"),
    ("a member in single quotes", b"{'job_type':'demo'}", "bad_json"),
    ("a number as a member", b"{1:2}", "bad_json"),
    ("a trailing comma", b"{@,}", "bad_json"),
    ("a leading comma", b"{,@}", "bad_json"),
    ("no comma", b"{@ @}", "bad_json"),
    ("no colon", b'{"job_type" "demo"}', "bad_json"),
    ("a null", b"null", "invalid_member"),
    ("a number", b"1", "invalid_member"),
    ("a string", b'"demo"', "invalid_member"),
    ("a true", b"true", "invalid_member"),
    ("129 open brackets", b"[" * 129, "too_deep"),
    ("129 objects", b'{"a":' * 129 + b"1" + b"}" * 129, "too_deep"),
    ("1 MiB of brackets", b"[" * MIB, "too_deep"),
    ("1 MiB of escaped quotes, open", b"[" * 129 + b'"' + b'\\"' * 500_000, "too_deep"),
    ("1 MiB of quotes", b"[" * 129 + b'"",' * 300_000, "too_deep"),
    ("1 MiB of objects", b'{"a":' * (MIB // 5), "too_deep"),
)
# The same inside of a value that is kept as it came: nothing looks into it later.
KEPT_TEXTS: tuple[tuple[str, bytes, str], ...] = (
    ("FF", b'"\xff"', "bad_utf8"),
    ("an overlong NUL", b'"\xc0\x80"', "bad_utf8"),
    ("an overlong slash", b'"\xe0\x80\xaf"', "bad_utf8"),
    ("CESU", b'"\xed\xa0\xbd\xed\xb8\x80"', "bad_utf8"),
    ("a surrogate in UTF-8", b'"\xed\xa0\x80"', "bad_utf8"),
    ("beyond Unicode", b'"\xf4\x90\x80\x80"', "bad_utf8"),
    ("half a character", b'"\xe2\x82"', "bad_utf8"),
    ("Latin-1", b'"caf\xe9"', "bad_utf8"),
    ("half a pair", b'"\\ud800"', "bad_json"),
    ("the other half", b'"\\udc00"', "bad_json"),
    ("a reversed pair", b'"\\udc00\\ud800"', "bad_json"),
    ("half a pair and a letter", b'"\\ud800\\u0041 and more"', "bad_json"),
    ("half a pair in a key", b'{"\\uD83D":1}', "bad_json"),
    ("a raw line feed", b'"a\nb"', "bad_json"),
    ("a raw tab", b'"a\tb"', "bad_json"),
    ("a raw NUL", b'"a\x00b"', "bad_json"),
    ("a raw control character in a key", b'{"a\x1f":1}', "bad_json"),
    ("an escape of none", b'"\\q"', "bad_json"),
    ("an escape in hex", b'"\\x41"', "bad_json"),
    ("a short escape", b'"\\u12"', "bad_json"),
    ("an escape with a letter", b'"\\u12G4"', "bad_json"),
    ("an open string", b'"abc', "bad_json"),
    ("a trailing comma", b"[1,]", "bad_json"),
    ("a trailing comma in an object", b'{"a":1,}', "bad_json"),
    ("a line comment", b"[1 // one\n]", "bad_json"),
    ("a comment", b"[1 /* one */]", "bad_json"),
    ("single quotes", b"'a'", "bad_json"),
    ("NaN", b"NaN", "bad_json"),
    ("Infinity", b"Infinity", "bad_json"),
    ("-Infinity", b"[-Infinity]", "bad_json"),
    ("undefined", b"undefined", "bad_json"),
    ("True", b"True", "bad_json"),
    ("01", b"01", "bad_json"),
    ("-01", b"[-01]", "bad_json"),
    ("1.", b"1.", "bad_json"),
    (".5", b".5", "bad_json"),
    ("+1", b"+1", "bad_json"),
    ("1e", b"1e", "bad_json"),
    ("0x10", b"0x10", "bad_json"),
    ("1_000", b"1_000", "bad_json"),
    ("digits of another script", '["\u0661", \u0661]'.encode(), "bad_json"),
    ("a no-break space", b"\xc2\xa01", "bad_json"),
    ("a form feed", b"\x0c1", "bad_json"),
    *((f"{deep.count('[')} deep{'' if ']' in deep else ', open'}", deep.encode(), "too_deep") for deep in DEEP),
    ("129 deep behind a string of brackets", b'["]]]]",' + b"[" * 128 + b"]" * 129, "too_deep"),
    ("129 deep behind an escaped quote", b'["\\"",' + b"[" * 128 + b"]" * 129, "too_deep"),
)
# Where values are kept as they came: (target, text before, text behind).
KEPT = (
    ("/tasks", b'{"job_type":"demo","payload":', b"}"),
    ("/tasks", b'{"title":"x","payload":{"a":[', b"]}}"),
    ("PATCH /tasks/<waiting>", b'{"payload":', b"}"),
    ("/tasks/<held>/heartbeat", b'{"lease_token":"<token>","progress":', b"}"),
    ("/tasks/<held>/complete", b'{"lease_token":"<token>","result":', b"}"),
    ("/tasks/<held>/fail", b'{"lease_token":"<token>","error":{"details":', b"}}"),
)

MEDIA_TYPES: tuple[tuple[str, ...], ...] = (
    (), ("Content-Type:",), ("Content-Type: text/plain",), ("Content-Type: text/json",), ("Content-Type: */*",),
    ("Content-Type: application/x-www-form-urlencoded",), ("Content-Type: multipart/form-data; boundary=x",),
    ("Content-Type: application/xml",), ("Content-Type: application/octet-stream",), ("Content-Type: application",),
    ("Content-Type: application/jsonp",), ("Content-Type: application/json, text/plain",), ("Content-Type: json",),
    ("Content-Type: application/json; charset=utf-16",), ("Content-Type: application/json;charset=ISO-8859-1",),
    ('Content-Type: application/json; charset="utf-32"',), ("Content-Type: application/json; charset=",),
)  # fmt: skip
ENCODINGS = ("gzip", "br", "deflate", "zstd", "x-gzip", "GZIP", "identity, gzip", "nonsense")

# ---- Query parameters: route -> parameter -> values that are refused.

NUMBERS = (
    "",
    "a",
    "-1",
    "+1",
    "1e1",
    "1e9",
    "NaN",
    "nan",
    "inf",
    "Infinity",
    "0x1",
    "1_0",
    "%D9%A1",
    "1%00",
    "%201",
    "1%0A",
)
BAD_PERCENT = ("%", "%zz", "%a", "%ff", "%C0%80", "%ED%A0%80")
QUERIES: dict[str, dict[str, tuple[str, ...]]] = {
    "/tasks?": {
        "status": ("", "done", "PENDING", "pending,", ",pending", "pending%20pending", "blocked", "pending%0A", "%00"),
        "job_type": ("", "a%20b", "demo%0A", "*", "[a-z]*", "?", "%C3%A9", "a" * 129, "a%2Fb", "a,b"),
        "type": ("", "a%20b", "*"),
        "worker_id": ("", "a%20b", "w1%0A", "*", "%3Cb%3E", "a" * 129),
        "tag": ("", "a", ":b", "a%00"),
        "created_after": ("", "yesterday", "1900000000", "2030-01-31", "2030-02-31T00:00:00Z", "2030-01-31T08:00:60Z"),
        "created_before": ("", "now", "2030-01-31T08:00:00", "10000-01-01T00:00:00Z", "2030-01-31T08:00:00Z%0A"),
        "limit": ("0", "201", "1.5", "1000000000000", "9" * 5000, *NUMBERS),
    },
    "/tasks/<waiting>?": {"wait": ("55.1", "56", "1.", ".5", "1.2.3", "9" * 5000, *NUMBERS)},
    "/task?id=<waiting>&": {"wait": ("55.1", "60", *NUMBERS)},
    "/poll?task_type=demo&wait=0&": {
        "worker_id": ("", "%20", "w%201", "w1%0A", "w1%0D%0AX-A:b", "%3Cb%3E", "%C3%A9", "*", "a" * 129, "a" * 4096)
    },
    "/poll?worker_id=w9&wait=0&": {
        "task_type": ("", ",", "demo,", "a%20b", "demo%0A", "*", "a,,b", "%C3%A9", "a" * 129, ",".join(["a"] * 101)),
        "job_type": ("", "a%20b", "demo%0A", "a/b"),
    },
    "/poll?worker_id=w9&task_type=demo&": {"wait": ("55.1", "61", ".", "1.2.3", "ten", "9" * 400, *NUMBERS)},
    "/poll?worker_id=w9&task_type=demo&wait=0&": {
        "max": ("0", "1001", "1.5", "9" * 5000, *NUMBERS),
        "lease_seconds": ("0", "0.5", "43201", "9" * 400, *NUMBERS),
        "poll_id": ("", "a%20b", "a%0A", "%C3%A9", "a" * 129),
    },
}
# Every route that takes a query refuses what it does not know; (method, target, body).
ROUTES: tuple[tuple[str, str, str | None], ...] = (
    ("GET", "/tasks", None),
    ("GET", "/tasks/<waiting>", None),
    ("GET", "/task?id=<waiting>", None),
    ("DELETE", "/tasks/<waiting>", None),
    ("POST", "/tasks/<failed>/retry", None),
    ("POST", "/tasks", '{"job_type":"demo"}'),
    ("PATCH", "/tasks/<waiting>", '{"priority":"high"}'),
    *(("POST", f"/tasks/{verb}", '{"filter":{}}') for verb in ("cancel", "retry", "delete")),
    ("GET", "/poll?worker_id=w9&task_type=demo&wait=0", None),
    ("POST", "/poll", '{"worker_id":"w9","task_type":"demo","wait":0}'),
    *(("POST", f"/tasks/<held>/{verb}", '{"lease_token":"<token>"}') for verb in TASK_VERBS),
    ("POST", "/outcomes", '{"worker_id":"w1","outcomes":[]}'),
    ("POST", "/heartbeats", '{"worker_id":"w1","leases":[]}'),
    ("GET", "/workers", None),
    ("POST", "/workers/w1/drain", None),
    ("POST", "/workers/w1/stop", None),
    ("POST", "/workers/w1/run", None),
    ("DELETE", "/workers/w1", None),
    ("GET", "/queues", None),
    ("GET", "/queues/demo", None),
    ("GET", "/queues/demo/settings", None),
    ("PUT", "/queues/demo", '{"max_pending":5}'),
    ("PATCH", "/queues/demo", '{"max_pending":5}'),
    ("POST", "/queues/demo/pause", '{"seconds":60}'),
    ("POST", "/queues/demo/pause", None),
    ("POST", "/queues/demo/resume", None),
    ("POST", "/queues/demo/purge", None),
    ("POST", "/queues/demo/redrive", '{"dry_run":true}'),
    ("GET", "/keys", None),
    ("POST", "/keys", '{"name":"ci","scopes":["work"]}'),
    ("DELETE", "/keys/0123456789ab", None),
    ("GET", "/tenants", None),
    ("GET", "/tenants/acme", None),
    ("PUT", "/tenants/acme", '{"max_pending":5}'),
    ("GET", "/health", None),
    ("GET", "/health/live", None),
    ("GET", "/health/ready", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/docs", None),
    ("GET", "/docs/style.css", None),
)
TWICE = (
    ("/tasks?status=pending&status=failed", "status"),
    ("/tasks?limit=1&limit=1", "limit"),
    ("/tasks?job_type=demo&job_type=demo", "job_type"),
    ("/tasks?job_type=demo&type=other", "type"),
    ("/tasks?cursor=a&cursor=b", "cursor"),
    ("/tasks/<waiting>?wait=0&wait=1", "wait"),
    ("/task?id=<waiting>&id=<waiting>", "id"),
    ("/task", "id"),
    ("/task?wait=0", "id"),
    ("/poll?task_type=demo&worker_id=w9&worker_id=w9", "worker_id"),
    ("/poll?task_type=demo&worker_id=w9&wait=0&wait=1", "wait"),
    ("/poll?task_type=demo&worker_id=w9&max=1&max=2", "max"),
    ("/poll?task_type=demo&worker_id=w9&poll_id=a&poll_id=b", "poll_id"),
    ("/poll?task_type=demo&wait=0", "worker_id"),
    ("/poll?worker_id=w9&wait=0", "task_type"),
    ("/poll?worker_id=w9&wait=0&" + "&".join(["task_type=a"] * 101), "task_type"),
    ("/poll", "worker_id"),
)
CURSORS = (
    "a", "*", "%00", "%C3%A9", "....", "AAAA", "a" * 4000, "eyJhIjoxfQ", "MDAwMDAwMDAwMA", "MDAwMDAwMDAwMGE%3D",
    "MDAwMDAwMDAwMGF", "WzEsMl0", "MDAwMDAwMDAwMCBh", "-1", "0", "null", "MDAwMDAwMDAwMGE\u0020".replace(" ", "%20"),
)  # fmt: skip

# ---- Ids, paths, methods.

MALFORMED_IDS = (
    "%20", "a%20b", "a%00", "%00", "a%0A", "<waiting>%0A", "a%2Fb", "<waiting>%2F", "%C3%A9", "%ff", "%zz", "%", "*",
    "a%27%20OR%201=1", "{}", "%7B%7D", "a" * 201, "%3Cscript%3E", "demo~a%3Fb", "demo~~!", "a+b", "@evil", "..;",
)  # fmt: skip
UNKNOWN_IDS = (
    "demo~00000000000000000000000000", "demo", "demo~", "~", "~~", "demo~~", "demo~~a", "none~01j", "..", "-",
    "a" * 200,
    "demo~a~b", "demo~~YXJxOnF1ZXVl", "demo~~__4", "demo~~7aCA", "demo~~AA", "demo:x~1", "DEMO~1",
)  # fmt: skip
MALFORMED_TENANTS = ("%20", "a%20b", "a%0A", "%00", "%C3%A9", ".a", "*", "a" * 65, "%7Bx%7D", "a:b", "a%2Fb", "..")
MALFORMED_NAMES = ("%20", "a%20b", "a%0A", "%00", "%C3%A9", "%ff", ".a", "-a", "*", "a" * 129, "%7Bx%7D", "..", "a%5Cb")
NO_ROUTE = (
    ("GET", "/"), ("GET", "/nothing"), ("GET", "/tasks/"), ("POST", "/tasks/"), ("GET", "//tasks"), ("GET",
    "/tasks//"),
    ("GET", "/tasks/<waiting>/"), ("GET", "/tasks/<waiting>/x"), ("POST", "/tasks//complete"), ("GET", "/TASKS"),
    ("POST", "/tasks/<held>/complete/"), ("POST", "/tasks/<held>/Complete"), ("POST", "/tasks/<held>//complete"),
    ("GET", "/tasks/../health"), ("GET", "/tasks/%2e%2e/health"), ("GET", "/..;/health"), ("GET", "/./tasks"),
    ("GET", "/health%2Flive"), ("GET", "/tasks%2F<waiting>"), ("GET", "/tasks%00"), ("GET", "/%ff"), ("GET", "/%zz"),
    ("GET", "/%"), ("GET", "/tasks%3Flimit=1"), ("GET", "/tasks;a=b"), ("GET", "/poll/"), ("POST", "/poll/"),
    ("GET", "/health/"), ("GET", "/health/none"), ("GET", "/metrics/"), ("POST", "/workers/w1/kill"), ("GET",
    "/workers/"),
    ("POST", "/queues/demo/none"), ("GET", "/api/v1"), ("GET", "/api/v1/jobsx"), ("GET", "/api/v1/tasks"),
    ("GET", "/api/v1/jobs/"), ("GET", "/api/v2/jobs"), ("GET", "/static/../../etc/passwd"), ("GET", "/.env"),
    ("GET", "/\\evil"), ("GET", "//evil.example/tasks"), ("GET", "/@evil"), ("GET", "/favicon.ico"),
    ("GET", "/docs/"), ("GET", "/docs/none"), ("GET", "/docs/.."), ("GET", "/docs/..%2F..%2Fapp.py"), ("GET",
    "/docs/index.html"),
    ("GET", "/docs/..%5capp.py"), ("GET", "/docs/style.css%00"), ("GET", "/docs/%2e%2e%2fdocs.py"), ("GET",
    "/docs/style.css/x"),
    ("GET", "/api%2Fv1/jobs"), ("POST", "/api/v1%2Fjobs"), ("GET", "/api/v1/jobs%2F<waiting>"),
)  # fmt: skip
METHODS: dict[str, tuple[str, ...]] = {
    "/tasks": ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"),
    "/tasks/<waiting>": ("POST", "PUT", "OPTIONS", "TRACE"),
    **{f"/tasks/{verb}": ("GET", "HEAD", "PUT", "PATCH", "DELETE") for verb in ("cancel", "retry", "delete")},
    "/tasks/<waiting>/retry": ("GET", "HEAD", "PUT", "DELETE"),
    **{f"/tasks/<held>/{verb}": ("GET", "HEAD", "PUT", "PATCH", "DELETE") for verb in TASK_VERBS},
    # Percent-encoded slashes are part of the id, never another route.
    "/tasks/<held>%2Frelease": ("POST",),
    "/tasks/<failed>%2Fretry": ("POST",),
    "/task": ("POST", "DELETE"),
    "/poll": ("HEAD", "PUT", "DELETE"),
    "/poll?worker_id=w9&task_type=demo&wait=0": ("HEAD",),
    "/outcomes": ("GET", "HEAD", "PUT"),
    "/heartbeats": ("GET", "HEAD", "PUT"),
    "/workers": ("POST", "DELETE"),
    "/workers/w1/drain": ("GET", "HEAD", "DELETE"),
    "/workers/w1/stop": ("GET", "PUT"),
    "/workers/w1/run": ("GET", "PUT"),
    "/workers/w1": ("POST", "PUT"),
    "/queues": ("POST", "DELETE"),
    "/queues/demo": ("POST", "DELETE"),
    "/queues/demo/settings": ("POST", "PUT", "DELETE"),
    **{f"/queues/demo/{verb}": ("GET", "HEAD", "PUT") for verb in ("pause", "resume", "purge", "redrive")},
    "/keys": ("PUT", "DELETE", "PATCH"),
    "/keys/0123456789ab": ("GET", "HEAD", "POST", "PUT"),
    "/tenants": ("POST", "DELETE"),
    "/tenants/acme": ("POST", "DELETE", "PATCH"),
    "/health": ("POST", "PUT", "DELETE"),
    "/health/live": ("POST",),
    "/health/ready": ("POST",),
    "/metrics": ("POST",),
    "/openapi.json": ("POST",),
    "/docs": ("POST",),
    "/docs/style.css": ("POST", "DELETE"),
    "/api/v1/jobs": ("PUT", "DELETE"),
}

# ---- The right form at the wrong moment: (method, target, body, status, code).

MOMENTS: tuple[tuple[str, str, str | None, int, str], ...] = (
    ("DELETE", "/tasks/<done>", None, 409, "already_finished"),
    ("DELETE", "/tasks/<failed>", None, 409, "already_finished"),
    ("DELETE", "/tasks/<cancelled>", None, 409, "already_finished"),
    ("POST", "/tasks/<waiting>/retry", None, 409, "not_finished"),
    ("POST", "/tasks/<held>/retry", None, 409, "not_finished"),
    ("POST", "/tasks/<done>/retry", None, 409, "already_finished"),
    *(
        ("PATCH", f"/tasks/<{task}>", body, 409, code)
        for body in ("{}", '{"priority":"high"}', '{"delay_seconds":0}', '{"payload":1}')
        for task, code in (
            ("held", "already_started"), ("done", "already_finished"), ("failed", "already_finished"),
            ("cancelled", "already_finished"),
        )
    ),
    ("PATCH", "/tasks/<waiting>", '{"delay_seconds":1,"run_at":"2030-01-31T08:00:00Z"}', 400, "invalid_member"),
    *(
        ("POST", f"/tasks/<{task}>/{verb}", f'{{"lease_token":"{token}"}}', 409, "lease_lost")
        for verb in TASK_VERBS
        for task, token in (
            ("held", "x"), ("held", "é😀"), ("held", "<other token>"), ("held", "a" * 200), ("held", "<token> "),
            ("held", "*"), ("held", "\\u0000"), ("waiting", "<token>"), ("done", "<token>"), ("failed", "<token>"),
            ("cancelled", "<token>"),
        )
    ),
    ("POST", "/tasks/<done>/fail", '{"lease_token":"<done token>"}', 409, "lease_lost"),
    ("POST", "/tasks/<done>/release", '{"lease_token":"<done token>"}', 409, "lease_lost"),
    ("POST", "/tasks/<done>/heartbeat", '{"lease_token":"<done token>"}', 409, "lease_lost"),
    ("DELETE", "/workers/nobody", None, 404, "worker_not_found"),
    ("GET", "/queues/nothing", None, 404, "queue_not_found"),
    ("DELETE", "/keys/0123456789ab", None, 404, "key_not_found"),
    ("POST", "/queues/demo/pause", '{"seconds":1,"until":"2030-01-31T08:00:00Z"}', 400, "invalid_member"),
    ("POST", "/queues/demo/pause", '{"until":"2060-01-31T08:00:00Z"}', 400, "invalid_member"),
)  # fmt: skip

# ---- Idempotency keys that are none, and refused requests with one that is right: (headers, body, status, code).

ONE_KEY = "Idempotency-Key: one"
KEYS: tuple[tuple[tuple[str, ...], bytes, int, str], ...] = (
    *(
        ((f"Idempotency-Key: {key}",), b'{"job_type":"demo"}', 400, "invalid_parameter")
        for key in ("", " ", '""', "a" * 256, f'"{"a" * 256}"', "a\tb", "é", "😀")
    ),
    ((ONE_KEY, ONE_KEY), b'{"job_type":"demo"}', 400, "invalid_parameter"),
    ((ONE_KEY, "idempotency-key: two"), b'[{"job_type":"demo"}]', 400, "invalid_parameter"),
    ((ONE_KEY,), b'{"job_type":""}', 400, "invalid_member"),
    ((ONE_KEY,), b'{"job_type":"demo","idempotency_key":"one"}', 400, "unknown_member"),
    ((ONE_KEY,), b'{"job_type":"demo",}', 400, "bad_json"),
    ((ONE_KEY,), b"[]", 400, "invalid_member"),
)

# ---- Batches that are refused as a whole: (name, target, headers, body, status, code, names).

ONE = b'{"job_type":"demo"}'
BEAT = '{"id":"demo~1","lease_token":"x"}'
REPORT = '{"id":"demo~1","lease_token":"x","outcome":"fail"}'
BATCHES: tuple[tuple[str, str, tuple[str, ...], bytes, int, str, str | None], ...] = (
    ("no item", "/tasks", JSON, b"[]", 400, "invalid_member", None),
    ("no item and spaces", "/tasks", JSON, b" [ ] ", 400, "invalid_member", None),
    ("1,001 items", "/tasks", JSON, b"[%b]" % b",".join([ONE] * 1001), 413, "batch_too_large", None),
    ("500,000 items", "/tasks", JSON, b"[%b]" % b",".join([b"1"] * 500_000), 413, "batch_too_large", None),
    ("1,001 lines", "/tasks", NDJSON, (ONE + b"\n") * 1001, 413, "batch_too_large", None),
    ("a broken array", "/tasks", JSON, b"[%b,]" % ONE, 400, "bad_json", None),
    ("an open array", "/tasks", JSON, b"[%b" % ONE, 400, "bad_json", None),
    ("two arrays", "/tasks", JSON, b"[%b][]" % ONE, 400, "bad_json", None),
    ("an array with bad UTF-8", "/tasks", JSON, b'[%b,{"title":"\xff"}]' % ONE, 400, "bad_utf8", None),
    ("an array with half a pair", "/tasks", JSON, b'[{"title":"x","payload":"\\ud800"}]', 400, "bad_json", None),
    ("an array too deep", "/tasks", JSON, b'[{"payload":%b}]' % (b"[" * 127 + b"]" * 127), 400, "too_deep", None),
    ("no line", "/tasks", NDJSON, b"", 400, "invalid_member", None),
    ("empty lines", "/tasks", NDJSON, b"\n\n \r\n", 400, "invalid_member", None),
    ("atomic that is no flag", "/tasks?atomic=yes", JSON, b"[%b]" % ONE, 400, "invalid_parameter", "atomic"),
    ("atomic that is empty", "/tasks?atomic=", JSON, b"[%b]" % ONE, 400, "invalid_parameter", "atomic"),
    ("atomic twice", "/tasks?atomic=true&atomic=true", JSON, b"[%b]" % ONE, 400, "invalid_parameter", "atomic"),
    ("atomic with a bad item", "/tasks?atomic=true", JSON, b"[%b,{}]" % ONE, 422, "batch_refused", None),
    ("atomic with a broken line", "/tasks?atomic=true", NDJSON, ONE + b"\n{", 422, "batch_refused", None),
    ("1,001 outcomes", "/outcomes", JSON, _many("outcomes", REPORT), 400, "invalid_member", "outcomes"),
    ("1,001 heartbeats", "/heartbeats", JSON, _many("leases", BEAT), 400, "invalid_member", "leases"),
)

# Batches of which every item is refused for itself: (headers, body, (status, code, member) of each). Nothing is stored.
BAD_ITEMS: tuple[tuple[tuple[str, ...], bytes, tuple[tuple[int, str, str | None], ...]], ...] = (
    (
        JSON,
        b'[{},null,1,[],"x",{"job_type":""},{"job_type":"a","tenant":"b"},{"job_type":"a","retry":{"x":1}},'
        b'{"job_type":"a","lease_seconds":0}]',
        (
            (400, "invalid_member", "[0].job_type"),
            (400, "invalid_member", "[1]"),
            (400, "invalid_member", "[2]"),
            (400, "invalid_member", "[3]"),
            (400, "invalid_member", "[4]"),
            (400, "invalid_member", "[5].job_type"),
            (400, "unknown_member", "[6].tenant"),
            (400, "unknown_member", "[7].retry.x"),
            (400, "invalid_member", "[8].lease_seconds"),
        ),
    ),
    (
        NDJSON,
        b'{"job_type":"a",}\r\n\r\n{"job_type":"a"} {"job_type":"b"}\n[{"job_type":"a"}]\n'
        b'{"job_type":"a","payload":\n1}\n'
        b'{"job_type":"a","payload":"\xff"}\n{"job_type":"a","payload":' + b"[" * 128 + b"]" * 128 + b"}",
        (
            (400, "bad_json", None),
            (400, "bad_json", None),
            (400, "invalid_member", "[2]"),
            (400, "bad_json", None),
            (400, "invalid_member", "[4]"),
            (400, "bad_utf8", None),
            (400, "too_deep", None),
        ),
    ),
    (
        JSON,
        b'[{"job_type":"a","type":"b"},{"job_type":"a","delay_seconds":1,"run_at":"2030-01-31T08:00:00Z"},'
        b'{"job_type":"a","tags":{"":""}},{"job_type":"a","retry":{"delays_seconds":[1,-1]}}]',
        (
            (400, "invalid_member", "[0].type"),
            (400, "invalid_member", "[1].run_at"),
            (400, "invalid_member", "[2].tags"),
            (400, "invalid_member", "[3].retry.delays_seconds[1]"),
        ),
    ),
)

# Reports of a batch that are refused for themselves: (list, item, status, code, member). Nothing is changed.
BAD_REPORTS: tuple[tuple[str, str, int, str, str | None], ...] = (
    *(
        ("outcomes", f'"id":"<held>","lease_token":"<token>","outcome":{report}', 400, "invalid_member", member)
        for report, member in (
            ('"complete","error":"x"', "error"),
            ('"complete","retryable":false', "retryable"),
            ('"complete","retryable":true', "retryable"),
            ('"complete","retry_in_seconds":0', "retry_in_seconds"),
            ('"complete","delay_seconds":0', "delay_seconds"),
            ('"fail","result":1', "result"),
            ('"fail","result":null', "result"),
            ('"fail","delay_seconds":1', "delay_seconds"),
            ('"release","result":1', "result"),
            ('"release","error":{}', "error"),
            ('"release","retryable":true', "retryable"),
            ('"release","retry_in_seconds":1', "retry_in_seconds"),
        )
    ),
    ("outcomes", '"id":"<held>","lease_token":"x","outcome":"complete"', 409, "lease_lost", None),
    ("outcomes", '"id":"<held>","lease_token":"<other token>","outcome":"fail"', 409, "lease_lost", None),
    ("outcomes", '"id":"<waiting>","lease_token":"<token>","outcome":"fail"', 409, "lease_lost", None),
    ("outcomes", '"id":"a b","lease_token":"x","outcome":"fail"', 400, "invalid_id", None),
    ("outcomes", '"id":"demo~1\\n","lease_token":"x","outcome":"fail"', 400, "invalid_id", None),
    ("outcomes", '"id":"demo~1","lease_token":"x","outcome":"release"', 404, "task_not_found", None),
    ("outcomes", '"id":"demo","lease_token":"x","outcome":"release"', 404, "task_not_found", None),
    ("leases", '"id":"<held>","lease_token":"x"', 409, "lease_lost", None),
    ("leases", '"id":"<held>","lease_token":"<other token>","progress":1,"log":["x"]', 409, "lease_lost", None),
    ("leases", '"id":"<waiting>","lease_token":"<token>"', 409, "lease_lost", None),
    ("leases", '"id":"a b","lease_token":"x"', 400, "invalid_id", None),
    ("leases", '"id":"demo~1","lease_token":"x"', 404, "task_not_found", None),
)


def cases() -> list[Case]:
    """The whole table, one row for each bad request."""
    return [
        *_members(), *_items(), *_unknown(), *_texts(), *_media(), *_sizes(), *_queries(), *_ids(), *_paths(),
        *_moments(), *_keys(),
        *_batches(),
    ]  # fmt: skip


def _split(target: str) -> tuple[str, str]:
    """The method and the path of a target of the tables, where a method may stand in front."""
    method, _, path = target.rpartition(" ")
    return method or "POST", path


def _post(target: str, what: str, body: str | bytes, code: str, names: str | None = None, status: int = 400) -> Case:
    data = body.encode() if isinstance(body, str) else body
    method, path = _split(target)
    return Case(f"{method} {path}: {what[:70]}", method, path, JSON, data, status, code, names)


def _object(members: Mapping[str, str], member: str = "", value: str = "") -> str:
    """Spell an object with one more member, or another value for one it has."""
    if member:
        outer, _, inner = member.removesuffix("[...]").partition(".")
        members = {**members, outer: f'{{"{inner}":{value}}}' if inner else value}
    return "{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}"


def _blamed(member: str, value: str) -> str:
    """What a problem calls a member: for a list that is at fault in an entry, `member[...]`."""
    inside = member.rpartition(".")[2] in ("task_type", "job_type", "log") and value.startswith("[")
    too_long = value.count(",") > 99
    return f"{member}[...]" if inside and value != "[]" and not too_long else member


def _members() -> Iterator[Case]:
    for target, (right, members) in MEMBERS.items():
        for member, values in members.items():
            for value in values:
                body = _object(right, member, value)
                yield _post(target, f"{member} = {value}", body, "invalid_member", _blamed(member, value))
    for target, body, names in MISSING:
        yield _post(target, f"{names} is missing in {body}", body, "invalid_member", names)
    for body, names in TOGETHER:
        yield _post("/tasks", body, body, "invalid_member", names)


def _items() -> Iterator[Case]:
    for (target, name), (right, members) in ITEMS.items():
        for member, values in members.items():
            for value in values:
                body = _object({"worker_id": '"w1"', name: f"[{_object(right, member, value)}]"})
                blamed = f"{name}[...].{_blamed(member, value)}"
                yield _post(target, f"an item's {member} = {value}", body, "invalid_member", blamed)
        for wrong in ("1", "null", '"x"', "[]"):
            body = _object({"worker_id": '"w1"', name: f"[{wrong}]"})
            yield _post(target, f"an item is {wrong}", body, "invalid_member", f"{name}[...]")
        for member in ("tenant", "token", "status"):
            body = _object({"worker_id": '"w1"', name: f"[{_object(right, member, '1')}]"})
            yield _post(target, f"an item's unknown {member}", body, "unknown_member", f"{name}[...].{member}")


def _unknown() -> Iterator[Case]:
    for target, members in UNKNOWN.items():
        for member in members:
            spelled = member.replace("\u0000", "\\u0000")
            body = _object(MEMBERS[target][0], spelled, "null")
            yield _post(target, f"unknown member {member!r}", body, "unknown_member", member[:200])


def _texts() -> Iterator[Case]:
    for target, (right, _) in MEMBERS.items():
        for name, body, code in TEXTS:
            if target in BODILESS and not body:
                continue
            yield _post(target, name, body.replace(b"@", _object(right)[1:-1].encode()), code)
        if target != "/tasks":
            yield _post(target, "an array", b"[]", "invalid_member")
    yield Case("POST /tasks: no body at all", "POST", "/tasks", JSON, None, 400, "empty_body")
    for target, before, behind in KEPT:
        for name, value, code in KEPT_TEXTS:
            where = before.decode().rpartition('"')[0].rpartition('"')[2]
            yield _post(target, f"{where} with {name}", before + value + behind, code)
    for name, value, code in KEPT_TEXTS:
        body = (
            b'{"worker_id":"w1","outcomes":[{"id":"<held>","lease_token":"x","outcome":"complete","result":'
            + value
            + b"}]}"
        )
        # Half a surrogate pair is found in an item; everything else makes the whole text no JSON.
        if "half a pair" not in name and "pair" not in name and name != "the other half":
            yield _post("/outcomes", f"a result with {name}", body, code)


def _media() -> Iterator[Case]:
    for target, (right, _) in MEMBERS.items():
        body = _object(right).encode()
        method, path = _split(target)
        for headers in MEDIA_TYPES:
            name = f"{method} {path} with {headers[0] if headers else 'no Content-Type'}"
            yield Case(name, method, path, headers, body, 415, "unsupported_media_type")
        for encoding in ENCODINGS:
            headers = (*JSON, f"Content-Encoding: {encoding}")
            yield Case(f"{method} {path} in {encoding}", method, path, headers, body, 415, "unsupported_encoding")
        if target != "/tasks":
            yield Case(f"{method} {path} as NDJSON", method, path, NDJSON, body, 415, "unsupported_media_type")


def _sizes() -> Iterator[Case]:
    for target, (right, _) in MEMBERS.items():
        body = _object(right).encode()
        for size in (MIB + 1, 2 * MIB):
            yield _post(target, f"{size} bytes", body + b" " * (size - len(body)), "body_too_large", status=413)
    for target, before, behind in KEPT:
        yield _post(
            target, "a string of 1 MiB", before + b'"' + b"a" * MIB + b'"' + behind, "body_too_large", status=413
        )
        keys = b"{" + b",".join(b'"%d":1' % number for number in range(120_000)) + b"}"
        yield _post(target, "120,000 keys", before + keys + behind, "body_too_large", status=413)


def _get(target: str, code: str, names: str | None = None, status: int = 400) -> Case:
    return Case(f"GET {target[:80]}", "GET", target, (), None, status, code, names)


def _queries() -> Iterator[Case]:
    for start, parameters in QUERIES.items():
        for name, values in parameters.items():
            for value in values:
                yield _get(f"{start}{name}={value}", "invalid_parameter", name)
            for value in BAD_PERCENT:
                yield _get(f"{start}{name}={value}", "invalid_parameter", "query")
    for method, target, body in ROUTES:
        mark = "&" if "?" in target else "?"
        data, headers = (body.encode(), JSON) if body else (None, ())
        for query, names in (
            ("tenant=other", "tenant"), ("x", "x"), ("=", ""), ("Wait=1", "Wait"), ("api_key=secret", "api_key"),
            ("%ff=1", "query"), ("%zz", "query"),
        ):  # fmt: skip
            name = f"{method} {target}{mark}{query}"
            yield Case(name, method, f"{target}{mark}{query}", headers, data, 400, "invalid_parameter", names)
    yield _get("/tasks?" + "&".join(["tag=a:b"] * 401), "invalid_parameter", "query")
    for target, names in TWICE:
        yield _get(target, "invalid_parameter", names)
    for cursor in CURSORS:
        yield _get(f"/tasks?cursor={cursor}", "bad_cursor")
    for cursor in BAD_PERCENT:
        yield _get(f"/tasks?cursor={cursor}", "invalid_parameter", "query")


def _ids() -> Iterator[Case]:
    routes: list[tuple[str, str, bytes | None]] = [("GET", "", None), ("DELETE", "", None), ("POST", "/retry", None)]
    routes += [("POST", f"/{verb}", b'{"lease_token":"x"}') for verb in TASK_VERBS]
    routes += [("PATCH", "", b'{"priority":"high"}')]
    for method, verb, body in routes:
        headers = JSON if body else ()
        for id in MALFORMED_IDS:
            name = f"{method} /tasks/{id[:60]}{verb}"
            yield Case(name, method, f"/tasks/{id}{verb}", headers, body, 400, "invalid_id")
        for id in UNKNOWN_IDS:
            name = f"{method} /tasks/{id[:60]}{verb} of nobody"
            yield Case(name, method, f"/tasks/{id}{verb}", headers, body, 404, "task_not_found")
    for id in ("", "a%20b", "%00", "a" * 201, "a%2Fb", "%C3%A9"):
        yield _get(f"/task?id={id}", "invalid_id")
    for id in ("demo~1", "demo", "..", "a" * 200):
        yield _get(f"/task?id={id}", "task_not_found", status=404)
    for name in MALFORMED_NAMES:
        yield _get(f"/queues/{name}", "invalid_id")
        for method, verb in (
            ("GET", "settings"),
            *(("POST", verb) for verb in ("resume", "purge", "pause", "redrive")),
        ):
            yield Case(
                f"{method} /queues/{name[:60]}/{verb}", method, f"/queues/{name}/{verb}", (), None, 400, "invalid_id"
            )
        for method in ("PUT", "PATCH"):
            yield Case(f"{method} /queues/{name[:60]}", method, f"/queues/{name}", JSON, b"{}", 400, "invalid_id")
        for verb in ("drain", "stop", "run"):
            yield Case(
                f"POST /workers/{name[:60]}/{verb}", "POST", f"/workers/{name}/{verb}", (), None, 400, "invalid_id"
            )
        yield Case(f"DELETE /workers/{name[:60]}", "DELETE", f"/workers/{name}", (), None, 400, "invalid_id")
    for id in MALFORMED_IDS:
        yield Case(f"DELETE /keys/{id[:60]}", "DELETE", f"/keys/{id}", (), None, 400, "invalid_id")
    for name in MALFORMED_TENANTS:
        yield _get(f"/tenants/{name}", "invalid_id")
        yield Case(f"PUT /tenants/{name[:60]}", "PUT", f"/tenants/{name}", JSON, b"{}", 400, "invalid_id")
    for id in UNKNOWN_IDS[:3]:
        yield _get(f"/api/v1/jobs/{id}", "task_not_found", status=404)


def _paths() -> Iterator[Case]:
    for method, target in NO_ROUTE:
        yield Case(f"{method} {target}", method, target, (), None, 404, "not_found")
    for target, methods in METHODS.items():
        for method in methods:
            yield Case(f"{method} {target}", method, target, (), None, 405, "method_not_allowed")


def _moments() -> Iterator[Case]:
    for method, target, body, status, code in MOMENTS:
        data, headers = (body.encode(), JSON) if body else (None, ())
        yield Case(f"{method} {target} {body or ''}"[:110], method, target, headers, data, status, code)


def _keys() -> Iterator[Case]:
    for headers, body, status, code in KEYS:
        names = "Idempotency-Key" if code == "invalid_parameter" else None
        name = f"POST /tasks with {' and '.join(headers)[:60]}: {body.decode()}"
        yield Case(name, "POST", "/tasks", (*JSON, *headers), body, status, code, names)
    atomic = b'[{"job_type":"demo"},{}]'
    name = "an atomic batch under a key"
    yield Case(name, "POST", "/tasks?atomic=true", (*JSON, ONE_KEY), atomic, 422, "batch_refused")


def _batches() -> Iterator[Case]:
    for name, target, headers, body, status, code, names in BATCHES:
        yield Case(f"batch: {name}", "POST", target, headers, body, status, code, names)


def unique_names(rows: Iterable[Case]) -> list[str]:
    """A name for each row; a number tells apart what is cut to the same words."""
    seen: dict[str, int] = {}
    names = []
    for row in rows:
        seen[row.name] = seen.get(row.name, 0) + 1
        names.append(row.name if seen[row.name] == 1 else f"{row.name} ({seen[row.name]})")
    return names
