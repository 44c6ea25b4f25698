"""Files as people publish them become what a person would read in them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from iot.devices.field_map import NO_MAP, FieldMap, load_map
from iot.devices.results import FormError
from iot.inputs import Input
from iot.readings import decode, encode, format_timestamp
from iot.sensors.recording import Recording, read_recording

FORMS = Path(__file__).parents[2] / "data" / "forms"
CASES = ["sensor-community/as-published.csv", "influxdb/as-published.csv", "influxdb/line-protocol.lp",
         "the-things-stack/as-published.jsonl", "the-things-stack/storage-api.jsonl"]  # fmt: skip


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch, local_zone) -> None:
    local_zone("UTC")


def readings(path: Path, field_map: FieldMap = NO_MAP) -> list[dict[str, object]]:
    """The readings of a file, as the readers of the topic have them."""
    recording = read_recording(Input(path), field_map)
    assert isinstance(recording, Recording)
    found = [decode(encode(message)) for message in recording.messages]
    return [
        {
            "sensor_id": each.sensor_id,
            "sensor_type": each.sensor_type,
            "location": each.location,
            "value": each.value,
            "unit": each.unit,
            "timestamp": format_timestamp(each.time_us),
        }
        for each in found
    ]


def expected(path: Path, key: str = "readings") -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((path.parent / "expected.json").read_text(encoding="utf-8"))[key]
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_published_file_becomes_the_expected_readings(name):
    assert readings(FORMS / name) == expected(FORMS / name)


@pytest.mark.parametrize("name", CASES)
def test_gzip_changes_nothing(name, tmp_path):
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress((FORMS / name).read_bytes()))
    assert readings(packed) == expected(FORMS / name)


def test_a_file_that_cannot_be_guessed_is_refused_with_a_map_to_fill_in(tmp_path):
    path = FORMS / "day-first" / "as-published.csv"
    with pytest.raises(FormError) as raised:
        read_recording(Input(path))
    assert "no column names a sensor" in str(raised.value)
    assert "08-12-2018 09:30 in noted_date may have the day or the month first" in str(raised.value)
    assert "\n" not in str(raised.value)
    for line in ("[columns]", 'sensor_id = "…"', 'timestamp = "noted_date"', 'format = "day first"', 'zone = "UTC"'):
        assert line in raised.value.map_text
    filled = raised.value.map_text.replace('"…"  # the column', '["room_id/id", "out/in"]  # the column', 1)
    written = tmp_path / "map.toml"
    written.write_text(filled, encoding="utf-8")
    assert readings(path, load_map(written)) == expected(path, "readings_with_map")


READING = ("9001", "temperature", 12.7, "celsius", "2017-10-11T00:01:03.000000+00:00")
HUMIDITY = ("9001", "humidity", 79.3, "percent", "2017-10-11T00:01:03.000000+00:00")
LATER = ("9001", "temperature", 12.8, "celsius", "2017-10-11T00:05:58.000000+00:00")


@pytest.mark.parametrize(
    ("name", "what", "refused"),
    [
        ("blank-after-comma", [READING], []),
        ("comma", [READING, HUMIDITY], []),
        ("cp1252", [READING], []),
        ("decimal-comma", [READING], []),
        ("empty-rows", [READING], []),
        ("excel-de", [READING], []),
        ("gap", [READING, LATER], ["line 3: value has no value: write a number to send it"]),
        ("nan", [READING], ["line 3: value has no value: write a number to send it"]),
        ("pandas", [READING, HUMIDITY], []),
        ("semicolon", [READING, HUMIDITY], []),
        ("utf16", [READING], []),
    ],
)
def test_every_dialect_of_csv(name, what, refused):
    path = FORMS / "csv-dialects" / f"{name}.csv"
    found = readings(path)
    keys = ("sensor_id", "sensor_type", "value", "unit", "timestamp")
    assert [tuple(each[key] for key in keys) for each in found] == what
    assert read_recording(Input(path)).report.refusals() == refused
