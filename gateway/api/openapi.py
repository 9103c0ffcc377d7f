"""Writes the OpenAPI 3.1 document: from a table of operations, the types of the wire, and the causes of refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from gateway import __version__, errors
from gateway.api import messages
from gateway.api.examples import problem
from gateway.api.problems import CODES, STATUS
from gateway.api.task_messages import TaskError
from gateway.errors import Refusal

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
Causes = tuple[type[Refusal], ...]
_Json = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    """What a request says outside its body. comma: a list, given as one value with commas."""

    name: str
    type: Any
    description: str
    where: Literal["query", "path", "header"] = "query"
    example: Any = None
    required: bool = False
    comma: bool = False


@dataclass(frozen=True)
class Body:
    """A body. type: what msgspec reads or writes (several: one of them), None for what is not JSON of ours."""

    type: Any
    examples: Mapping[str, Any]
    media: str = JSON


@dataclass(frozen=True)
class Answer:
    """A reply that is no refusal. headers: names out of `HEADERS`, besides X-Request-Id."""

    description: str
    bodies: tuple[Body, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One method of one path. id: its name in generated clients; scope: what its token
    must allow, '' for anybody; refusals: causes beyond those any request can have."""

    method: str
    path: str
    id: str
    tag: Literal["Producers", "Workers", "Operators"]
    scope: str
    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    bodies: tuple[Body, ...] = ()
    refusals: Causes = ()
    body_required: bool = True


HEADERS: dict[str, str] = {
    "X-Request-Id": "Yours, if it was sane; otherwise one of ours. The gateway's log has it too.",
    "Location": "Where the task can be read.",
    "Preference-Applied": "`wait=N`: the preference was understood; N is at most 55.",
    "ETag": "Changes with every change of the task.",
    "Link": 'The next page: `<..>; rel="next"`. Missing on the last one.',
    "X-Directive": "`run`; `drain`: finish what you hold and poll no more; `stop`: release what you hold and end.",
    "Idempotent-Replayed": "`true`: the request was made before with this Idempotency-Key; this is its first reply.",
    "WWW-Authenticate": "`Bearer`, and what was wrong with the token (RFC 6750).",
    "RateLimit": "What is left of a limit (draft-ietf-httpapi-ratelimit-headers).",
    "RateLimit-Policy": "The limits there are (as above).",
    "Retry-After": "Whole seconds to wait before the same request may succeed.",
    "Allow": "The methods that the address takes.",
}

# What the protocol guard refuses before there is a request to route.
GUARD: dict[int, tuple[str, ...]] = {
    400: ("bad_request",),
    408: ("request_timeout", "body_timeout"),
    413: ("body_too_large",),
    414: ("url_too_long",),
    431: ("headers_too_large",),
    501: ("unsupported_transfer_encoding", "method_not_supported"),
    503: ("shutting_down",),
}

TAGS = {
    "Producers": "Enqueue tasks, follow them, list them, change them, take them back.",
    "Workers": "Wait for tasks, keep their leases, report what became of them.",
    "Operators": "Probes, counts, metrics, and this document.",
}

