"""The schema of a reading, once: its fields and units, how it is encoded, and the verdict on any message.

``decode`` and, for many messages at once, ``decode_batch`` are the one validator, in the consumer and inside Spark
alike. From the bytes of a Kafka record they make a ``Reading`` in normalised units, or ``Rejected`` with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import repeat
from math import isfinite
from typing import Annotated, Any

import msgspec
import numpy as np

from iot.settings import FUTURE_TOLERANCE_S

MAX_STRING = 128
MAX_DEPTH = 100
UNKNOWN = "unknown"

STANDARD_UNITS = {
    "temperature": "celsius",
    "humidity": "percent",
    "pressure": "hPa",
    "motion": "boolean",
    "light": "lux",
}

# (sensor type, unit as written) to (standard unit, subtract, divide by): standard value = (value - subtract) / divide
CONVERSIONS = {
    ("temperature", "°C"): ("celsius", 0.0, 1.0),
    ("temperature", "C"): ("celsius", 0.0, 1.0),
    ("temperature", "°F"): ("celsius", 32.0, 1.8),
    ("temperature", "F"): ("celsius", 32.0, 1.8),
    ("temperature", "fahrenheit"): ("celsius", 32.0, 1.8),
    ("humidity", "%"): ("percent", 0.0, 1.0),
    ("pressure", "Pa"): ("hPa", 0.0, 100.0),
}

TIMESTAMP_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:\.([0-9]+))?(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
)
"""What a timestamp looks like; its groups are the fraction's digits and the offset. Not every match is a real day."""

RequiredString = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STRING)]
OptionalString = Annotated[str, msgspec.Meta(max_length=MAX_STRING)]


class Message(msgspec.Struct, gc=False, omit_defaults=True):
    """A reading as it stands in the topic, field by field; ``timestamp`` as written."""

    sensor_id: RequiredString
    sensor_type: RequiredString
    value: float
    timestamp: str
    location: OptionalString | None = None
    unit: OptionalString | None = None
    quality: OptionalString | None = None
    run_id: OptionalString | None = None
    sequence: int | None = None


class Reading(Message):
    """A valid reading: value in the standard unit of its type, location, unit and quality never None.

    ``time_us`` is its moment in microseconds since the epoch. It is Any to msgspec, so that a foreign field of that
    name is ignored as every other is; it is always an int in what ``decode`` and ``decode_batch`` give.
    """

    time_us: Any = None


class Rejected(ValueError):  # noqa: N818  # a verdict
    """A message that breaks a rule of the schema; its text is the reason, with ``(byte n)`` at its end if known."""


def decode(message: bytes | None, kafka_timestamp_ms: int | None = None) -> Reading:
    """Decode and judge one message.

    Args:
        message: the value of a Kafka record.
        kafka_timestamp_ms: Kafka's timestamp of the record; a reading stamped more than 60 s after it is rejected.
            None or negative: Kafka has none, and that rule is skipped.

    Raises:
        Rejected: with the reason.
    """
    verdict = _complete(_parse(message), None, kafka_timestamp_ms)
    if isinstance(verdict, Rejected):
        raise verdict
    return verdict


def decode_batch(
    messages: Iterable[bytes | None], kafka_timestamps_ms: Sequence[int | None] | None = None
) -> list[Reading | Rejected]:
    """What ``decode`` gives or raises for each of many messages, in their order, at a fraction of the cost."""
    readings: list[Reading] = []
    rejected: dict[int, Rejected] = {}
    for message in messages:
        try:
            readings.append(_parse(message))
        except Rejected as verdict:
            rejected[len(readings) + len(rejected)] = verdict
    if rejected and kafka_timestamps_ms is not None:
        kafka_timestamps_ms = [stamp for at, stamp in enumerate(kafka_timestamps_ms) if at not in rejected]
    times_us = _times_us([reading.timestamp for reading in readings])
    verdicts = list(map(_complete, readings, times_us, kafka_timestamps_ms or repeat(None)))
    if not rejected:
        return verdicts
    others = iter(verdicts)
    return [rejected.get(at) or next(others) for at in range(len(verdicts) + len(rejected))]


