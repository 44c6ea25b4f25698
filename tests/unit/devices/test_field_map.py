"""The map: what it may say, and errors that name the key."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from iot.devices.field_map import load_map
from iot.settings import UserError


def written(folder: Path, text: str) -> Path:
    path = folder / "map.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_map_says_columns_constants_units_time_and_csv(tmp_path):
    found = load_map(
        written(
            tmp_path,
            """
            [columns]
            sensor_id = ["building", "room"]
            timestamp = "when"
            temperature = ["in", "out"]
            co2 = "CO2 (ppm)"
            ignore = ["noise"]
            [constants]
            location = "Büro"
            [units]
            temperature = "°F"
            co2 = "ppm"
            [time]
            format = "%d.%m.%Y %H:%M"
            zone = "Europe/Berlin"
            [csv]
            delimiter = ";"
            decimal = ","
            encoding = "cp1252"
            header = ["when", "in"]
            """,
        )
    )
    assert found.columns["sensor_id"] == ("building", "room")
    assert found.measures == {"temperature": ("in", "out"), "co2": ("CO2 (ppm)",)}
    assert found.ignore == {"noise"}
    assert found.constants == {"location": "Büro"}
    assert found.units == {"temperature": "°F", "co2": "ppm"}
    assert (found.delimiter, found.decimal, found.encoding) == (";", ",", "cp1252")
    assert found.header == ("when", "in")
    clock = found.clock()
    assert clock is not None
    assert (clock.pattern, clock.zone) == ("%d.%m.%Y %H:%M", ZoneInfo("Europe/Berlin"))
    assert clock.time_us("15.01.2024 11:00") == 1_705_312_800_000_000


def test_an_empty_map_changes_nothing(tmp_path):
    found = load_map(written(tmp_path, ""))
    assert found.clock() is None
    assert not found.columns


@pytest.mark.parametrize(
    ("name", "zone"), [("UTC", UTC), ("Z", UTC), ("local", None), ("Asia/Kolkata", ZoneInfo("Asia/Kolkata"))]
)
def test_zones(name, zone, tmp_path):
    assert load_map(written(tmp_path, f'[time]\nzone = "{name}"')).zone == zone


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[columns", "not TOML: "),
        ("[column]\na = 1", r"unknown table \[column\]; expected \[columns\], \[constants\]"),
        ("columns = 1", "columns is no table"),
        ("[constants]\nvalue = '1'", "has an unknown key 'value'; expected sensor_id"),
        ("[time]\nzones = 'UTC'", "has an unknown key 'zones'; expected format or zone"),
        ("[time]\nzone = 'Europe/Bonn'", "zone: no time zone 'Europe/Bonn'"),
        ("[time]\nzone = '../../etc/passwd'", "zone: no time zone"),
        ("[time]\nformat = 'dd.mm.yyyy'", "format is 'dd.mm.yyyy', without year, month or day; expected 'day first'"),
        ("[time]\nformat = '%H:%M'", "without year, month or day"),
        ("[time]\nformat = '%q'", "format is '%q'"),
        ("[time]\nformat = 7", "format is 7; expected a text"),
        ("[units]\ntemperature = 'furlong'", "temperature is 'furlong'; expected one of celsius"),
        ("[columns]\ntemperature = 7", "temperature is 7; expected the name of a column"),
        ("[columns]\nvalue = ['a', 'b']", "value is a list; expected one column"),
        ("[csv]\ndelimiter = ';;'", "delimiter is ';;'; expected one character"),
        ("[csv]\ndecimal = ';'", "decimal is ';'; expected"),
        ("[csv]\ndecimal = ','\ndelimiter = ','", "are both ','"),
        ("[csv]\nencoding = 'utf-9'", "encoding is 'utf-9'"),
        ("[csv]\nencoding = 'base64'", "encoding is 'base64'"),
    ],
)
def test_a_wrong_map_is_an_error_that_names_the_key(text, says, tmp_path):
    with pytest.raises(UserError, match=says) as raised:
        load_map(written(tmp_path, text))
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_a_map_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match="cannot read the map"):
        load_map(tmp_path / "none.toml")