GUIDE = """\
Producers `POST` tasks, workers in any language wait for them with one long `GET`, \
Redis keeps everything.

## The life of a task

A task is `scheduled` until it is due, then `pending`. A poll hands it to a worker: `processing`. The worker \
reports `completed`, or that it failed. A failed attempt is made again after a while (`retrying`) until \
`max_attempts` are used up: then the task is `failed`, and can be sent back with `retry`. `completed`, `failed` and \
`cancelled` are final; a final task stays readable for its retention.

- **Queues.** Every `job_type` is a queue of its own. Inside one, higher `priority` goes first, and the older first \
within one priority.
- **Leases.** A worker has a task for `lease_seconds`. Each heartbeat renews the lease. A worker that falls silent \
loses it: the attempt counts, and the task is handed to another.
- **Lease tokens.** Every report carries the `lease_token` of its attempt. A token that no longer holds the task is \
answered 409 `lease_lost` and changes nothing, so a worker that comes back late cannot overwrite another's result.
- **At least once.** A task may be worked on twice, by a worker that fell silent and by its successor. Exactly one \
outcome is accepted. Make what your task does safe to repeat.
- **Once, however often it is asked for.** An `Idempotency-Key` makes a `POST /tasks` safe to repeat for a day. A \
`unique_key` keeps a queue from holding the same work twice, whoever asks for it.

## A worker, with curl

```
JSON='Content-Type: application/json'
# 200: {"tasks":[{"id":..,"payload":..,"lease_token":..}]}. 204, and no body: nothing yet, poll again.
curl "$GATEWAY/poll?worker_id=w1&task_type=image_resize"
# While it works:
curl "$GATEWAY/tasks/$ID/heartbeat" -H "$JSON" -d '{"lease_token":"..."}'
# In the end, one of:
curl "$GATEWAY/tasks/$ID/complete" -H "$JSON" -d '{"lease_token":"...","result":42}'
curl "$GATEWAY/tasks/$ID/fail" -H "$JSON" -d '{"lease_token":"...","error":"disk full"}'
```

## Conventions

- JSON in UTF-8. Times are RFC 3339 in UTC; durations are seconds, fractions allowed.
- Payloads, results and progress are any JSON value and come back byte for byte.
- Unknown members of a request are refused; ignore unknown members of a reply.
- Errors are RFC 9457 problem documents. `code` is stable: one code, one cause. Where `retryable` is true, the same \
request may succeed later; 409, 429 and 503 say when in `Retry-After`.
- Every reply has `X-Request-Id`: yours, if you sent one.
- An address that is none is 404 `not_found`, a method it does not take 405 `method_not_allowed`. `HEAD` goes \
wherever `GET` goes, but for `/poll`.

## Other spellings

`/api/v1/jobs` is `/tasks`, with everything below it; its replies have `job_id` beside `id` and `completed_at` \
beside `finished_at`. `type` is `job_type` in requests. `GET /task?id=` is `GET /tasks/{id}`.
"""

_REF = "#/components/schemas/{name}"
# No pattern: any text is taken, and what is not sane replaced.
_REQUEST_ID = Parameter(
    "X-Request-Id",
    str,
    "Comes back in the reply, and stands in the gateway's log, if it is 1 to 128 letters, digits and . _ : / + = -",
    "header",
    "order-4711",
)
_EVERY: Causes = (errors.InvalidParameter, errors.ForbiddenOrigin, errors.InternalError)
# Whoever needs a token can be turned away at the door.
_LET_IN: Causes = (
    errors.Unauthenticated, errors.InvalidToken, errors.InsufficientScope, errors.ForbiddenHost,
    errors.ForbiddenForward, errors.RateLimited, errors.IdentityUnavailable, errors.StoreUnavailable,
)  # fmt: skip
_OF_QUEUE: Causes = (errors.InvalidId, errors.InvalidMember, errors.BadCursor)
# Refusals that are the same everywhere, and those without an operation.
_SHARED = {408: "Timeout", 414: "UrlTooLong", 431: "HeadersTooLarge", 500: "InternalError", 501: "NotImplemented"}
_ROUTELESS: dict[str, type[Refusal]] = {"NotFound": errors.RouteNotFound, "MethodNotAllowed": errors.MethodNotAllowed}
_REFUSED_WITH = {
    401: ("WWW-Authenticate",), 403: ("WWW-Authenticate",), 503: ("Retry-After",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
}  # fmt: skip
# msgspec sorts what a Literal lists.
_ORDER = {
    frozenset(names): names for names in map(get_args, (messages.Priority, messages.StatusName, messages.Directive))
}


def document(operations: Sequence[Operation]) -> _Json:
    """Describe the API. The document stands alone: every `$ref` is inside it."""
    schemas = _Schemas()
    for type in (messages.Problem, TaskError):
        schemas.of(type)
    schemas.named["Problem"]["examples"] = [
        problem("task_not_found", errors.TaskNotFound.title, 404, "no task has this id, or it is past its retention")
    ]
    paths: dict[str, _Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tasks-gateway",
            "version": __version__,
            "summary": "Background jobs over plain HTTP",
            "description": GUIDE,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.named,
            "parameters": {"RequestId": _parameter(_REQUEST_ID, schemas)},
            "headers": {
                name.replace("-", ""): {"description": about, "schema": {"type": "string"}}
                for name, about in HEADERS.items()
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT, or an API key (tgw_..)",
                    "description": "Needed where the gateway has keys for tokens. Each operation names the scope it "
                    "needs; `admin` has all.",
                }
            },
            "responses": {
                **{name: _refusal(status, _codes(status, _EVERY)) for status, name in _SHARED.items()},
                **{
                    name: _refusal(
                        STATUS[cause], {cause.code: cause.title}, *(["Allow"] if name.startswith("M") else [])
                    )
                    for name, cause in _ROUTELESS.items()
                },
            },
        },
    }


