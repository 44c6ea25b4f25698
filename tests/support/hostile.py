"""Generates hostile messages. How a message is made determines its verdict, so no validator is needed.

A maker takes the fields of a valid reading. It returns bytes that must be rejected, or bytes that must be accepted
together with their reading. ``messages`` mixes hostile messages with plain readings.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from iot.readings import format_timestamp

Fields = dict[str, Any]

# Maximum size of a value: Kafka's default for max.message.bytes is 1 MiB and 12 bytes, and the record needs some.
BIGGEST = 2**20 - 200
EVIL_NAMES = (
    "<img src=x onerror=\"window.executed='id'\">",
    "<script>window.executed='script'</script>",
    "'; DROP TABLE totals; --",
    '" OR ""="',
    "two\nlines\r\nof it",
    "\x00\x01\x1b[31mred\x1b[0m\x7f",
    "\u202etxet sdrawkcab\u202c",
    "{{ 7 * 7 }} ${7*7} %s %n",
    "../../etc/passwd",
    "🌡️ Außenfühler\u0000",
    "x" * 128,
    " ",
)


class Message(NamedTuple):
    """A message, and its reading: the fields and ``time_us``, or None if the message must be rejected."""

    key: bytes | None
    value: bytes | None
    reading: Fields | None


def _json(fields: Fields) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _with(name: str, *values: Any) -> Callable[[Fields, random.Random], bytes]:
    return lambda fields, chance: _json(fields | {name: chance.choice(values)})


def _without(name: str) -> Callable[[Fields, random.Random], bytes]:
    return lambda fields, _: _json({key: value for key, value in fields.items() if key != name})


def _value_text(text: bytes) -> Callable[[Fields, random.Random], bytes]:
    """Write this text as the value, for values that no Python number has."""
    return lambda fields, _: _json(fields | {"value": "§"}).replace('"§"'.encode(), text)


def _cut_short(fields: Fields, chance: random.Random) -> bytes:
    whole = _json(fields)
    return whole[: chance.randrange(1, len(whole))]


def _broken(fields: Fields, chance: random.Random) -> bytes:
    """Replace a brace, colon or comma of the object."""
    whole = bytearray(_json({"a": 1} | fields))
    whole[chance.choice((0, whole.index(b":"), whole.index(b","), len(whole) - 1))] = chance.choice(b";!~)")
    return bytes(whole)


def _spliced(fields: Fields, chance: random.Random) -> bytes:
    """Insert a byte that never occurs in UTF-8."""
    whole = _json(fields)
    at = chance.randrange(len(whole))
    return whole[:at] + bytes([chance.choice((0xC0, 0xC1, 0xF5, 0xFE, 0xFF))]) + whole[at:]


def _nested(depth: int) -> bytes:
    """Arrays nested to this depth."""
    return b"[" * depth + b"]" * depth


BAD: dict[str, Callable[[Fields, random.Random], bytes | None]] = {
    "null value": lambda fields, _: None,
    "empty": lambda fields, _: b"",
    "cut short": _cut_short,
    "broken": _broken,
    "a byte that is not UTF-8": _spliced,
    "truncated UTF-8": lambda fields, _: _json(fields | {"location": "Küche"}).replace(b"\xc3\xbc", b"\xc3"),
    "binary": lambda fields, chance: b"\xff" + chance.randbytes(chance.randrange(2_000)),
    "not an object": lambda fields, chance: chance.choice((b"[]", b"7", b'"text"', b"null", b"true", b"[{}]", b"{}")),
    "twice": lambda fields, _: _json(fields) * 2,
    "NaN": _value_text(b"NaN"),
    "Infinity": _value_text(b"-Infinity"),
    "overflow": _value_text(b"1e999"),
    "too many digits": _value_text(b"9" * 5_000),
    "value in quotes": _with("value", "21.5", "", "NaN"),
    "value not a number": _with("value", True, None, [21.5], {"value": 21.5}),
    "sensor_id not a string": _with("sensor_id", 7, None, ["sensor_1"], {}, True),
    "sensor_id empty or too long": _with("sensor_id", "", "x" * 129),
    "sensor_type empty or not a string": _with("sensor_type", "", 1.5, None),
    "location too long or not a string": _with("location", 3, [], "y" * 129),
    "sequence not a whole number": _with("sequence", 1.5, "1", True),
    "no timestamp": _without("timestamp"),
    "no value": _without("value"),
    "no sensor_id": _without("sensor_id"),
    "timestamp not valid": _with(
        "timestamp", "now", "", "2026", "2026-02-30T00:00:00Z", "2026-11-24 02:15:07", "0000-01-01T00:00:00Z", 0,
        "10000-01-01T00:00:00Z", "2026-W48-2T02:15:07", "2026-11-24T25:00:00Z", "2026-11-24T02:15:07+99:00",
    ),
    "year 9999": _with("timestamp", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59"),
    "nested to depth 1,000": lambda fields, chance: _json(fields | {"more": "§"}).replace(
        '"§"'.encode(), _nested(chance.randrange(101, 1_001))
    ),
    "only brackets": lambda fields, chance: b"[" * chance.randrange(1, 100_000),
    "a line break in a string": lambda fields, _: _json(fields | {"location": "§"}).replace("§".encode(), b"a\nb"),
    "second of two values is wrong": lambda fields, _: _json(fields)[:-1] + b', "value": "7"}',
}  # fmt: skip

# Large messages, of which there are few.
BIG_BAD: dict[str, Callable[[Fields, random.Random], bytes | None]] = {
    "1 MB in sensor_id": lambda fields, _: _json(fields | {"sensor_id": "x" * (BIGGEST - 300)}),
    "1 MB in location": lambda fields, _: _json(fields | {"location": "<" * (BIGGEST - 300)}),
    "1 MB of binary": lambda fields, chance: chance.randbytes(BIGGEST - 1) + b"\xff",
    "1 MB of brackets": lambda fields, _: b"[" * BIGGEST,
}


def _first_of_two_is_wrong(fields: Fields, _: random.Random) -> tuple[bytes, Fields]:
    return b'{"value": "no number", "sensor_id": 1, ' + _json(fields)[1:], fields


def _evil_names(fields: Fields, chance: random.Random) -> tuple[bytes, Fields]:
    names = {name: chance.choice(EVIL_NAMES) for name in ("sensor_id", "sensor_type", "location")}
    return _json(fields | names | {"unit": chance.choice(EVIL_NAMES)}), fields | names


def _more_fields(fields: Fields, chance: random.Random) -> tuple[bytes, Fields]:
    more = {"time_us": "evil", "": None, "__proto__": {"x": 1}, "deep": "§"}
    return _json(more | fields).replace('"§"'.encode(), _nested(chance.randrange(1, 100))), fields


def _year_1(fields: Fields, _: random.Random) -> tuple[bytes, Fields]:
    reading = fields | {"timestamp": "0001-01-01T00:00:00.000000Z"}
    return _json(reading), reading | {"time_us": -62_135_596_800_000_000}


def _big(fields: Fields, _: random.Random) -> tuple[bytes, Fields]:
    return _json(fields | {"comment": "z" * (BIGGEST - 500)}), fields


GOOD: dict[str, Callable[[Fields, random.Random], tuple[bytes, Fields]]] = {
    "first of two values is wrong": _first_of_two_is_wrong,
    "evil names": _evil_names,
    "unknown fields, nested to depth 100": _more_fields,
    "year 1": _year_1,
}


def messages(*, hostile: int, plain: int, big: int, seed: int, until_us: int, span_s: int) -> Iterator[Message]:
    """Generate hostile messages and plain readings, mixed, in order of event time.

    Args:
        hostile: how many hostile messages of at most 100 kB.
        plain: how many plain readings.
        big: how many messages of each kind of about 1 MB.
        until_us: event time of the last message.
        span_s: how much earlier the first message is.
    """
    chance = random.Random(seed)
    makers: list[Callable[[Fields, random.Random], Any] | None] = [None] * plain
    kinds = [*BAD.values(), *GOOD.values()]
    makers += [kinds[number % len(kinds)] for number in range(hostile)]
    makers += [*BIG_BAD.values(), _big] * big
    chance.shuffle(makers)
    # A plain reading comes first, so that every reading of the year 1 is late.
    for number, make in enumerate([None, *makers]):
        time_us = until_us - span_s * 1_000_000 + number * span_s * 1_000_000 // len(makers)
        sensor = chance.randrange(50)
        sensor_type = chance.choice(("temperature", "humidity", "pressure"))
        fields: Fields = {
            "sensor_id": f"sensor_{sensor}",
            "sensor_type": sensor_type,
            "location": f"room {sensor % 5}",
            "value": round(chance.uniform(10, 35), 2),
            "timestamp": format_timestamp(time_us),
            "run_id": "hostile",
            "sequence": number,
        }
        key = chance.choice((fields["sensor_id"].encode(), None, b"", b"\xff\x00\xfe"))
        made = (_json(fields), fields) if make is None else make(fields, chance)
        if isinstance(made, tuple):
            value, reading = made
            yield Message(fields["sensor_id"].encode(), value, {"time_us": time_us} | reading)
        else:
            yield Message(key, made, None)
