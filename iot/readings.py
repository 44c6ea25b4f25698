"""The schema of a reading, its encoding, and the validator that every program uses.

``decode`` takes the bytes of a Kafka record and returns a ``Reading`` in standard units, or raises ``Rejected`` with
the reason. ``decode_batch`` does the same for many messages at once, and is about three times as fast. The consumer and
Spark's Python workers call the same code, so they accept and reject the same messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import repeat
from math import isfinite
from typing import Annotated, Any

import msgspec
import numpy as np

from iot.settings import FUTURE_TOLERANCE_S

# Maximum number of characters in a string field.
MAX_STRING = 128
# Maximum nesting of objects and arrays in a message.
MAX_DEPTH = 100
# The value of location, unit and quality where a message has none.
UNKNOWN = "unknown"

STANDARD_UNITS = {
    "temperature": "celsius",
    "humidity": "percent",
    "pressure": "hPa",
    "motion": "boolean",
    "light": "lux",
}

# (sensor type, unit in the message): (standard unit, subtract, divide); standard value = (value - subtract) / divide
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
"""The format of a timestamp. Its groups are the digits of the fraction, and the offset. It accepts some dates that do
not exist, such as 30 February."""

RequiredString = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STRING)]
OptionalString = Annotated[str, msgspec.Meta(max_length=MAX_STRING)]


class Message(msgspec.Struct, gc=False, omit_defaults=True):
    """A reading as it is in the topic, with the timestamp as text."""

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
    """A valid reading: its value is in the standard unit of its type, and location, unit and quality are never None.

    ``time_us`` is the timestamp in microseconds since the epoch, always an int. Its type is Any so that msgspec ignores
    a field of that name in a message, as it ignores every unknown field.
    """

    time_us: Any = None


class Rejected(ValueError):  # noqa: N818  # a verdict on a message, which is also returned
    """A message that breaks the schema. Its text is the reason, with ``(byte n)`` at the end if the place is known."""


def decode(message: bytes | None, kafka_timestamp_ms: int | None = None) -> Reading:
    """Decode and validate one message.

    Args:
        message: the value of a Kafka record.
        kafka_timestamp_ms: Kafka's timestamp of the record. A reading more than 60 s ahead of it is rejected. None or
            negative means that the record has no timestamp, and skips this rule.

    Raises:
        Rejected: the message breaks the schema.
    """
    verdict = _complete(_parse(message), None, kafka_timestamp_ms)
    if isinstance(verdict, Rejected):
        raise verdict
    return verdict


def decode_batch(
    messages: Iterable[bytes | None], kafka_timestamps_ms: Sequence[int | None] | None = None
) -> list[Reading | Rejected]:
    """Return what ``decode`` returns or raises for each message, in the order of the messages."""
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
    """Return a timestamp in microseconds since the epoch. Without an offset it is local time.

    Raises:
        Rejected: the text has another format, names a day that does not exist, or lies outside the years 1 to 9999.
            Local time on the first and on the last of these days is outside too.
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
        # All Pythons refuse local time on the first day, but only Python 3.13 and newer on all of the last day.
        if offset is None and text.startswith("9999-12-31"):
            raise OverflowError
        utc = moment.astimezone(UTC)
        if offset is None:
            # In the hour that is skipped when clocks go forward, Python 3.12 changed which fold has which offset.
            utc = min(utc, moment.replace(fold=1).astimezone(UTC))
        since = utc - _EPOCH
    except (ValueError, OverflowError, OSError):
        raise Rejected("timestamp: outside the years 1 to 9999 UTC") from None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def parse_timestamps(texts: Sequence[str]) -> list[int]:
    """Return what ``parse_timestamp`` returns or raises for each text; texts in the usual format take little time."""
    return [
        parse_timestamp(text) if time_us is None else time_us
        for text, time_us in zip(texts, _times_us(texts), strict=True)
    ]


