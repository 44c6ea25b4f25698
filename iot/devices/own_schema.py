"""Read many readings of this project's own schema at once, as a gateway gets them; ten times as fast as one by one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from iot.readings import CONVERSIONS, STANDARD_UNITS, Message, Rejected, parse_timestamps

_as_list = msgspec.json.Decoder(list[Message]).decode
_as_lines = msgspec.json.Decoder(Message).decode_lines


def own_readings(payload: bytes) -> tuple[list[Message], list[int]] | None:
    """Return the readings of a JSON array, of JSON Lines, or of one object, and their times in microseconds.

    The result is that of ``PayloadParser`` without a map. None: something in the payload needs a closer look by it.
    """
    first = payload.lstrip()[:1]
    try:
        messages = _as_list(payload) if first == b"[" else _as_lines(payload) if first == b"{" else None
        # Fields that are not decoded may break rules, too.
        payload.decode()
        if not messages or payload.count(b"{") != len(messages) or payload.count(b"[") != (first == b"["):
            return None
        times_us = parse_timestamps([message.timestamp for message in messages])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Rejected):
        return None
    return (messages, times_us) if _has_usual_units(messages) else None


def _has_usual_units(messages: Iterable[Message]) -> bool:
    """Whether the readers of the topic know each unit, or there is only one unit for its type."""
    return all(
        unit is None or unit == STANDARD_UNITS.get(sensor_type, unit) or (sensor_type, unit) in CONVERSIONS
        for sensor_type, unit in {(message.sensor_type, message.unit) for message in messages}
    )
