"""Calls of the scripts that set, empty and watch queues, and of those for limits and alarms, which are no queue's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.store.batching import Argument
from gateway.store.calls import Granted, StaleSettings
from gateway.store.script_call import ScriptCall


class PurgeCall(ScriptCall):
    name = "purge"
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), *items[0]]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [(reply[2], reply[3], bool(reply[4]))]


class ConfigureCall(ScriptCall):
    name = "configure"
    repeat = False
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        (_, version, pause, fields), *_ = items
        given: list[Argument] = [b""]
        if fields is not None:
            given = [len(fields)]
            for name, value in fields.items():
                given += (name, value)
        return [*self.start(), self.store.gateway, version, pause, *given]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        queue = items[0][0]
        if reply[0] == b"changed":
            return [StaleSettings(reply[3])]
        self.hear(reply, queue, reply[2])
        if reply[4]:
            self.store.listener.alarm(queue, reply[4])
        return [reply[5]]


class SettingsCall(ScriptCall):
    name = "settings"
    promises = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        return self.start()

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [dict(zip(reply[2::2], reply[3::2], strict=True))] * len(items)


class WatchCall(ScriptCall):
    name = "watch"
    promises = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        longest = max(item[1] for item in items)
        return [*self.start(), self.store.gateway, longest, len(items), *(item[0] for item in items)]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        return list(reply[2:])


class RingCall(ScriptCall):
    name = "ring"
    promises = False

    def arguments(self, items: list[Any]) -> list[Argument]:
        return [*self.start(), self.store.gateway]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply, items[0], reply[2])
        return [None] * len(items)


class LimitCall(ScriptCall):
    """Items: (requests a minute, requests to put in store besides)."""

    name = "limit"
    promises = False
    repeat = False
    batch = 1_000_000

    def arguments(self, items: list[Any]) -> list[Argument]:
        limit, more = items[-1]
        return [*self.start(), limit, len(items), more]

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        granted, stored, left, wait_ms, full_ms = reply[2:]
        return [
            Granted(number < granted, stored if number == 0 else 0, left, wait_ms, full_ms)
            for number in range(len(items))
        ]


class AlarmsCall(ScriptCall):
    """Items: (noted: tag -> at, settled: tag -> (left until, next), ms ahead, ms left to the taker, most)."""

    name = "alarms"
    promises = False
    batch = 1

    def arguments(self, items: list[Any]) -> list[Argument]:
        ((noted, settled, ahead_ms, left_ms, most),) = items
        args: list[Argument] = [*self.start(), ahead_ms, left_ms, most, len(noted), len(settled)]
        for tag, at_ms in noted.items():
            args += (tag, at_ms)
        for tag, (left_until_ms, next_ms) in settled.items():
            args += (tag, left_until_ms, next_ms)
        return args

    def outcomes(self, reply: list[Any], items: list[Any]) -> Sequence[Any]:
        self.hear(reply)
        return [list(zip(reply[2::3], reply[3::3], reply[4::3], strict=True))]