def format_timestamp(time_us: int) -> str:
    """Return ISO 8601 in UTC with six digits, such as ``2026-11-24T02:15:07.123456+00:00``."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds")


encode = msgspec.json.Encoder().encode
"""Encode a ``Message`` as JSON bytes for the readings topic."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_1_US = -62_135_596_800_000_000
_FUTURE_TOLERANCE_US = FUTURE_TOLERANCE_S * 1_000_000
# A line with a timestamp in the usual format. Only the 26 characters before the offset are read.
_TIMESTAMP_LINE = np.dtype({"names": ["utc"], "formats": ["S26"], "itemsize": 33})
# Units that may have to be replaced. Any other stays as it is.
_UNITS_TO_REPLACE = frozenset({None, *(unit for _, unit in CONVERSIONS)})
# The length of the shortest reading that nests too deeply: 101 pairs of brackets, and the required fields.
_SHORTEST_TOO_DEEP = 283
_match_timestamp = re.compile(TIMESTAMP_PATTERN).fullmatch
_decode = msgspec.json.Decoder(Reading).decode
_digits_to_0 = bytes.maketrans(b"123456789", b"000000000")
# Checks that a message is JSON and decodes nothing. Python's json would accept NaN and lone surrogates.
_require_json = msgspec.json.Decoder(msgspec.Raw).decode
# A message of msgspec's: the broken rule, and the field that breaks it.
_BROKEN_RULE = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def _parse(message: bytes | None) -> Reading:
    """Decode a message and check each field, except that the timestamp may be any string."""
    if not message:
        raise Rejected("empty message")
    # Only such a message can break a rule that msgspec does not check.
    if len(message) >= _SHORTEST_TOO_DEEP or not message.isascii():
        _check_bytes(message)
    try:
        return _decode(message)
    except msgspec.ValidationError:
        return _parse_last_occurrences(message)
    except msgspec.DecodeError as error:
        raise Rejected(_not_json(error)) from None


def _complete(reading: Reading, time_us: int | None, kafka_timestamp_ms: int | None) -> Reading | Rejected:
    """Check the timestamp of a parsed reading, set ``time_us``, and convert the reading to its standard unit.

    ``time_us`` is the parsed timestamp, or None if it is not parsed yet.
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
    if reading.unit in _UNITS_TO_REPLACE:
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
    """Parse timestamps in the usual format, with six digits and offset +00:00. Any other text gives None.

    If all texts have that format, numpy parses them in one call. Otherwise each half is tried by itself.
    """
    lines = "\n".join(texts).encode() + b"\n"
    usual = b"0000-00-00T00:00:00.000000+00:00\n" * len(texts)
    if lines.translate(_digits_to_0) == usual and lines.count(b"+00:00") == len(texts):
        # A ValueError means that a day or time does not exist.
        with suppress(ValueError):
            times_us = np.frombuffer(lines, _TIMESTAMP_LINE)["utc"].astype("datetime64[us]").astype(np.int64)
            if times_us.min() >= _YEAR_1_US:
                return list(times_us.tolist())
    half = len(texts) // 2
    return [*_times_us(texts[:half]), *_times_us(texts[half:])] if half else [None] * len(texts)


def _check_bytes(message: bytes) -> None:
    """Reject what msgspec accepts: deep nesting, and invalid UTF-8 in fields that it ignores."""
    if message.count(b"{") + message.count(b"[") > MAX_DEPTH and _depth(message) > MAX_DEPTH:
        raise Rejected(f"nested deeper than {MAX_DEPTH}")
    try:
        message.decode()
    except UnicodeDecodeError as error:
        raise Rejected(f"invalid UTF-8 (byte {error.start})") from None


def _depth(message: bytes) -> int:
    """Return the nesting depth of brackets outside strings. Counting stops just above the limit."""
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


def _parse_last_occurrences(message: bytes) -> Reading:
    """Parse a message by the last occurrence of each field. msgspec alone stops at the first that is wrong."""
    try:
        _require_json(message)
        reading = msgspec.convert(json.loads(message, parse_int=_whole_number), Reading)
    except msgspec.ValidationError as error:
        raise Rejected(_broken_rule(error)) from None
    except msgspec.DecodeError as error:
        raise Rejected(_not_json(error)) from None
    if not isfinite(reading.value):
        raise Rejected("value: number out of range")
    return reading


def _whole_number(text: str) -> int:
    # Python may refuse to parse more digits. A value with so many is out of range anyway.
    return int(text[:640])


def _not_json(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return f"not JSON: {text[:1].lower()}{text[1:]}"


def _broken_rule(error: msgspec.ValidationError) -> str:
    """Return msgspec's message with the field first: ``value: expected `float`, got `str```."""
    match = _BROKEN_RULE.match(str(error))
    text, at = match.groups() if match else (str(error), None)
    text = text[:1].lower() + text[1:]
    return f"{at}: {text}" if at else text