class _Schemas:
    """Schemas of types; those with a name are collected."""

    def __init__(self) -> None:
        self.named: dict[str, _Json] = {}

    def of(self, type: Any) -> _Json:
        (schema,), named = msgspec.json.schema_components((type,), ref_template=_REF)
        for name, one in named.items():
            if name not in self.named:
                self.named[name] = _tidy(one)
        tidied: _Json = _tidy(schema)
        return tidied


def _tidy(schema: Any) -> Any:
    """Spell patterns for every language, keep the order of names, leave out what says nothing."""
    if isinstance(schema, list):
        return [_tidy(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {}
    for name, value in schema.items():
        if (name == "default" and value is None) or (name == "required" and value == []):
            continue
        if name == "pattern" and isinstance(value, str):
            value = value.replace(r"\Z", "$")
        elif name == "enum" and isinstance(value, list):
            value = list(_ORDER.get(frozenset(value), value))
        elif name not in ("default", "examples"):
            value = _tidy(value)
        tidied[name] = value
    return tidied


def _operation(operation: Operation, schemas: _Schemas) -> _Json:
    parameters = [_parameter(one, schemas) for one in operation.parameters]
    written: _Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*parameters, {"$ref": "#/components/parameters/RequestId"}],
        "requestBody": {"required": operation.body_required, "content": _content(operation.bodies, schemas)},
        "responses": _responses(operation, schemas),
    }
    if operation.scope:
        written["security"] = [{"bearer": [operation.scope]}]
    if not operation.description:
        del written["description"]
    if not operation.bodies:
        del written["requestBody"]
    return written


def _parameter(parameter: Parameter, schemas: _Schemas) -> _Json:
    written: _Json = {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.description,
        "required": parameter.required,
        "schema": schemas.of(parameter.type),
    }
    if parameter.comma:
        written["explode"] = False
    if parameter.example is not None:
        written["example"] = parameter.example
    return written


def _content(bodies: Sequence[Body], schemas: _Schemas) -> _Json:
    return {
        body.media: {
            "schema": {"oneOf": [schemas.of(one) for one in body.type]}
            if isinstance(body.type, tuple)
            else schemas.of(body.type),
            "examples": {name: {"value": value} for name, value in body.examples.items()},
        }
        for body in bodies
    }


def _responses(operation: Operation, schemas: _Schemas) -> _Json:
    causes = (*_EVERY, *operation.refusals, *(_LET_IN if operation.scope else ()))
    if operation.scope and any(cause in causes for cause in _OF_QUEUE):
        causes += (errors.ForbiddenJobType,)
    refused = {*(STATUS[cause] for cause in causes), *GUARD}
    if not operation.bodies:
        refused.discard(413)
    responses: _Json = {}
    for status, answer in operation.answers.items():
        response: _Json = {"description": answer.description, "headers": _headers(*answer.headers)}
        if answer.bodies:
            response["content"] = _content(answer.bodies, schemas)
        responses[str(status)] = response
    for status in sorted(refused):
        if status in _SHARED:
            responses[str(status)] = {"$ref": f"#/components/responses/{_SHARED[status]}"}
            continue
        waits = any(STATUS[cause] == status and cause.retry_after_seconds for cause in causes)
        response = _refusal(status, _codes(status, causes), *(["Retry-After"] if waits and status == 409 else []))
        answered = responses.get(str(status))
        if answered is not None:
            response["description"] = f"{answered['description']}\n\n{response['description']}"
            response["content"] = {**answered["content"], **response["content"]}
        responses[str(status)] = response
    return responses


def _codes(status: int, causes: Causes) -> dict[str, str]:
    """The codes that a status may have, each with its title."""
    codes = {cause.code: cause.title for cause in causes if STATUS[cause] == status}
    return {**codes, **{code: CODES[code][0] for code in GUARD.get(status, ())}}


def _refusal(status: int, codes: dict[str, str], *headers: str) -> _Json:
    schema = {
        "$ref": _REF.format(name="Problem"),
        "properties": {"status": {"const": status}, "code": {"enum": list(codes)}},
    }
    return {
        "description": "\n".join(f"- `{code}`: {title}." for code, title in codes.items()),
        "headers": _headers(*headers, *_REFUSED_WITH.get(status, ())),
        "content": {PROBLEM_JSON: {"schema": schema}},
    }


def _headers(*names: str) -> _Json:
    return {name: {"$ref": f"#/components/headers/{name.replace('-', '')}"} for name in ("X-Request-Id", *names)}
