"""No input stops the program, and no input is sent with a wrong meaning."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iot.devices.formats import PayloadParser, open_content
from iot.devices.results import Timed
from iot.devices.times import BadTime, Clock, detect
from iot.readings import decode, encode, format_timestamp
from iot.settings import UserError
from tests.support.form_samples import SAMPLES, UNCLEAR

TEXTS = [*(sample.content for sample in SAMPLES.values()), *(content for content, _ in UNCLEAR.values())]
NOW_US = 1_705_312_800_000_000
lenient = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)


@pytest.fixture(autouse=True, scope="module")
def _berlin() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        import time

        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


class Opened:
    """A content in memory."""

    name = "file"

    def __init__(self, content: bytes) -> None:
        self.stream = io.BytesIO(content)


def results_of(content: bytes) -> list[Any]:
    """Every reading and refusal in a content; every reading is checked against the schema."""
    results = [each for _, each in open_content(Opened(content))]
    flat = [result for each in results for result in each]
    for result in flat:
        if isinstance(result, Timed):
            assert decode(encode(result.message)).time_us == result.time_us
        else:
            assert result.reason
            assert "\n" not in result.reason
    return flat


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A sample with some bytes replaced, removed or added."""
    content = bytearray(
        draw(st.sampled_from(TEXTS)).encode(draw(st.sampled_from(["utf-8", "utf-16", "cp1252"])), "replace")
    )
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(content) - 1))
        what = draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b'"', b"\n", b"{", b"}", b"[", b",", b";", b"1e999"]))
        )
        content[at : at + draw(st.integers(0, 4))] = what
        if not content:
            break
    return bytes(content)


@lenient
@given(
    st.one_of(
        broken(), st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))
    )
)
@example(b'{"sensor_id":"a","sensor_type":"t","value":1,"timestamp":"0001-01-01T00:00:00Z"}')
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'"' * 1_000)
@example(b"time,device,temp\n9999-12-31T23:59:59,a,1\n0001-01-01,a,1\n")
@example("time,device,temp\n٢٠٢٤-01-01,a,١\n2024-01-15T10:00:00Z,a,²\n".encode())
@example(b"time,device,temp\n" + b"1" * 5_000 + b",a,1\n2024-01-15T10:00:00Z,a," + b"2" * 5_000 + b"\n")
@example(
    b'{"device":"a","time":'
    + b"1" * 5_000
    + b',"temp":1}\n{"device":"a","time":1705312800,"temp":'
    + b"2" * 5_000
    + b"}"
)
@example(b"room,device=a temp=" + b"1" * 5_000 + b"i 1\nroom,device=a temp=1 " + b"1" * 5_000)
@example(
    b'{"device":"a","' + b" " * 200_000 + b'":1,"temp":"' + b" " * 100_000 + b'x","time":"' + b"T" * 100_000 + b'"}'
)
@example(b"[" + b'{"t":"2024-01-15 10:00:00"},' * 9_000 + b"]")
@example(b"a,b=c" * 2_000)
@example(b'sensor_id,sensor_type,value,"timestamp\na,temperature,20,2024-01-15T10:00:00Z\n')
@example(b'{"temp\\n(C)": "x", "device": "a", "time": "2024-01-15T10:00:00Z"}')
def test_no_file_stops_the_program(content):
    try:
        results_of(content)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


@lenient
@given(
    st.one_of(broken(), st.binary(max_size=200), st.sampled_from([text.encode() for text in TEXTS])),
    st.one_of(
        st.none(), st.sampled_from(["zigbee2mqtt/a", "tele/b/SENSOR", "a/temperature", "", "/", "v1/gateway/telemetry"])
    ),
    st.one_of(st.none(), st.just("device")),
)
def test_no_payload_stops_the_gateway(payload, topic, device):
    made = PayloadParser().parse(payload, topic, NOW_US, device)
    assert made.results or not payload.strip()
    for result in made.results:
        if isinstance(result, Timed):
            assert decode(encode(result.message)).time_us == result.time_us


# Keys that forms look at.
KEYS = """
ts values sensor_id sensor_type value timestamp time temperature humidity uplink_message state s lu
unit entity_id last_changed attributes Time StatusSNS TempUnit topic payload data result
sensordatavalues sensor location end_device_ids decoded_payload linkquality device a.b
sensor.x_temperature
"""
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(KEYS.split()),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)


@lenient
@given(json_values, st.sampled_from([None, "zigbee2mqtt/a", "tele/b/SENSOR", "a/temperature"]))
def test_no_json_stops_the_gateway(value, topic):
    made = PayloadParser().parse(json.dumps(value).encode(), topic, NOW_US)
    assert all(isinstance(result, Timed) or result.reason for result in made.results)


