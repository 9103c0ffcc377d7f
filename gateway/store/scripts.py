"""Loads the Lua verbs: one file each, with what it uses of the key names and the prelude in front.

Redis runs the whole of a script with each call: to make functions and key names that the call does not use cost more
than most verbs do. So a verb gets only what it uses, and constants are written where they are used.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

import msgspec

from gateway.store.keys import Keys

VERBS = (
    "enqueue", "claim", "heartbeat", "complete", "fail", "release", "expire", "cancel", "retry",
    "patch", "delete", "purge", "configure", "settings", "read", "page", "stats", "leases", "watch", "ring",
)  # fmt: skip


# What belongs to no queue: without a queue's key names, and of what verbs share it may use the clock only.
BARE = ("limit", "alarms")

# What is shared begins on the first column; its other lines are indented, or end it.
_STATEMENTS = re.compile(r"^(?=local )", re.MULTILINE)
_DECLARES = re.compile(r"local (?:function (\w+)|([\w, ]+?) =\s|([\w, ]+)\n)")
_TEXT_OR_WORD = re.compile(r"'(?:[^'\\]|\\.)*'|\b[A-Za-z_]\w*")
_COMMENT = re.compile(r"('(?:[^'\\\n]|\\.)*')|[ \t]*--[^\n]*")
_BLANK_LINES = re.compile(r"\n\s*\n")
# Numbers, texts, and keys spelled from the queue's tag: what gives the same wherever it stands.
_CONSTANT = re.compile(r"[\d.^ ]+|true|false|(?:'[^']*'|OURS|TAG)(?: \.\. (?:'[^']*'|TAG))*")


class Script(msgspec.Struct, frozen=True):
    """One verb as Redis knows it."""

    verb: str
    source: str
    sha: bytes


class _Declaration(msgspec.Struct, frozen=True):
    """A statement that verbs share: what it declares, and every word that it says."""

    source: str
    names: frozenset[str]
    words: frozenset[str]


def load(keys: Keys) -> dict[str, Script]:
    """Assemble every verb's script for these keys."""
    folder = files("gateway.store") / "lua"
    shared, constants = _declarations(keys.lua_header() + (folder / "prelude.lua").read_text())
    of_none = [one for one in shared if "clock" in one.names]
    scripts = {}
    for verb in (*VERBS, *BARE):
        source = _without_comments((folder / f"{verb}.lua").read_text())
        if verb in VERBS:
            source = _with_constants(source, constants)
        source = _used(shared if verb in VERBS else of_none, source) + source
        # Redis names a script by its SHA-1; nothing is secured by it.
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest().encode()
        scripts[verb] = Script(verb, source, sha)
    return scripts


def _declarations(source: str) -> tuple[list[_Declaration], dict[str, str]]:
    """Cut what verbs share into its statements, in order, and its constants, by name."""
    found: list[_Declaration] = []
    constants: dict[str, str] = {}
    for statement in _STATEMENTS.split(_without_comments(source)):
        if not statement.strip():
            continue
        declares = _DECLARES.match(statement)
        assert declares is not None, statement
        names = [name.strip() for name in (declares[1] or declares[2] or declares[3]).split(",")]
        values = [value.strip() for value in statement[declares.end() :].split(",")]
        if declares[2] and names[0].isupper() and names != ["OURS"] and all(map(_CONSTANT.fullmatch, values)):
            constants.update(zip(names, values, strict=True))
            continue
        statement = _with_constants(statement, constants)
        found.append(_Declaration(statement, frozenset(names), _words(statement)))
    return found, constants


def _used(shared: list[_Declaration], verb: str) -> str:
    """What a verb uses, itself or by what it uses, in the order of the prelude."""
    words = set(_words(verb))
    used = []
    # A function knows only what stands above it.
    for one in reversed(shared):
        if one.names & words:
            words |= one.words
            used.append(one.source)
    return "".join(reversed(used))


def _words(source: str) -> frozenset[str]:
    return frozenset(word for word in _TEXT_OR_WORD.findall(source) if not word.startswith("'"))


def _without_comments(source: str) -> str:
    return _BLANK_LINES.sub("\n", _COMMENT.sub(lambda found: found[1] or "", source)).lstrip()


def _with_constants(source: str, constants: dict[str, str]) -> str:
    return _TEXT_OR_WORD.sub(lambda found: constants.get(found[0], found[0]), source)
