"""Bytes of requests into messages: checked before they are trusted."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TypeVar

import msgspec
from msgspec import Raw

from gateway.api.endpoint import Call
from gateway.errors import (
    BadJson,
    BadUtf8,
    EmptyBody,
    InvalidMember,
    Refusal,
    TooDeep,
    UnknownMember,
    UnsupportedMediaType,
)

MAX_DEPTH = 128
_NO_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`( - at `(.*)`)?", re.DOTALL)
_WHERE = re.compile(r"(.*) - at (?:`key` in )?`\$(.*?)`", re.DOTALL)
_REASON_CHARS = 300  # some reasons repeat the value
_MISSING = re.compile(r"Object missing required field `(.*)`")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MESSAGE = TypeVar("_MESSAGE")


async def read_message(call: Call, decoder: msgspec.json.Decoder[_MESSAGE], limit_bytes: int) -> _MESSAGE:
    """Read a request that is one JSON message and takes no query.

    Raises what `check_media_type`, `Call.query`, `Call.body`, `check_text` and `decode` do.
    """
    if call.scope["query_string"]:
        call.query()
    check_media_type(call.headers.get(b"content-type"))
    body = await call.body(limit_bytes)
    check_text(body)
    return decode(body, decoder)


def check_text(body: bytes) -> None:
    """Refuse what is no sane JSON text whatever it says: empty, not UTF-8, nested too deeply."""
    if not body or body.isspace():
        raise EmptyBody()
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise BadUtf8(error.start) from None
        if body.startswith(b"\xef\xbb\xbf"):
            raise BadJson("the body starts with a byte order mark; leave it out")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise TooDeep(MAX_DEPTH)


def decode(body: bytes, decoder: msgspec.json.Decoder[_MESSAGE], where: str = "") -> _MESSAGE:
    """Read a checked text as a message. where: what to call it in errors (an item of a batch).

    Raises BadJson, UnknownMember, InvalidMember.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error), where) from None
    except msgspec.DecodeError as error:
        raise BadJson(f"{where}{error}") from None
    except RecursionError:
        raise TooDeep(MAX_DEPTH) from None


def check_media_type(content_type: bytes | None, allowed: tuple[bytes, ...] = (b"application/json",)) -> bytes:
    """Refuse a body that is not JSON in UTF-8. Returns the media type."""
    if content_type is None:
        raise UnsupportedMediaType("say what the body is: Content-Type: application/json")
    media, _, rest = content_type.partition(b";")
    media = media.strip().lower()
    if media not in allowed:
        raise UnsupportedMediaType(f"send {' or '.join(one.decode() for one in allowed)}")
    for parameter in rest.split(b";"):
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"charset" and value.strip().strip(b'"').lower() not in (
            b"utf-8",
            b"utf8",
            b"us-ascii",
        ):
            raise UnsupportedMediaType("JSON is UTF-8")
    return media


def raw_bytes(raw: Raw) -> bytes:
    """The bytes of a JSON value as they were sent. Raises BadJson for half of a surrogate pair."""
    text = bytes(raw)
    if b"\\u" in text and _LONE_SURROGATE.search(text):
        try:
            msgspec.json.decode(text).__class__  # noqa: B018 - decoding is the check
        except msgspec.ValidationError:
            pass  # numbers that only we cannot hold are kept as they are
        except (msgspec.DecodeError, UnicodeError):
            raise BadJson("a \\u escape is half of a surrogate pair") from None
        except RecursionError:
            raise TooDeep(MAX_DEPTH) from None
    return text


def _depth(body: bytes) -> int:
    # Where a backslash stands outside of a string a reader ends, so it does not matter what is read behind it.
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes with nothing of interest between them change nothing for what is left: most strings are gone by that.
    quoted = body.translate(None, _NO_STRUCTURE).replace(b'""', b"")
    brackets = b"".join(quoted.split(b'"')[::2])
    deepest = 0
    for depth in accumulate(map(_STEP.__getitem__, brackets)):
        if depth > deepest:
            deepest = depth
            if depth > MAX_DEPTH:
                break
    return deepest


def _explain(message: str, where: str) -> Refusal:
    unknown = _UNKNOWN.fullmatch(message)
    if unknown is not None:
        inside = (unknown[3] or "$")[1:].lstrip(".")
        name = f"{inside}.{unknown[1]}" if inside else unknown[1]
        return UnknownMember((where + name)[:200])
    found = _WHERE.fullmatch(message)
    reason, member = (found[1], found[2].lstrip(".")) if found else (message, "")
    missing = _MISSING.fullmatch(reason)
    if missing:
        member, reason = f"{member}.{missing[1]}" if member else missing[1], "is required"
    return InvalidMember(where + member if member else where.rstrip("."), reason[:1].lower() + reason[1:_REASON_CHARS])
