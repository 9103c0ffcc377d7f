"""Refusals and their statuses: one class is one cause, one code, one status; none is missing on either side."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import errors
from gateway.api import problems
from gateway.api.openapi import GUARD
from gateway.connection import Limits
from gateway.errors import Refusal
from tests.harness import live_gateway

# Something for each parameter that a refusal takes, by the name it has in all of them.
ARGUMENTS: dict[str, Any] = {
    "detail": "what was wrong",
    "offset": 7,
    "limit": 128,
    "limit_bytes": 1_048_576,
    "member": "payload",
    "parameter": "wait",
    "reason": "is no number",
    "problems": [],
    "allowed": "GET, POST",
    "task_id": "demo~1",
    "worker_id": "w1",
    "job_type": "demo",
    "status": "completed",
    "queue": "demo",
    "depth": 5,
    "scope": "tasks:write",
    "key_id": "9f2c61d0a4be",
    "policy": "requests",
    "limit_per_minute": 60,
    "retry_ms": 1500,
    "rule": "an id is a word",
    "quota": "max_pending",
    "used": 7,
    "asked": 2,
}
# What a load balancer and a client act on without reading: this request may succeed when it is sent again.
WORTH_REPEATING = {408, 429, 500, 503}
# Conflicts that pass by themselves: somebody else is at it this very moment.
PASSING_CONFLICTS = (errors.RequestRunning, errors.TaskChanged, errors.SettingsChanged)


def subclasses(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


REFUSALS = sorted(set(subclasses(Refusal)), key=lambda kind: kind.__name__)


def build(kind: type[Refusal]) -> Refusal:
    """Make a refusal the way the gateway would."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    names = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD and one.default is one.empty]
    return kind(*(ARGUMENTS[name] for name in names if name != "self"))


def test_every_refusal_has_a_status_and_every_status_a_refusal() -> None:
    assert set(REFUSALS) == set(problems.STATUS)


def test_no_refusal_hides_outside_of_the_one_module() -> None:
    assert {kind.__module__ for kind in REFUSALS} == {errors.__name__}


def test_one_code_has_one_cause() -> None:
    codes = [kind.code for kind in REFUSALS]
    assert len(set(codes)) == len(codes)
    titles = [kind.title for kind in REFUSALS]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.__name__)
class TestEachRefusal:
    def test_its_code_is_a_stable_word_and_its_title_a_phrase(self, kind: type[Refusal]) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", kind.code)
        assert re.fullmatch(r"[A-Z][^.]{5,70}", kind.title)

    def test_its_document_has_every_member_of_the_protocol(self, kind: type[Refusal]) -> None:
        refusal = build(kind)
        document = json.loads(problems.encode(refusal, "request-1"))
        status = problems.STATUS[kind]
        assert document["type"] == (kind.type_uri or problems.TYPE_PREFIX + kind.code)
        assert document["title"] == kind.title
        assert document["status"] == status == problems.status_of(refusal)
        assert document["code"] == kind.code
        assert document["request_id"] == "request-1"
        assert document["retryable"] is kind.retryable
        assert document["detail"] == refusal.detail == str(refusal)
        assert refusal.detail

    def test_its_own_members_take_no_name_of_the_protocol(self, kind: type[Refusal]) -> None:
        reserved = {"type", "title", "status", "detail", "code", "request_id", "retryable", "instance"}
        assert not reserved & set(build(kind).members)

    def test_it_is_retryable_exactly_where_the_status_says_so(self, kind: type[Refusal]) -> None:
        assert kind.retryable is (problems.STATUS[kind] in WORTH_REPEATING or kind in PASSING_CONFLICTS)

    def test_429_and_503_say_how_long_to_wait(self, kind: type[Refusal]) -> None:
        refusal = build(kind)
        headers = dict(problems.headers(refusal))
        if problems.STATUS[kind] in (429, 503) or kind in PASSING_CONFLICTS:
            assert refusal.retry_after_seconds is not None
            assert refusal.retry_after_seconds >= 1
            assert headers[b"retry-after"] == b"%d" % refusal.retry_after_seconds
        else:
            assert b"retry-after" not in headers

    def test_it_is_raised_with_a_way_on_and_never_with_a_traceback(self, kind: type[Refusal]) -> None:
        detail = build(kind).detail
        assert "Traceback" not in detail
        assert "\n" not in detail
        assert len(detail) < 300


def test_405_names_the_methods_it_would_take() -> None:
    refusal = errors.MethodNotAllowed("GET, HEAD, POST")
    assert (b"allow", b"GET, HEAD, POST") in problems.headers(refusal)
    assert problems.document(refusal, "x")["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(("status", "code"), [(status, code) for status, codes in GUARD.items() for code in codes])
def test_the_server_speaks_of_its_refusals_in_the_same_form(status: int, code: str) -> None:
    document = json.loads(problems.for_server(status, code, "what was wrong"))
    assert set(document) == {"type", "title", "status", "detail", "code", "request_id", "retryable"}
    assert document["type"] == problems.TYPE_PREFIX + code
    assert document["retryable"] is (status in WORTH_REPEATING)
    assert re.fullmatch(r"[A-Z][^.]{5,70}", document["title"])
    for kind in REFUSALS:
        if kind.code == code:
            assert (document["title"], document["status"]) == (kind.title, problems.STATUS[kind])


async def test_a_body_is_too_large_in_the_same_words_whoever_finds_it(redis_url: str) -> None:
    limits = Limits(body_bytes=2_000_000, told_body_bytes=1_048_576)
    async with live_gateway(redis_url, limits=limits) as gateway:
        found = []
        for size_bytes in (1_048_577, 2_000_001):
            reply = await gateway.client.post(
                "/tasks", content=b" " * size_bytes, headers={"Content-Type": "application/json"}
            )
            assert reply.status_code == 413
            document = reply.json()
            found.append([document[name] for name in ("type", "title", "code", "retryable", "limit")])
        assert found[0] == found[1]
