"""The validator: a table of cases, and properties that hold for any message."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.readings import (
    CONVERSIONS,
    MAX_STRING,
    STANDARD_UNITS,
    TIMESTAMP_PATTERN,
    Message,
    Reading,
    Rejected,
    decode,
    decode_batch,
    encode,
    format_timestamp,
    parse_timestamp,
)
from tests.support.cases import CASES, EXAMPLE, bytes_of

FIELDS = ("sensor_id", "sensor_type", "location", "value", "unit", "quality", "run_id", "sequence")


def verdict(message: bytes | None, kafka_timestamp_ms: int | None = None) -> dict[str, Any] | str:
    """The fields of a reading in standard units, or the reason why the message is rejected.

    The message is decoded alone and in a batch. Both must give the same and leave the rest of the batch unchanged.
    """
    found: Reading | Rejected
    try:
        found = decode(message, kafka_timestamp_ms)
    except Rejected as rejected:
        found = rejected
    before, among, after = decode_batch([encode(EXAMPLE), message, None], [None, kafka_timestamp_ms, None])
    assert shown(among) == shown(found)
    assert isinstance(before, Reading)
    assert before.sensor_id == EXAMPLE.sensor_id
    assert str(after) == "empty message"
    return shown(found)


def shown(found: Reading | Rejected) -> dict[str, Any] | str:
    if isinstance(found, Rejected):
        assert str(found)
        assert "\n" not in str(found)
        return str(found)
    assert isinstance(found.time_us, int)
    return {name: getattr(found, name) for name in FIELDS} | {"time": format_timestamp(found.time_us)}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case(case: dict[str, Any]) -> None:
    found = verdict(bytes_of(case), case.get("kafka_timestamp_ms"))
    if "reject" in case:
        assert isinstance(found, str), f"accepted as {found}"
        assert found.startswith(case["reject"])
    else:
        assert found == case["accept"]


def test_all_cases_in_one_batch() -> None:
    verdicts = decode_batch(map(bytes_of, CASES), [case.get("kafka_timestamp_ms") for case in CASES])
    assert [isinstance(found, Rejected) for found in verdicts] == ["reject" in case for case in CASES]
    accepted = [case["accept"] for case in CASES if "accept" in case]
    assert [shown(found) for found in verdicts if isinstance(found, Reading)] == accepted


def test_each_record_of_a_batch_is_checked_against_its_own_timestamp() -> None:
    message = encode(EXAMPLE)
    moment_ms = 1_795_486_507_124
    verdicts = decode_batch(
        [message] * 5, [moment_ms, moment_ms - 60_001, None, moment_ms - 60_000, moment_ms - 60_001]
    )
    assert [isinstance(found, Rejected) for found in verdicts] == [False, True, False, False, True]


@pytest.mark.parametrize("wrong", ["T24:00:00Z", "T23:60:00Z", "T23:59:60Z", "T00:00:00+24:00", "T00:00:00-23:60"])
def test_the_pattern_refuses_times_of_day_that_do_not_exist(wrong: str) -> None:
    # Python versions and Spark read these differently.
    assert not re.fullmatch(TIMESTAMP_PATTERN, "2026-11-24" + wrong)


def test_an_empty_batch() -> None:
    assert decode_batch([]) == []


@pytest.mark.parametrize("kafka_timestamp_ms", [None, -1, 2**63 - 1])
def test_a_record_without_a_usable_kafka_timestamp_accepts_any_time(kafka_timestamp_ms: int | None) -> None:
    message = encode(msgspec.structs.replace(EXAMPLE, timestamp="9999-12-31T23:59:59.999999+00:00"))
    assert isinstance(verdict(message, kafka_timestamp_ms), dict)


@pytest.mark.parametrize("first", ["", '"value": "x", '], ids=["as it is", "after a wrong field"])
@pytest.mark.parametrize("digits", [640, 641, 4_300, 4_301, 100_000])
def test_a_sequence_of_any_length_is_an_integer(first: str, digits: int) -> None:
    message = b"{" + first.encode() + encode(EXAMPLE)[1:].replace(b"1041", b"7" * digits)
    assert isinstance(decode(message), Reading)


def test_case_names_are_unique() -> None:
    names = [case["name"] for case in CASES]
    assert len(names) == len(set(names))


# 02:15:07 in winter and 14:00 in summer on the clock of each zone, in UTC.
LOCAL = {
    "Asia/Kolkata": ("2026-11-23T20:45:07.500000+00:00", "2026-07-01T08:30:00.000000+00:00"),
    "America/New_York": ("2026-11-24T07:15:07.500000+00:00", "2026-07-01T18:00:00.000000+00:00"),
    "UTC": ("2026-11-24T02:15:07.500000+00:00", "2026-07-01T14:00:00.000000+00:00"),
}


def test_timestamp_without_an_offset_is_local_time(zone: str) -> None:
    winter, summer = LOCAL[zone]
    assert format_timestamp(parse_timestamp("2026-11-24T02:15:07.5")) == winter
    assert format_timestamp(parse_timestamp("2026-07-01T14:00:00")) == summer
    # With an offset it is not local time.
    assert format_timestamp(parse_timestamp("2026-11-24T02:15:07.5+00:00")) == LOCAL["UTC"][0]


@pytest.mark.parametrize(
    ("name", "text", "utc"),
    [
        # Clocks go forward: the hour does not exist, and the offset in force afterwards counts.
        ("America/New_York", "2026-03-08T01:59:59", "2026-03-08T06:59:59"),
        ("America/New_York", "2026-03-08T02:30:00", "2026-03-08T06:30:00"),
        ("America/New_York", "2026-03-08T03:00:00", "2026-03-08T07:00:00"),
        ("Europe/Berlin", "2026-03-29T02:30:00", "2026-03-29T00:30:00"),
        ("Australia/Lord_Howe", "2026-10-04T02:15:00", "2026-10-03T15:15:00"),
        # Clocks go back: the first of the two hours counts.
        ("America/New_York", "2026-11-01T01:30:00", "2026-11-01T05:30:00"),
        ("Europe/Berlin", "2026-10-25T02:30:00", "2026-10-25T00:30:00"),
    ],
)
def test_local_time_when_clocks_change_is_the_same_on_every_python(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, utc: str
) -> None:
    monkeypatch.setenv("TZ", name)
    time.tzset()
    try:
        assert parse_timestamp(text) == parse_timestamp(utc + "Z")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
@pytest.mark.parametrize("clock", ["00:00:00", "12:00:00", "18:29:59", "23:59:59.999999"])
def test_local_time_on_the_first_and_last_day_of_the_calendar_is_rejected(zone: str, day: str, clock: str) -> None:
    message = msgspec.structs.replace(EXAMPLE, timestamp=f"{day}T{clock}")
    assert verdict(encode(message)) == "timestamp: outside the years 1 to 9999 UTC"


@pytest.mark.parametrize("text", ["0001-01-02T00:00:00", "9999-12-30T23:59:59.999999"])
def test_local_time_on_all_other_days_is_accepted(zone: str, text: str) -> None:
    offset_us = parse_timestamp(text) - parse_timestamp(text + "Z")
    assert abs(offset_us) <= 14 * 3_600_000_000


# The usual timestamp format, with any characters in a few places.
USUAL_WITH_CHANGES = r"2026-.[0-9]-[0-9].T[012][0-9]:.[0-9]:[0-9][0-9].[0-9]..[0-9]{2}[0-9Z].00:.."
any_text = st.text(max_size=MAX_STRING)
some_text = st.text(min_size=1, max_size=MAX_STRING)
moments = st.datetimes(timezones=st.just(UTC))
messages = st.builds(
    Message,
    sensor_id=some_text,
    sensor_type=some_text | st.sampled_from(sorted(STANDARD_UNITS)),
    value=st.floats(allow_nan=False, allow_infinity=False),
    timestamp=moments.map(lambda moment: moment.isoformat(timespec="microseconds")),
    location=st.none() | any_text,
    unit=st.none() | any_text | st.sampled_from(sorted({unit for _, unit in CONVERSIONS})),
    quality=st.none() | any_text,
    run_id=st.none() | any_text,
    sequence=st.none() | st.integers(0, 2**63 - 1),
)


@given(messages)
def test_an_encoded_message_decodes_to_the_same_reading(message: Message) -> None:
    reading = decode(encode(message))
    assert isinstance(reading, Reading)
    assert format_timestamp(reading.time_us) == message.timestamp
    for name in ("sensor_id", "sensor_type", "timestamp", "run_id", "sequence"):
        assert getattr(reading, name) == getattr(message, name)
    for name in ("location", "quality"):
        assert getattr(reading, name) == ("unknown" if getattr(message, name) is None else getattr(message, name))
    if message.unit is None:
        assert reading.unit == STANDARD_UNITS.get(message.sensor_type, "unknown")
    if message.unit is None or (message.sensor_type, message.unit) not in CONVERSIONS:
        assert reading.value == message.value
    # A decoded reading is in standard units, so as a message it decodes to itself.
    normalised = {name: value for name, value in msgspec.to_builtins(reading).items() if name != "time_us"}
    assert decode(encode(Message(**normalised))) == reading


@given(moments, st.integers(-1439, 1439), st.text("0123456789", max_size=12))
def test_any_time_at_any_offset_is_parsed_exactly(moment: datetime, offset_minutes: int, more_digits: str) -> None:
    try:
        local = moment.astimezone(timezone(timedelta(minutes=offset_minutes)))
    except OverflowError:
        return
    sign = "-" if offset_minutes < 0 else "+"
    offset = f"{sign}{abs(offset_minutes) // 60:02d}:{abs(offset_minutes) % 60:02d}"
    text = local.replace(tzinfo=None, microsecond=0).isoformat() + f".{moment.microsecond:06d}{more_digits}{offset}"
    assert parse_timestamp(text) == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_get_a_verdict(message: bytes) -> None:
    verdict(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "timestamp", "time_us", "x"]), json_values))
def test_arbitrary_fields_get_a_verdict(changed: dict[str, Any]) -> None:
    fields = msgspec.to_builtins(EXAMPLE) | changed
    verdict(json.dumps(fields).encode("utf-8", "surrogatepass"))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with a few bytes replaced, removed or inserted."""
    message = bytearray(encode(EXAMPLE))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(message)))
        cut = draw(st.integers(0, 4))
        put = draw(
            st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"{", b"[", b"}", b"1e999", b"\\ud83d", b"null"])
        )
        message[at : at + cut] = put
    return bytes(message)