moments = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
# How people write a time, and how exactly, in microseconds.
TIME_FORMATS = {
    "iso": (lambda moment: moment.isoformat(), 1),
    "iso with Z": (lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), 1),
    "pandas": (lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S+00:00"), 1_000_000),
    "slashes": (lambda moment: moment.strftime("%Y/%m/%d %H:%M:%S UTC"), 1_000_000),
    "compact": (lambda moment: moment.strftime("%Y%m%dT%H%M%SZ"), 1_000_000),
    "named": (lambda moment: moment.strftime("%d %b %Y %H:%M:%S +0000"), 1_000_000),
    "twelve hours": (lambda moment: moment.strftime("%b %d, %Y %I:%M %p UTC"), 60_000_000),
    "s": (lambda moment: str(int(moment.timestamp())), 1_000_000),
    "ms": (lambda moment: str(_micros(moment) // 1_000), 1_000),
    "us": (lambda moment: str(_micros(moment)), 1),
    "ns": (lambda moment: str(_micros(moment) * 1_000 + 999), 1),
}


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@lenient
@given(moments, st.sampled_from(list(TIME_FORMATS)))
def test_a_time_is_read_as_it_was_written(moment, name):
    write, exact_us = TIME_FORMATS[name]
    assert Clock().time_us(write(moment)) == _micros(moment) // exact_us * exact_us


@lenient
@given(moments, st.sampled_from(["/", "-", "."]))
def test_a_date_with_the_day_or_month_first_is_read_rightly_or_not_at_all(moment, mark):
    day_first, month_first = (
        moment.strftime(f"{form} %H:%M") + "Z" for form in (f"%d{mark}%m{mark}%Y", f"%m{mark}%d{mark}%Y")
    )
    wanted = _micros(moment) // 60_000_000 * 60_000_000
    for text in (day_first, month_first):
        clock = detect([text], UTC)
        try:
            assert clock.time_us(text) == wanted
        except BadTime as error:
            assert moment.day <= 12
            assert "say which in a map" in str(error)  # noqa: PT017


UNITS = {
    "temperature": {"°C": lambda v: v, "C": lambda v: v, "°F": lambda v: v * 1.8 + 32, "K": lambda v: v + 273.15},
    "humidity": {"%": lambda v: v, "fraction": lambda v: v / 100},
    "pressure": {
        "hPa": lambda v: v,
        "mbar": lambda v: v,
        "Pa": lambda v: v * 100,
        "kPa": lambda v: v / 10,
        "inHg": lambda v: v / 33.863886666667,
        "mmHg": lambda v: v / 1.33322387415,
    },
    "light": {"lx": lambda v: v, "lux": lambda v: v},
}
RANGES = {"temperature": (-40, 44), "humidity": (2, 100), "pressure": (900, 1100), "light": (0, 9_999)}


@st.composite
def wide_tables(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, str, float, str]]]:
    """A wide CSV in some dialect, and the readings in it."""
    types = draw(st.lists(st.sampled_from(list(UNITS)), min_size=1, unique=True))
    units = {each: draw(st.sampled_from(list(UNITS[each]))) for each in types}
    delimiter = draw(st.sampled_from([",", ";", "\t", "|"]))
    decimal = draw(st.sampled_from([".", ","]))
    write = TIME_FORMATS[draw(st.sampled_from(["iso", "iso with Z", "pandas", "us", "ns"]))][0]
    columns = ["time", "device", *(f"{each} [{units[each]}]" for each in types)]
    order = draw(st.permutations(range(len(columns))))
    rows, readings = [[columns[at] for at in order]], []
    for number in range(draw(st.integers(1, 4))):
        moment = draw(moments).replace(microsecond=0)
        device = draw(st.text(st.characters(codec="cp1252", exclude_categories=["C", "Z"]), min_size=1, max_size=8))
        if draw(st.booleans()):
            device += f' "{number}" of, the; lot'
        row = [write(moment), device]
        for each in types:
            value = draw(st.integers(RANGES[each][0] * 100, RANGES[each][1] * 100)) / 100
            row.append(f"{UNITS[each][units[each]](value):.4f}".replace(".", decimal))
            readings.append((device.strip(), each, value, format_timestamp(_micros(moment))))
        rows.append([row[at] for at in order])
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return text.getvalue().encode(encoding), readings


@lenient
@given(wide_tables())
def test_a_table_is_read_as_it_was_written(table):
    content, readings = table
    found = [
        (each.message.sensor_id, each.message.sensor_type, each.message.value, each.message.timestamp)
        for each in results_of(content)
        if isinstance(each, Timed)
    ]
    # Columns may stand in any order; readings of one type and time keep that of their rows.
    found.sort(key=lambda each: (each[0], each[1], each[3]))
    readings.sort(key=lambda each: (each[0], each[1], each[3]))
    assert [(*each[:2], each[3]) for each in found] == [(*each[:2], each[3]) for each in readings]
    for one, other in zip(found, readings, strict=True):
        assert one[2] == pytest.approx(other[2], abs=0.011 if one[1] in ("humidity", "pressure") else 1e-3)


@lenient
@given(
    st.lists(st.text(max_size=30).filter(lambda text: "\n" not in text and "\r" not in text), min_size=1, max_size=3),
    st.integers(0, 5),
)
def test_a_broken_row_changes_no_other_row(broken_rows, at):
    rows = [f"2024-01-15T10:00:0{number}Z,dev{number},2{number}.5,4{number}" for number in range(6)]
    good = "time,device,temp,humidity\n" + "".join(f"{row}\n" for row in rows)
    mixed = "time,device,temp,humidity\n" + "".join(f"{row}\n" for row in [*rows[:at], *broken_rows, *rows[at:]])
    wanted = [each for each in results_of(good.encode()) if isinstance(each, Timed)]
    try:
        found = [each for each in results_of(mixed.encode("utf-8", "replace")) if isinstance(each, Timed)]
    except UserError:
        return
    assert [each for each in found if each.message.sensor_id.startswith("dev")] == wanted
