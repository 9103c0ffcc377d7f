"""A queue's settings as the fields of its HASH. Scripts read the numbers; the defaults are the gateway's alone."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.queue_settings import NO_DEFAULTS, Defaults, QueueSettings

_NUMBERS = ("max_pending", "max_processing", "max_processing_per_key")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Defaults).decode


def write_settings(settings: QueueSettings) -> dict[str, bytes | str | int]:
    """Spell what is set; the version and the pause are the script's."""
    fields: dict[str, bytes | str | int] = {}
    for name in _NUMBERS:
        value = getattr(settings, name)
        if value is not None:
            fields[name] = value
    if settings.rate_per_second is not None:
        fields["rate_per_second"] = repr(settings.rate_per_second)
    if settings.partitions > 1:
        fields["partitions"] = settings.partitions
    if settings.spread > 1:
        fields["spread"] = settings.spread
    if settings.defaults != NO_DEFAULTS:
        fields["defaults"] = _encode(settings.defaults)
    return fields


def read_settings(fields: Mapping[bytes, bytes]) -> QueueSettings:
    """Read what a HASH holds."""
    numbers = {name: int(fields[name.encode()]) for name in _NUMBERS if name.encode() in fields}
    rate = fields.get(b"rate_per_second")
    return QueueSettings(
        **numbers,
        rate_per_second=None if rate is None else float(rate),
        defaults=_decode(fields[b"defaults"]) if b"defaults" in fields else NO_DEFAULTS,
        partitions=int(fields.get(b"partitions", 1)),
        spread=int(fields.get(b"spread", 1)),
        paused_until_ms=int(fields.get(b"paused_until_ms", 0)),
        version=int(fields.get(b"version", 0)),
    )
