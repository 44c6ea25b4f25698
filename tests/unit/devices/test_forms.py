"""Every form of devices and files: what is read, what is refused, and that nothing is guessed."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest

from iot.devices.field_map import NO_MAP, load_map
from iot.devices.results import FormError
from iot.inputs import Input
from iot.readings import decode, encode, format_timestamp
from iot.sensors.recording import Recording, read_recording
from tests.support.form_samples import SAMPLES, TEN, UNCLEAR


@pytest.fixture(autouse=True)
def _berlin(local_zone) -> None:
    local_zone("Europe/Berlin")


def read(path: Path, map_path: Path | None = None) -> Recording:
    recording = read_recording(Input(path), load_map(map_path) if map_path else NO_MAP)
    assert isinstance(recording, Recording)
    return recording


def found_in(recording: Recording) -> list[Any]:
    readings = [decode(encode(message)) for message in recording.messages]
    return [
        (r.sensor_id, r.sensor_type, r.value, str(r.unit), format_timestamp(r.time_us), str(r.location))
        for r in readings
    ]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_of_each_form(name, tmp_path):
    sample = SAMPLES[name]
    path, map_path = tmp_path / "file", tmp_path / "map.toml"
    path.write_text(sample.content, encoding="utf-8")
    map_path.write_text(sample.map, encoding="utf-8")
    recording = read(path, map_path if sample.map else None)
    assert [(*each[:2], pytest.approx(each[2], abs=1e-9), *each[3:]) for each in sample.readings] == found_in(recording)
    refusals = recording.report.refusals()
    assert len(refusals) == len(sample.refused), refusals
    for refusal, wanted in zip(refusals, sample.refused, strict=True):
        assert refusal.startswith(wanted), refusal


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.map])
def test_a_sample_that_needs_a_map_is_not_read_otherwise(name, tmp_path):
    path = tmp_path / "file"
    path.write_text(SAMPLES[name].content, encoding="utf-8")
    with pytest.raises(FormError) as raised:
        read(path)
    assert raised.value.map_text


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
        (b"", "cp1252"),
    ],
)
@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if not sample.map])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_change_nothing(mark, encoding, name, ending, tmp_path):
    sample = SAMPLES[name]
    if encoding == "cp1252" and sample.content.isascii():
        pytest.skip("the same as UTF-8")
    path = tmp_path / "file"
    content = sample.content.replace("\r\n", "\n").replace("\n", ending)
    path.write_bytes(mark + content.encode(encoding))
    readings = found_in(read(path))
    assert [each[:2] for each in readings] == [each[:2] for each in sample.readings]
    assert [each[2:] for each in readings] == [
        (pytest.approx(each[2], abs=1e-9), *each[3:]) for each in sample.readings
    ]


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_nobody_can_tell_is_asked(name, tmp_path):
    content, says = UNCLEAR[name]
    path = tmp_path / "file"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FormError) as raised:
        read(path)
    text = f"{raised.value}\n{raised.value.map_text}"
    for each in says:
        assert each in text
    assert "\n" not in str(raised.value)


def test_what_is_no_text_is_said(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(FormError, match="the content is no text"):
        read(path)


def test_another_encoding_is_asked(tmp_path):
    path, map_path = tmp_path / "file", tmp_path / "map.toml"
    path.write_bytes("time,device,temp\n2024-01-15T10:00:00Z,Кухня Џ ђ,20\n".encode("cp1251"))
    with pytest.raises(FormError, match="the encoding is neither UTF-8 nor cp1252") as raised:
        read(path)
    map_path.write_text(raised.value.map_text.replace('"…"', '"cp1251"'), encoding="utf-8")
    assert found_in(read(path, map_path)) == [("Кухня Џ ђ", "temperature", 20, "celsius", TEN, "unknown")]
