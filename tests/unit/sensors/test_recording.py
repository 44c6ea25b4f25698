"""Recordings: both formats, the order of time, sequence numbers, and errors that name the line."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from iot.inputs import Input
from iot.readings import Reading, decode
from iot.sensors.recording import Recording, Replay, read_recording
from iot.settings import UserError

DATA = Path(__file__).parents[2] / "data"
HEADER = "sensor_id,sensor_type,location,value,unit,timestamp,quality\n"
GOOD = "s1,temperature,here,20.5,celsius,2026-11-24T02:15:07Z,good\n"


def sent(recording: Recording, times_us: npt.NDArray[np.int64] | None = None, **how: object) -> list[Reading]:
    if times_us is None:
        times_us = np.arange(len(recording.messages)) * 1_000_000
    records = Replay(recording, "run1", **how).records(times_us)  # type: ignore[arg-type]
    assert all(record["key"] == decode(record["value"]).sensor_id.encode() for record in records)
    return [decode(record["value"]) for record in records]


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "recorded"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture(params=["readings.csv", "readings.jsonl"])
def recording(request: pytest.FixtureRequest) -> Recording:
    return read_recording(Input(DATA / request.param))


def test_both_formats_are_read_in_order_of_time(recording):
    found = [(r.sensor_id, r.value, r.location, r.quality, r.timestamp) for r in sent(recording, keep_times=True)]
    assert found == [
        ("buoy_1", 4.929, "ledge, north", "good", "2016-02-15T00:00:00Z"),
        ("buoy_2", pytest.approx(4.944, abs=1e-3), "ledge", "suspect", "2016-02-15T00:10:00Z"),
        ("buoy_2", pytest.approx(5.111, abs=1e-3), "ledge", "unknown", "2016-02-15T00:20:00Z"),
        ("vane_1", 7.5, "ledge", "good", "2016-02-15T01:20:00.25+01:00"),
        ("buoy_1", 4.887, "ledge, north", "good", "2016-02-15T00:30:00Z"),
    ]


def test_units_are_sent_as_they_were_recorded(recording):
    values = [record["value"] for record in Replay(recording, "run1").records(np.arange(5))]
    assert ['"unit":"°F"'.encode() in value for value in values] == [False, True, True, False, False]


def test_readings_get_the_run_id_and_new_sequence_numbers(recording):
    found = [(r.sensor_id, r.sequence, r.run_id) for r in sent(recording)]
    assert found == [
        ("buoy_1", 0, "run1"),
        ("buoy_2", 0, "run1"),
        ("buoy_2", 1, "run1"),
        ("vane_1", 0, "run1"),
        ("buoy_1", 1, "run1"),
    ]


def test_times_of_sending_replace_the_recorded_times(recording):
    times_us = np.array([5, 6, 7, 9, 8]) * 1_000_001
    assert [reading.time_us for reading in sent(recording, times_us)] == times_us.tolist()


def test_shares_together_make_the_whole_recording(recording):
    whole = [(r.sensor_id, r.sequence, r.value) for r in sent(recording, keep_times=True)]
    together: dict[int, object] = {}
    for share in range(2):
        replay = Replay(recording, "run1", True, share, 2)
        count = replay.count_below(5)
        numbers = replay.numbers(0, count)
        assert [replay.count_below(int(number)) for number in numbers] == list(range(count))
        readings = [decode(record["value"]) for record in replay.records(np.zeros(count, np.int64))]
        together |= dict(zip(numbers.tolist(), [(r.sensor_id, r.sequence, r.value) for r in readings], strict=True))
    assert [together[number] for number in range(5)] == whole


def test_readings_of_the_same_time_keep_their_order(tmp_path):
    lines = [GOOD.replace("s1", f"s{number}") for number in range(50)]
    assert [r.sensor_id for r in sent(read_recording(Input(written(tmp_path, HEADER + "".join(lines)))))] == [
        f"s{number}" for number in range(50)
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEADER + GOOD + GOOD.replace("20.5", "warm"), "line 3: value: 'warm' is not a number"),
        (HEADER + GOOD.replace("20.5", "1_0"), "line 2: value: '1_0' is not a number"),
        (HEADER + GOOD.replace("20.5", "nan"), "line 2: value: "),
        (HEADER + GOOD.replace("20.5", "1e999"), "line 2: value: "),
        (HEADER + GOOD.replace("20.5", ""), "line 2: .*`value`"),
        (HEADER + GOOD + "\n" + GOOD.replace("2026-11-24T", "24.11.2026 "), "line 4: timestamp: "),
        (HEADER + GOOD + "s1,temperature\n", "line 3: 2 columns; expected 7"),
        (HEADER + GOOD + GOOD.replace("good", "good,more"), "line 3: 8 columns; expected 7"),
        (HEADER + GOOD.replace("good", '"go\nod"') + GOOD.replace("s1", "s" * 129), "line 4: sensor_id: "),
        ("id,type,value,timestamp\n1,2,3,4\n", "line 1: no column sensor_id, sensor_type; expected JSON Lines"),
        ("[\n", "line 1: no column sensor_id, .*; expected JSON Lines"),
        ('{"sensor_id": "a"}\n', "line 1: .*sensor_type"),
        ('\n\n{"sensor_id": "a"\n', "line 3: not JSON"),
        ('{"sensor_id":"a","sensor_type":"b","value":"1","timestamp":"2026-11-24T02:15:07"}', "line 1: value: "),
        (HEADER, "holds no readings"),
        ("", "holds no readings"),
        (HEADER.encode() + b"s1,temperature,\xff,20,celsius,2026-11-24T02:15:07Z,good\n", "^cannot read .*utf-8"),
        (HEADER + '"' + "x" * 200_000 + '",', "^cannot read .*field larger than field limit"),
    ],
)
def test_a_bad_file_is_a_one_line_error_that_names_the_line(tmp_path, content, says):
    with pytest.raises(UserError, match=says) as raised:
        read_recording(Input(written(tmp_path, content)))
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_an_unreadable_file_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"^cannot read {path}: "):
            read_recording(Input(path))


def test_a_byte_order_mark_before_json_lines_is_skipped(tmp_path):
    content = b"\xef\xbb\xbf" + (DATA / "readings.jsonl").read_bytes().strip()
    assert len(read_recording(Input(written(tmp_path, content))).messages) == 5


@pytest.mark.parametrize("name", ["readings.csv", "readings.jsonl"])
def test_a_byte_order_mark_and_gzip_in_a_pipe(name):
    packed = gzip.compress(b"\xef\xbb\xbf") + gzip.compress((DATA / name).read_bytes().removeprefix(b"\xef\xbb\xbf"))
    reader, writer = os.pipe()
    os.write(writer, packed)
    os.close(writer)
    assert len(read_recording(Input(Path(f"/dev/fd/{reader}"))).messages) == 5
    os.close(reader)


@pytest.mark.parametrize("chunk", [2, 3, 1_000])
def test_an_input_that_is_cut_off_is_an_error_that_says_what_was_read(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("iot.sensors.recording.CHUNK", chunk)
    monkeypatch.setattr("iot.inputs.HEAD_BYTES", 4)
    lines = HEADER + "".join(GOOD.replace("20.5", f"20.{number}") for number in range(7))
    path = written(tmp_path, gzip.compress(lines.encode(), 0)[:-20])
    with pytest.raises(UserError) as raised:
        read_recording(Input(path))
    assert re.fullmatch(
        rf"cannot read {path} to its end: the gzip data is cut off; copy or download it again "
        r"\(it was read up to line \d, and nothing was sent\)",
        str(raised.value),
    )
