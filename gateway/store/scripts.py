"""Loads the Lua verbs: one file each, with the key names and the prelude in front."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import msgspec

from gateway.store.keys import Keys

VERBS = (
    "enqueue", "claim", "heartbeat", "complete", "fail", "release", "expire", "cancel", "retry",
    "patch", "delete", "purge", "configure", "settings", "read", "page", "stats", "leases", "watch", "ring",
)  # fmt: skip


# What belongs to no queue: without the queue's key names and the prelude.
BARE = ("limit", "alarms")


class Script(msgspec.Struct, frozen=True):
    """One verb as Redis knows it."""

    verb: str
    source: str
    sha: bytes


def load(keys: Keys) -> dict[str, Script]:
    """Assemble every verb's script for these keys."""
    folder = files("gateway.store") / "lua"
    start = keys.lua_header() + (folder / "prelude.lua").read_text()
    scripts = {}
    for verb in (*VERBS, *BARE):
        source = (start if verb in VERBS else "") + (folder / f"{verb}.lua").read_text()
        # Redis names a script by its SHA-1; nothing is secured by it.
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest().encode()
        scripts[verb] = Script(verb, source, sha)
    return scripts