def parse_timestamp(text: str) -> int:
    """Microseconds since the epoch of a timestamp by the contract's pattern; without an offset it is local time.

    Raises:
        Rejected: the text does not follow the pattern, names no real day, or lies outside the years 1 to 9999.
    """
    match = _match_timestamp(text)
    if match is None:
        raise Rejected("timestamp: expected YYYY-MM-DDTHH:MM:SS, optionally with a fraction and Z or ±HH:MM")
    fraction, offset = match.groups()
    micros = (fraction or "")[:6].ljust(6, "0")
    try:
        moment = datetime.fromisoformat(f"{text[:19]}.{micros}{'+00:00' if offset == 'Z' else offset or ''}")
    except ValueError:
        raise Rejected("timestamp: no such day") from None
    try:
        since = moment.astimezone(timezone.utc) - _EPOCH
    except (ValueError, OverflowError, OSError):
        raise Rejected("timestamp: outside the years 1 to 9999 UTC") from None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def format_timestamp(time_us: int) -> str:
    """ISO 8601 in UTC with six digits, as ``2026-11-24T02:15:07.123456+00:00``."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds")


encode = msgspec.json.Encoder().encode
"""A ``Message`` as the JSON bytes that ``decode`` takes."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_YEAR_1_US = -62_135_596_800_000_000
_FUTURE_TOLERANCE_US = FUTURE_TOLERANCE_S * 1_000_000
# A line with the usual timestamp, without its offset: 2026-11-24T02:15:07.123456
_TIMESTAMP_LINE = np.dtype({"names": ["utc"], "formats": ["S26"], "itemsize": 33})
_UNUSUAL = frozenset({None, *(unit for _, unit in CONVERSIONS)})
# The shortest reading that nests too deep: 101 pairs of brackets, and the required fields.
_SHORTEST_TOO_DEEP = 283
_match_timestamp = re.compile(TIMESTAMP_PATTERN).fullmatch
_decode = msgspec.json.Decoder(Reading).decode
_digits_to_0 = bytes.maketrans(b"123456789", b"000000000")
# Reads over a whole message: Python's json takes NaN and lone surrogates, which this refuses.
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_AT = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def _parse(message: bytes | None) -> Reading:
    """The fields of a message as they stand in it, each checked by itself; nothing is said about the moment."""
    if not message:
        raise Rejected("empty message")
    # Only in such a message can there be something wrong that msgspec does not see.
    if len(message) >= _SHORTEST_TOO_DEEP or not message.isascii():
        _check_bytes(message)
    try:
        return _decode(message)
    except msgspec.ValidationError:
        return _last_counts(message)
    except msgspec.DecodeError as error:
        raise Rejected(_not_json(error)) from None


def _complete(reading: Reading, time_us: int | None, kafka_timestamp_ms: int | None) -> Reading | Rejected:
    """Judge the moment of a parsed reading, set it, and bring the reading into its normalised form.

    ``time_us`` is what the timestamp says, if that is known already.
    """
    if time_us is None:
        try:
            time_us = parse_timestamp(reading.timestamp)
        except Rejected as rejected:
            return rejected
    if (
        kafka_timestamp_ms is not None
        and time_us > kafka_timestamp_ms * 1000 + _FUTURE_TOLERANCE_US
        and kafka_timestamp_ms >= 0
    ):
        return Rejected("future timestamp")
    reading.time_us = time_us
    if reading.unit in _UNUSUAL:
        if reading.unit is None:
            reading.unit = STANDARD_UNITS.get(reading.sensor_type, UNKNOWN)
        elif conversion := CONVERSIONS.get((reading.sensor_type, reading.unit)):
            reading.unit, subtract, divide = conversion
            reading.value = (reading.value - subtract) / divide
    if reading.location is None:
        reading.location = UNKNOWN
    if reading.quality is None:
        reading.quality = UNKNOWN
    return reading


def _times_us(texts: Sequence[str]) -> list[int | None]:
    """Microseconds since the epoch of timestamps in the usual form and zone, None for any other text.

    When all have that form, which one look tells, numpy reads them in one call; otherwise each half is tried.
    """
    lines = "\n".join(texts).encode() + b"\n"
    usual = b"0000-00-00T00:00:00.000000+00:00\n" * len(texts)
    if lines.translate(_digits_to_0) == usual and lines.count(b"+00:00") == len(texts):
        # A ValueError says that one names no real day or time of day.
        with suppress(ValueError):
            times_us = np.frombuffer(lines, _TIMESTAMP_LINE)["utc"].astype("datetime64[us]").astype(np.int64)
            if times_us.min() >= _YEAR_1_US:
                return list(times_us.tolist())
    half = len(texts) // 2
    return [*_times_us(texts[:half]), *_times_us(texts[half:])] if half else [None] * len(texts)


def _check_bytes(message: bytes) -> None:
    """Reject what msgspec would not: deep nesting, and invalid UTF-8 in fields that it skips."""
    if message.count(b"{") + message.count(b"[") > MAX_DEPTH and _depth(message) > MAX_DEPTH:
        raise Rejected(f"nested deeper than {MAX_DEPTH}")
    try:
        message.decode()
    except UnicodeDecodeError as error:
        raise Rejected(f"invalid UTF-8 (byte {error.start})") from None


def _depth(message: bytes) -> int:
    """Nesting depth of brackets outside strings, counted no further than just past the limit."""
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.finditer(message):
        first = message[token.start()]
        if first in b"{[":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif first in b"}]":
            depth -= 1
    return deepest


def _last_counts(message: bytes) -> Reading:
    """Judge a message by the last occurrence of each field: msgspec stops at the first that is wrong."""
    try:
        _skip(message)
        reading = msgspec.convert(json.loads(message, parse_int=_whole_number), Reading)
    except msgspec.ValidationError as error:
        raise Rejected(_broken_rule(error)) from None
    except msgspec.DecodeError as error:
        raise Rejected(_not_json(error)) from None
    if not isfinite(reading.value):
        raise Rejected("value: number out of range")
    return reading


def _whole_number(text: str) -> int:
    # Python may refuse to read more digits. As a value they are out of range anyway.
    return int(text[:640])


def _not_json(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return f"not JSON: {text[:1].lower()}{text[1:]}"


def _broken_rule(error: msgspec.ValidationError) -> str:
    """msgspec's message with the field first: ``value: expected `float`, got `str```."""
    match = _AT.match(str(error))
    text, at = match.groups() if match else (str(error), None)
    text = text[:1].lower() + text[1:]
    return f"{at}: {text}" if at else text
