"""Rules, the readings that break them, and the alerts they raise."""

from __future__ import annotations

import json

import pytest

from iot.alerts import DEFAULT_RULES, Alert, Rule, Rules, alert_id, broken_bound, encode, line, make_alert
from iot.readings import Message, decode
from iot.readings import encode as encode_reading

TIMESTAMP = "2026-11-24T02:15:07.123456+00:00"


def reading(value: float, sensor_type: str = "temperature", unit: str | None = "celsius", location: str | None = None):
    return decode(encode_reading(Message("sensor_0", sensor_type, value, TIMESTAMP, location, unit)))


@pytest.mark.parametrize(
    ("sensor_type", "unit", "value", "broken"),
    [
        ("temperature", "celsius", 15.0, None),
        ("temperature", "celsius", 30.0, None),
        ("temperature", "celsius", 14.99, ("LOW", 15.0)),
        ("temperature", "celsius", 30.01, ("HIGH", 30.0)),
        ("temperature", "°F", 59.0, None),
        ("temperature", "°F", 86.0, None),
        ("temperature", "°F", 95.0, ("HIGH", 30.0)),
        ("temperature", None, 31.7, ("HIGH", 30.0)),
        ("temperature", "K", 300.0, None),
        ("humidity", "percent", 30.0, None),
        ("humidity", "%", 70.0, None),
        ("humidity", "percent", 29.9, ("LOW", 30.0)),
        ("humidity", "%", 70.1, ("HIGH", 70.0)),
        ("pressure", "hPa", 1000.0, None),
        ("pressure", "Pa", 103_000.0, None),
        ("pressure", "hPa", 999.99, ("LOW", 1000.0)),
        ("pressure", "Pa", 103_050.0, ("HIGH", 1030.0)),
        ("motion", "boolean", 1.0, None),
        ("light", "lux", 1e9, None),
        ("co2", "ppm", 1e9, None),
    ],
)
def test_the_built_in_rules(sensor_type, unit, value, broken):
    assert broken_bound(reading(value, sensor_type, unit), DEFAULT_RULES) == broken


def test_a_rule_with_one_bound():
    rules = Rules((Rule("co2", "ppm", min=1.0),))
    assert broken_bound(reading(0.5, "co2", "ppm"), rules) == ("LOW", 1.0)
    assert broken_bound(reading(1e300, "co2", "ppm"), rules) is None


def test_alerts_look_at_the_tightest_bounds_of_all_severities():
    rules = Rules(
        (
            Rule("co2", "ppm", max=1_200.0, severity="warning", clear_max=1_000.0, for_s=60.0),
            Rule("co2", "ppm", min=300.0, max=2_000.0, severity="critical"),
            Rule("co2", "ppm", min=200.0, severity="info"),
            Rule("co2", "percent", max=1.0),
            Rule("wind", "m/s", max_silence_s=60.0),
        )
    )
    assert rules.bounds == {
        ("co2", "ppm"): Rule("co2", "ppm", 300.0, 1_200.0),
        ("co2", "percent"): Rule("co2", "percent", None, 1.0),
    }
    assert broken_bound(reading(1_500.0, "co2", "ppm"), rules) == ("HIGH", 1_200.0)
    assert broken_bound(reading(250.0, "co2", "ppm"), rules) == ("LOW", 300.0)
    assert broken_bound(reading(1_100.0, "co2", "ppm"), rules) is None
    assert broken_bound(reading(1e300, "wind", "m/s"), rules) is None


def test_an_alert_has_the_fields_of_the_contract():
    alert = make_alert(reading(31.7, location="building_a"), "HIGH", 30.0, alert_id("iot-sensors", 2, 99187))
    assert json.loads(encode(alert)) == {
        "alert_id": "iot-sensors-2-99187",
        "type": "HIGH_TEMPERATURE",
        "sensor_id": "sensor_0",
        "sensor_type": "temperature",
        "location": "building_a",
        "value": 31.7,
        "unit": "celsius",
        "threshold": 30.0,
        "timestamp": "2026-11-24T02:15:07.123456+00:00",
    }


def test_the_timestamp_of_an_alert_is_utc_with_six_digits():
    message = Message("s", "temperature", 99.0, "2026-11-24T04:15:07+02:00")
    assert (
        make_alert(decode(encode_reading(message)), "HIGH", 30.0, "a").timestamp == "2026-11-24T02:15:07.000000+00:00"
    )


def test_the_line_of_an_alert_holds_type_sensor_value_and_bound():
    high = make_alert(reading(31.7, location="building_a"), "HIGH", 30.0, "a")
    assert line(high) == f"ALERT HIGH_TEMPERATURE sensor_0 31.7 celsius > 30.0, building_a, {TIMESTAMP}"
    low = make_alert(reading(14.0), "LOW", 15.0, "a")
    assert line(low) == f"ALERT LOW_TEMPERATURE sensor_0 14.0 celsius < 15.0, unknown, {TIMESTAMP}"


def test_a_sensor_cannot_send_control_characters_to_the_terminal():
    alert = Alert("a", "HIGH_X", "\x1b[2Jsensor\n", "x", "\u202ehall", 1.0, "\r", 0.0, TIMESTAMP)
    assert line(alert).isprintable()
    assert r"\x1b[2Jsensor\n" in line(alert)
