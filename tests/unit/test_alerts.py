"""The rules and what breaks them; a rules file that is wrong says where and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iot.alerts import DEFAULT_RULES, Alert, Rule, alert_id, broken_bound, encode, line, make_alert
from iot.readings import Message, decode
from iot.readings import encode as encode_reading
from iot.rules_file import load_rules
from iot.settings import UserError

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
def test_the_usual_rules(sensor_type, unit, value, broken):
    assert broken_bound(reading(value, sensor_type, unit), DEFAULT_RULES) == broken


def test_a_rule_with_one_bound():
    rules = {("co2", "ppm"): Rule("co2", "ppm", min=1.0)}
    assert broken_bound(reading(0.5, "co2", "ppm"), rules) == ("LOW", 1.0)
    assert broken_bound(reading(1e300, "co2", "ppm"), rules) is None


def test_an_alert_is_as_in_the_contract():
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


def test_what_a_sensor_sends_does_not_steer_the_terminal():
    alert = Alert("a", "HIGH_X", "\x1b[2Jsensor\n", "x", "\u202ehall", 1.0, "\r", 0.0, TIMESTAMP)
    assert line(alert).isprintable()
    assert r"\x1b[2Jsensor\n" in line(alert)


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def test_rules_from_a_file_replace_the_usual_ones(rules_file):
    rules_file.write_text(
        """# what we watch
[[rule]]
sensor_type = "temperature"
unit = "celsius"
max = 25

[[rule]]
sensor_type = "größe"
unit = "m³"
min = -1.5
max = 2
"""
    )
    assert load_rules(rules_file) == {
        ("temperature", "celsius"): Rule("temperature", "celsius", None, 25.0),
        ("größe", "m³"): Rule("größe", "m³", -1.5, 2.0),
    }


def test_a_file_as_windows_writes_it(rules_file):
    rules_file.write_bytes(b'\xef\xbb\xbf[[rule]]\r\nsensor_type = "x"\r\nunit = "y"\r\nmin = 1\r\n')
    assert load_rules(rules_file) == {("x", "y"): Rule("x", "y", 1.0)}


X_IN_Y = '[[rule]]\nsensor_type = "x"\nunit = "y"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected one or more [[rule]] tables"),
        ("rule = 5\n", "line 1: expected one or more [[rule]] tables"),
        ("\n[rule]\nmin = 1\n", "line 2: expected one or more [[rule]] tables"),
        ("rule = []\n", "line 1: expected one or more [[rule]] tables"),
        (X_IN_Y + "min = \n", "line 4: not TOML: Invalid value"),
        (X_IN_Y + "min = 1\nmin = 2\n", "line 5: not TOML: Cannot overwrite a value"),
        (X_IN_Y + 'name = "', "line 4: not TOML: Unterminated string"),
        (X_IN_Y + "min = " + "9" * 5_000, "not TOML: "),
        ("a = " + "[" * 5_000, "not TOML: "),
        ("title = 'mine'\n" + X_IN_Y + "min = 1\n", "line 1: unknown key 'title'; expected only [[rule]] tables"),
        (X_IN_Y + "mininum = 1\n", "line 4: unknown key 'mininum'; expected sensor_type, unit, min or max"),
        (X_IN_Y, "line 1: neither min nor max; expected at least one of them"),
        ('\n\n[[rule]]\nunit = "y"\nmin = 1\n', "line 3: sensor_type is missing; expected a string"),
        ('[[rule]]\nsensor_type = "x"\nmin = 1\n', "line 1: unit is missing; expected a string"),
        (
            '[[rule]]\nunit = "y"\nsensor_type = ""\nmin = 1\n',
            "line 3: sensor_type is ''; expected a string of 1 to 128 characters",
        ),
        (
            '[[rule]]\nsensor_type = "x"\nunit = 7\nmin = 1\n',
            "line 3: unit is 7; expected a string of 1 to 128 characters",
        ),
        (X_IN_Y + 'min = "1"\n', "line 4: min is '1'; expected a finite number"),
        (X_IN_Y + "max = true\n", "line 4: max is true; expected a finite number"),
        (X_IN_Y + "max = nan\n", "line 4: max is nan; expected a finite number"),
        (X_IN_Y + "min = -inf\n", "line 4: min is -inf; expected a finite number"),
        (X_IN_Y + "max = 1" + "0" * 400 + "\n", f"line 4: max is 1{'0' * 59}…; expected a finite number"),
        (X_IN_Y + "min = 2\nmax = 1\n", "line 4: min 2.0 is above max 1.0; expected min <= max"),
        (
            X_IN_Y + "min = 1\n" + X_IN_Y + "max = 2\n",
            "line 6: a second rule for 'x' in 'y'; expected one for each sensor_type and unit",
        ),
        (
            '[[rule]]\nsensor_type = "temperature"\nunit = "F"\nmax = 86\n',
            "line 3: unit is 'F', which readings are converted from; expected 'celsius' and bounds in it",
        ),
        ('rule = [{sensor_type = "x", unit = "y"}]\n', "rule 1: neither min nor max"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(rules_file, text, said):
    rules_file.write_text(text)
    with pytest.raises(UserError) as raised:
        load_rules(rules_file)
    assert str(raised.value).startswith(str(rules_file))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(rules_file))


def test_a_unit_that_is_converted_is_wrong_for_its_own_type_only(rules_file):
    rules_file.write_text('[[rule]]\nsensor_type = "oven"\nunit = "F"\nmax = 500\n')
    assert load_rules(rules_file) == {("oven", "F"): Rule("oven", "F", None, 500.0)}


def test_line_separators_in_a_comment_do_not_shift_the_lines(rules_file):
    rules_file.write_text("# one\u2028still one\x85still\n" + X_IN_Y + "max = true\n")
    with pytest.raises(UserError, match="line 5: max is true"):
        load_rules(rules_file)


@pytest.mark.parametrize("content", [None, b"\xff\xfe[\0"])
def test_a_file_that_cannot_be_read(rules_file, content):
    if content:
        rules_file.write_bytes(content)
    with pytest.raises(UserError, match=r"^cannot read the rules file .*rules.toml: [^\n]+$"):
        load_rules(rules_file)
