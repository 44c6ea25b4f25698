"""Payloads of HTTP and MQTT: the device and the time where the payload names none."""

from __future__ import annotations

import json
import re

import pytest

from iot.devices.field_map import NO_MAP, FieldMap, parse_map
from iot.devices.formats import Payload, PayloadParser
from iot.devices.results import Refused, Timed

NOW_US = 1_705_312_800_000_000
NOW = "2024-01-15T10:00:00.000000+00:00"


def parsed(
    payload: object, topic: str | None = None, device: str | None = None, field_map: FieldMap = NO_MAP
) -> Payload:
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return PayloadParser(field_map).parse(content, topic, NOW_US, device)


def readings(made: Payload) -> list[tuple[str, str, float, str]]:
    assert all(isinstance(result, Timed) for result in made.results), made.results
    messages = [result.message for result in made.results if isinstance(result, Timed)]
    return [(each.sensor_id, each.sensor_type, each.value, each.timestamp) for each in messages]


@pytest.mark.parametrize(
    ("payload", "topic", "device", "sensor_id"),
    [
        ({"temperature": 21.5}, None, "esp", "esp"),
        ({"temperature": 21.5}, "home/kitchen", None, "home/kitchen"),
        ({"temperature": 21.5, "device": "inner"}, "home/kitchen", None, "inner"),
        ({"temperature": 21.5, "device": "inner"}, None, "token", "token"),
        ({"temperature": 21.5, "linkquality": 9}, "zigbee2mqtt/living room/shelf", None, "living room/shelf"),
        ({"Time": "2020-01-01T00:00:00", "AM2301": {"Temperature": 21.5}}, "tele/plug/SENSOR", None, "plug"),
        ({"Time": "2020-01-01T00:00:00", "AM2301": {"Temperature": 21.5}}, "home/plug/tele/SENSOR", None, "home/plug"),
        (
            {"StatusSNS": {"Time": "2020-01-01T00:00:00", "AM2301": {"Temperature": 21.5}}},
            "stat/plug/STATUS8",
            None,
            "plug",
        ),
        (b"21.5", "home/kitchen/temperature", None, "home/kitchen"),
        ([{"temperature": 21.5}], None, "esp", "esp"),
        ({"values": {"temperature": 21.5}, "ts": 1705312800000}, "v1/devices/me/telemetry", "token", "token"),
        (b"21.5", "attic/sensor/temperature/state", None, "attic/sensor"),
        (b"room,device=lp temperature=21.5", None, None, "lp"),
    ],
)
def test_the_device_comes_from_payload_token_or_topic(payload, topic, device, sensor_id):
    assert readings(parsed(payload, topic, device)) == [(sensor_id, "temperature", 21.5, NOW)]


def test_a_time_in_the_payload_counts():
    assert readings(parsed({"ts": 1705312860000, "values": {"temperature": 1}}, None, "d"))[0][3].startswith(
        "2024-01-15T10:01"
    )
    assert readings(parsed({"temperature": 1, "time": "2024-01-15T10:02:00Z"}, None, "d"))[0][3].startswith(
        "2024-01-15T10:02"
    )
    last_seen = {"temperature": 1, "linkquality": 1, "last_seen": "2024-01-15T11:03:00+01:00"}
    assert readings(parsed(last_seen, "zigbee2mqtt/d"))[0][3].startswith("2024-01-15T10:03")


SHELLY = {
    "src": "shellyplusht-08b61fcb7f3c",
    "dst": "shellyplusht-08b61fcb7f3c/events",
    "method": "NotifyFullStatus",
    "params": {
        "ts": 1705312800.5,
        "temperature:0": {"id": 0, "tC": 21.5, "tF": 70.7},
        "humidity:0": {"id": 0, "rh": 40.2},
        "temperature:100": {"id": 100, "tC": 4.5, "tF": 40.1},
        "devicepower:0": {"id": 0, "battery": {"V": 5.3, "percent": 88}},
        "wifi": {"rssi": -60},
    },
}


def test_a_notification_of_a_shelly_names_device_component_and_time():
    stamp = "2024-01-15T10:00:00.500000+00:00"
    device = "shellyplusht-08b61fcb7f3c"
    assert readings(parsed(SHELLY, f"{device}/events/rpc")) == [
        (device, "temperature", 21.5, stamp),
        (device, "humidity", 40.2, stamp),
        (f"{device}:100", "temperature", 4.5, stamp),
    ]


@pytest.mark.parametrize(
    ("topic", "payload", "found"),
    [
        ("hall/ht/status/temperature:0", {"id": 0, "tC": 21.5, "tF": 70.7}, ("hall/ht", "temperature", 21.5, NOW)),
        ("hall/ht/status/humidity:101", {"id": 101, "rh": 40.2}, ("hall/ht:101", "humidity", 40.2, NOW)),
        ("hall/ht/status/illuminance:0", {"id": 0, "lux": 320}, ("hall/ht", "light", 320.0, NOW)),
    ],
)
def test_a_component_of_a_shelly_is_named_by_its_topic(topic, payload, found):
    assert readings(parsed(payload, topic)) == [found]


@pytest.mark.parametrize("component", [{"id": 0, "tC": None, "errors": ["read"]}, {"id": 0}])
def test_a_shelly_whose_sensor_fails_sends_no_reading(component):
    made = parsed({"src": "s", "method": "NotifyStatus", "params": {"ts": 1705312800, "temperature:0": component}})
    assert [type(result) for result in made.results] == [Refused]


def influxql(series: object) -> dict[str, object]:
    return {"results": [{"statement_id": 0, "series": series}]}