@given(mutated())
def test_mutated_messages_get_a_verdict(message: bytes) -> None:
    verdict(message)


@given(st.lists(mutated() | messages.map(encode) | st.none(), max_size=8))
def test_a_batch_gets_the_verdicts_of_its_messages(batch: list[bytes | None]) -> None:
    assert [shown(found) for found in decode_batch(batch)] == [verdict(message) for message in batch]


@given(st.text('0123456789-:T.+Z "\\\0٣', min_size=26, max_size=38) | st.from_regex(USUAL_WITH_CHANGES, fullmatch=True))
def test_timestamps_parsed_in_bulk_follow_the_pattern(text: str) -> None:
    found = verdict(encode(msgspec.structs.replace(EXAMPLE, timestamp=text)))
    assert isinstance(found, str) or re.fullmatch(TIMESTAMP_PATTERN, text)


@given(mutated() | messages.map(encode))
def test_a_wrong_field_that_a_later_occurrence_replaces_changes_nothing(message: bytes) -> None:
    if message[:1] != b"{" or message[1:2] != b'"':
        return
    usual = verdict(message)
    with_wrong_first = verdict(b'{"value":"x",' + message[1:])
    assert isinstance(with_wrong_first, str) == isinstance(usual, str)
    if isinstance(usual, dict):
        assert with_wrong_first == usual
