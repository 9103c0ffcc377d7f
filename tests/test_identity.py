"""Who may do what: tokens, scopes, tenants, job types."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization

from gateway import jwts
from gateway.config import ConfigError
from tests.credentials import OTHER_SECRET, SECRET, admin, bearer, key_pair, key_set, token
from tests.harness import LiveGateway, live_gateway, wait_until


@pytest_asyncio.fixture
async def guarded(redis_url: str) -> AsyncIterator[LiveGateway]:
    """A gateway that takes HS256 tokens, with issuer and audience."""
    async with live_gateway(redis_url, jwt_secret=SECRET) as one:
        yield one


async def status(gateway: LiveGateway, headers: dict[str, str], method: str = "GET", path: str = "/tasks") -> int:
    return (await gateway.client.request(method, path, headers=headers)).status_code


async def test_every_route_but_probes_and_documents_asks_who_it_is(guarded: LiveGateway) -> None:
    for methods, path in guarded.app.table:
        for method in methods.split():
            target = path.replace("{id}", "demo~x").replace("{job_type}", "demo").replace("{name}", "style.css")
            for headers in ({}, bearer("nonsense"), bearer(token(OTHER_SECRET)), {"Authorization": "Basic YTpi"}):
                reply = await guarded.client.request(method, target.replace("{tenant}", "default"), headers=headers)
                if path.startswith(("/health", "/docs", "/openapi.json")):
                    assert reply.status_code == 200, (method, path)
                    continue
                assert reply.status_code == 401, (method, path, headers, reply.text)
                assert reply.headers["WWW-Authenticate"].startswith('Bearer realm="tasks-gateway"')
                if method != "HEAD":
                    expected = (
                        "invalid_token" if headers.get("Authorization", "").startswith("Bearer") else "unauthenticated"
                    )
                    assert reply.json()["code"] == expected


async def test_a_scope_opens_its_routes_and_no_other(guarded: LiveGateway) -> None:
    needs = {
        ("POST", "/tasks"): "tasks:write", ("GET", "/tasks"): "tasks:read", ("POST", "/poll"): "work",
        ("POST", "/outcomes"): "work", ("POST", "/tasks/delete"): "admin", ("POST", "/workers/w/drain"): "admin",
        ("GET", "/queues"): "tasks:read", ("DELETE", "/tasks/demo~x"): "tasks:write",
    }  # fmt: skip
    for (method, path), needed in needs.items():
        for scope in ("tasks:write", "tasks:read", "work", "admin", "tasks:write tasks:read work", ""):
            reply = await guarded.client.request(method, path, headers=bearer(token(scope=scope)))
            if needed in scope.split() or scope == "admin":
                assert reply.status_code not in (401, 403), (method, path, scope)
            else:
                assert reply.status_code == 403, (method, path, scope)
                assert reply.json()["code"] == "insufficient_scope"
                assert f'scope="{needed}"' in reply.headers["WWW-Authenticate"]


async def test_a_token_without_scopes_produces_and_works_but_does_not_administer(guarded: LiveGateway) -> None:
    plain = bearer(token())
    reply = await guarded.post("/tasks", {"job_type": "demo"}, headers=plain)
    assert reply.status_code == 201
    assert await status(guarded, plain, "POST", "/workers/w/drain") == 403


async def test_the_documented_scopes_are_those_of_the_routes(guarded: LiveGateway) -> None:
    paths = (await guarded.get("/openapi.json")).json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            target = path.replace("{id}", "demo~x").replace("{job_type}", "demo").replace("{tenant}", "default")
            reply = await guarded.client.request(
                method.upper(), target.replace("{name}", "style.css"), headers=bearer(token(scope=""))
            )
            if "security" in operation:
                (needed,) = operation["security"][0]["bearer"]
                assert f'scope="{needed}"' in reply.headers["WWW-Authenticate"], (method, path)
            else:
                assert reply.status_code == 200, (method, path)


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: Any, claims: Any, secret: str = SECRET) -> str:
    """A token of any header and claims, rightly signed by HS256."""
    text = f"{segment(header)}.{segment(claims)}"
    return f"{text}.{segment(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"


def bad_tokens() -> Iterator[tuple[str, str]]:
    soon = int(time.time()) + 300
    good, header = {"exp": soon}, {"alg": "HS256", "typ": "JWT"}
    whole = signed(header, good)
    yield "nothing", ""
    yield "two parts", ".".join(whole.split(".")[:2])
    yield "four parts", whole + ".x"
    yield "no signature", ".".join(whole.split(".")[:2]) + "."
    yield "a flipped bit", whole[:-2] + ("A" if whole[-2] != "A" else "B") + whole[-1]
    yield "tail bits that are not canonical", whole[:-1] + chr(ord(whole[-1]) + 1)
    yield "padding", whole + "="
    yield "a line break inside", whole[:20] + "\t" + whole[20:]
    for name in ("none", "None", "NONE", "nOnE"):
        yield f"alg {name}", f"{segment({'alg': name, 'typ': 'JWT'})}.{segment(good)}."
        yield f"alg {name}, signed", signed({"alg": name, "typ": "JWT"}, good)
    for name in ("HS384", "HS512", "RS256", "ES256", "EdDSA", "hs256", "", 5, None, ["HS256"], {"a": 1}):
        yield f"alg {name}", signed({"alg": name, "typ": "JWT"}, good)
    yield "no alg", signed({"typ": "JWT"}, good)
    for extra in ({"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"zip": "DEF"}, {"typ": "JWE"}, {"typ": 5}):
        yield f"header {extra}", signed({**header, **extra}, good)
    yield "a header that is a list", signed([header], good)
    yield "claims that are a list", signed(header, [good])
    yield "claims that are no JSON", signed(header, b"{")
    yield "deep claims", signed(header, b"[" * 3000 + b"]" * 3000)
    yield "a claim twice", signed(header, f'{{"exp": {soon}, "tenant": "a", "tenant": "b"}}'.encode())
    yield "a header twice", signed(b'{"alg": "none", "alg": "HS256"}', good)
    yield "claims not UTF-8", signed(header, b'{"exp": 1, "sub": "\xff"}')
    for moment in (None, "soon", str(soon), True, [], {}, -1, 2**60, 1e308, 0, soon - 1000):
        yield f"exp {moment}", signed(header, {"exp": moment})
    yield "no exp", signed(header, {"sub": "x"})
    yield "exp NaN", signed(header, b'{"exp": NaN}')
    yield "exp Infinity", signed(header, b'{"exp": Infinity}')
    yield "nbf ahead", signed(header, {**good, "nbf": soon})
    yield "nbf text", signed(header, {**good, "nbf": "0"})
    yield "iat ahead", signed(header, {**good, "iat": soon})
    for tenant in (5, ["a"], {"a": 1}, None, "", "*", "a:b", "a}b", "a{b", "../x", "a b", "ä", "a" * 65, "a\n"):
        yield f"tenant {tenant!r}", signed(header, {**good, "tenant": tenant})
    for scope in (5, True, {"admin": 1}, [["admin"]], [5]):
        yield f"scope {scope}", signed(header, {**good, "scope": scope})
    for job_types in ("demo", [], {}, [5], ["a b"], ["**"], ["*a"], 5):
        yield f"job_types {job_types}", signed(header, {**good, "job_types": job_types})
    yield "sub is a number", signed(header, {**good, "sub": 5})
    yield "an API key that is none", "tgw_" + "A" * 43
    yield "a long token", signed(header, {**good, "sub": "x" * 9000})


async def test_a_token_that_is_not_in_order_lets_nobody_in(guarded: LiveGateway) -> None:
    let_in = []
    for name, text in bad_tokens():
        reply = await guarded.client.get("/tasks", headers={"Authorization": f"Bearer {text}".strip()})
        if (reply.status_code, reply.json()["code"]) not in ((401, "invalid_token"), (401, "unauthenticated")):
            let_in.append((name, reply.status_code, reply.text))
    assert let_in == []


async def test_issuer_and_audience_are_compared_exactly(redis_url: str) -> None:
    async with live_gateway(
        redis_url, jwt_secret=SECRET, jwt_issuer="https://issuer.example", jwt_audience="tasks"
    ) as gateway:
        good = {"iss": "https://issuer.example", "aud": "tasks"}
        assert await status(gateway, bearer(token(**good))) == 200
        assert await status(gateway, bearer(token(**{**good, "aud": ["other", "tasks"]}))) == 200
        for wrong in (
            {"iss": None}, {"iss": "https://issuer.example/"}, {"iss": "https://issuer"}, {"iss": "https://ISSUER.example"},
            {"aud": None}, {"aud": "task"}, {"aud": "tasks2"}, {"aud": "Tasks"}, {"aud": []}, {"aud": {"tasks": 1}},
        ):  # fmt: skip
            assert await status(gateway, bearer(token(**{**good, **wrong}))) == 401, wrong


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_tokens_are_verified_by_a_key_set(redis_url: str, tmp_path: Path, algorithm: str) -> None:
    private, other = key_pair(algorithm), key_pair(algorithm)
    keys = tmp_path / "jwks.json"
    keys.write_bytes(key_set(one=private, two=key_pair("ES256")))
    async with live_gateway(redis_url, jwks_file=str(keys)) as gateway:
        assert await status(gateway, bearer(token(private, algorithm, "one"))) == 200
        assert await status(gateway, bearer(token(other, algorithm, "one"))) == 401
        assert await status(gateway, bearer(token(private, algorithm, "two"))) == 401
        assert await status(gateway, bearer(token(private, algorithm))) == 401
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # Key confusion: the public key, which everybody has, as an HMAC secret.
        confused = signed({"alg": "HS256", "typ": "JWT", "kid": "one"}, {"exp": time.time() + 300}, public.decode())
        assert await status(gateway, bearer(confused)) == 401


async def test_a_rotated_key_set_is_fetched_again_and_old_keys_serve_while_it_is_away(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwts, "_REFRESH_AT_MOST_EVERY_SECONDS", 0.0)
    first, second = key_pair("ES256"), key_pair("ES256")
    served = {"body": key_set(first=first), "asked": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served["asked"] += 1  # type: ignore[operator]
            body = served["body"]
            self.send_response(200 if body else 500)
            self.end_headers()
            self.wfile.write(body)  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/jwks.json"
        async with live_gateway(redis_url, jwks_url=url) as gateway:
            assert await status(gateway, bearer(token(first, "ES256", "first"))) == 200
            assert await status(gateway, bearer(token(second, "ES256", "second"))) == 401
            served["body"] = key_set(first=first, second=second)
            assert await status(gateway, bearer(token(second, "ES256", "second"))) == 200
            served["body"] = b""
            assert await status(gateway, bearer(token(first, "ES256", "first", sub="again"))) == 200
            asked = served["asked"]
            # No header of a token makes us fetch anything but the set that was configured.
            sneaky = {
                "alg": "ES256",
                "kid": "first",
                "jku": f"{url}?evil",
                "x5u": url,
                "jwk": {"kty": "oct", "k": "AA"},
            }
            assert await status(gateway, bearer(signed(sneaky, {"exp": time.time() + 300}))) == 401
            assert served["asked"] == asked
        server.shutdown()


async def test_where_no_key_can_be_had_nobody_is_let_in_and_told_to_come_back(redis_url: str) -> None:
    async with live_gateway(redis_url, jwks_url="http://127.0.0.1:9/jwks.json") as gateway:
        reply = await gateway.client.get("/tasks", headers=bearer(token(key_pair("ES256"), "ES256", "x")))
        assert (reply.status_code, reply.json()["code"]) == (503, "identity_unavailable")
        assert int(reply.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AA"}]}', b"[" * 9999]
)
def test_a_key_set_without_a_usable_key_refuses_to_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jwks.json").write_bytes(content)
    with pytest.raises(ConfigError, match="JWKS"):
        jwts.JwtVerifier(jwts.JwtRules(jwks_file=str(tmp_path / "jwks.json")))


async def test_a_token_in_the_query_or_a_cookie_is_none(guarded: LiveGateway) -> None:
    text = token()
    assert (await guarded.get(f"/tasks?access_token={text}")).status_code == 401
    assert await status(guarded, {"Cookie": f"access_token={text}"}) == 401


async def test_a_token_limited_to_job_types_touches_no_other_queue(guarded: LiveGateway) -> None:
    other = await guarded.post("/tasks", {"job_type": "secret.report"}, headers=admin())
    for name in ("mail.send", "mail.sort", "image"):
        await guarded.post("/tasks", {"job_type": name}, headers=admin())
    limited = bearer(token(job_types=["mail.*", "image"], scope="tasks:write tasks:read work"))
    assert (await guarded.post("/tasks", {"job_type": "mail.send"}, headers=limited)).status_code == 201
    refused = await guarded.post("/tasks", {"job_type": "secret.report"}, headers=limited)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden_job_type")
    batch = await guarded.post("/tasks", [{"job_type": "image"}, {"job_type": "images"}], headers=limited)
    assert [one["status"] for one in batch.json()["results"]] == [201, 403]
    listed = (await guarded.get("/tasks", headers=limited)).json()["tasks"]
    assert {task["job_type"] for task in listed} == {"mail.send", "mail.sort", "image"}
    names = {queue["job_type"] for queue in (await guarded.get("/queues", headers=limited)).json()["queues"]}
    assert names == {"mail.send", "mail.sort", "image"}
    for method, path in (
        ("GET", f"/tasks/{other.json()['id']}"), ("DELETE", f"/tasks/{other.json()['id']}"),
        ("GET", "/tasks?job_type=secret.report"), ("GET", "/queues/secret.report"),
        ("GET", "/poll?worker_id=w&task_type=secret.report&wait=0"),
        ("GET", "/poll?worker_id=w&task_type=image,secret.report&wait=0"),
    ):  # fmt: skip
        assert await status(guarded, limited, method, path) == 403, path
    wide = await guarded.post("/tasks/cancel", {"filter": {"status": "pending"}}, headers=limited)
    assert wide.json()["matched"] == 5
    assert (await guarded.get(f"/tasks/{other.json()['id']}", headers=admin())).json()["status"] == "pending"


async def test_a_stopped_clock_does_not_keep_an_ended_token_alive(guarded: LiveGateway) -> None:
    short = bearer(token(exp=int(time.time()) - 9))  # ends within the leeway of ten seconds
    assert await status(guarded, short) == 200
    await wait_until(lambda: status_is(guarded, short, 401), 5)


async def status_is(gateway: LiveGateway, headers: dict[str, str], expected: int) -> bool:
    return await status(gateway, headers) == expected


async def test_an_open_gateway_answers_to_no_name_that_a_page_could_have_rebound(redis_url: str) -> None:
    async with live_gateway(redis_url, allowed_hosts="Tasks.example, other.example") as gateway:
        port = gateway.port
        for host in (
            f"127.0.0.1:{port}",
            "localhost",
            f"gateway:{port}",
            f"[::1]:{port}",
            "tasks.example:80",
            "OTHER.example",
        ):
            assert await status(gateway, {"Host": host}) == 200, host
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1.evil.example",
            "tasks.example.evil",
            "a.b",
            "1.2.3",
        ):
            reply = await gateway.get("/tasks", headers={"Host": host})
            assert (reply.status_code, reply.json()["code"]) == (403, "forbidden_host"), host
            assert await status(gateway, {"Host": host}, path="/health/live") == 200


async def test_a_gateway_that_asks_for_tokens_answers_to_any_name(guarded: LiveGateway) -> None:
    assert await status(guarded, {"Host": "tasks.example", **bearer(token())}) == 200