@pytest.mark.parametrize("times", [("2024-01-15T10:00:00Z", "2024-01-15T10:00:10Z"), (1705312800000, 1705312810000)])
def test_an_answer_of_influxql_has_tags_of_a_series_or_in_columns(times):
    grouped = {
        "name": "climate",
        "tags": {"device": "attic"},
        "columns": ["time", "temperature", "humidity"],
        "values": [[times[0], 21.5, 40], [times[1], None, 41]],
    }
    in_columns = {"name": "climate", "columns": ["time", "device", "temperature"], "values": [[times[0], "hall", 19]]}
    assert readings(parsed(influxql([grouped, in_columns]))) == [
        ("attic", "temperature", 21.5, NOW),
        ("attic", "humidity", 40.0, NOW),
        ("attic", "humidity", 41.0, NOW.replace(":00.0", ":10.0")),
        ("hall", "temperature", 19.0, NOW),
    ]


@pytest.mark.parametrize(
    ("series", "says"),
    [
        ([{"columns": ["time", "temperature"]}], "columns and values"),
        ([{"columns": ["time", 5], "values": []}], "columns and values"),
        ([{"columns": ["time", "temperature"], "values": [["2024-01-15T10:00:00Z"]]}], "needs 2 values"),
        ([{"columns": ["time", "temperature"], "values": [{}]}], "needs 2 values"),
    ],
)
def test_a_broken_answer_of_influxql_says_what_is_missing(series, says):
    (refused,) = parsed(influxql(series)).results
    assert isinstance(refused, Refused)
    assert says in refused.reason


def test_our_schema_keeps_run_id_sequence_and_unit():
    message = {"sensor_id": "a", "sensor_type": "temperature", "value": 68, "unit": "°F", "run_id": "r", "sequence": 7}
    [made] = parsed(message).results
    assert isinstance(made, Timed)
    assert (made.message.run_id, made.message.sequence, made.message.unit, made.message.value) == ("r", 7, "°F", 68)
    assert made.message.timestamp == NOW
    assert made.time_us == NOW_US


def test_json_lines_and_arrays_keep_the_order_and_refuse_one_by_one():
    lines = b'{"temperature":1}\n{"temperature":"x"}\n{"temperature":3}\n'
    for payload in (lines, b"[" + lines.strip().replace(b"\n", b",") + b"]"):
        first, second, third = parsed(payload, None, "d").results
        assert isinstance(first, Timed)
        assert isinstance(second, Refused)
        assert second.reason == "temperature: 'x' is not a number"
        assert isinstance(third, Timed)


def test_keys_that_name_no_known_type_are_left_out_and_named():
    made = parsed({"temperature": 1, "firmware": "1.2", "rssi": -60}, None, "d")
    assert len(readings(made)) == 1
    assert made.left_out == ["firmware", "rssi"]


@pytest.mark.parametrize(
    ("payload", "topic", "says", "is_other"),
    [
        (b"", None, "the payload is empty", False),
        (b"\xff", None, "invalid UTF-8 .byte 0.", False),
        (b"{", None, "not JSON: ", False),
        (b"7", None, "a single value without a topic", False),
        (b"7", "home/door", "names a known type", True),
        ({"rssi": 1}, "home/door", "no field names a known type", True),
        ({"state": "online"}, "zigbee2mqtt/bridge/state", "hold no measurements", True),
        ({"temperature": 21}, None, "no field names a sensor", False),
        ({"pressure": 101325}, "a", "101325 is not plausible in hPa", False),
        ({"humidity": 0.4}, "a", "0.4 is not plausible in percent", False),
        ({"temperature": 1e999}, "a", "not JSON", False),
        ({"temperature": True}, "a", "True is not a number", False),
        ({"temperature": 21, "time": "02/03/2024"}, "a", "may have the day or the month first", False),
        ({"temperature": 21, "time": "soon"}, "a", "'soon' is not a time", False),
        ({"temperature": 21}, "x" * 200, "sensor_id has 200 characters", False),
    ],
)
def test_a_payload_that_is_no_reading_says_why(payload, topic, says, is_other):
    [result] = parsed(payload, topic).results
    assert isinstance(result, Refused)
    assert re.search(says, result.reason), result.reason
    assert result.is_other == is_other


def test_a_map_names_units_and_columns():
    field_map = parse_map({"units": {"pressure": "Pa"}, "columns": {"sensor_id": "who", "co2": "c"}})
    made = parsed({"pressure": 101325, "who": "x", "c": 612}, "a/b", field_map=field_map)
    assert readings(made) == [("x", "co2", 612, NOW), ("x", "pressure", 1013.25, NOW)]


def test_a_parser_keeps_nothing_of_one_payload_for_the_next():
    parser = PayloadParser()
    history = json.dumps([{"entity_id": "sensor.a_temperature", "state": "1", "last_changed": "2024-01-15T10:00:00Z"}])
    assert len(readings(parser.parse(history.encode(), None, NOW_US))) == 1
    [result] = parser.parse(b'{"state": "2", "last_changed": "2024-01-15T10:00:00Z"}', None, NOW_US).results
    assert isinstance(result, Refused)
    for device in ("one", "two"):
        made = parser.parse(b'{"temperature": 21.5, "rssi": 1}', None, NOW_US, device)
        assert readings(made) == [(device, "temperature", 21.5, NOW)]
        assert made.left_out == ["rssi"]
    assert parser.parse(b'{"temperature": 21.5}', None, NOW_US, "one").left_out == []
    # The first value does not decide about the next ones.
    assert isinstance(parser.parse(b'{"temperature": "x"}', "t", NOW_US).results[0], Refused)
    assert isinstance(parser.parse(b'{"temperature": 3}', "t", NOW_US).results[0], Timed)
