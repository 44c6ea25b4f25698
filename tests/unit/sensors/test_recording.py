"""Recordings: both formats, the order of time, sequence numbers, and errors that name the line."""

from __future__ import annotations

import gzip
import os
import re
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from iot.inputs import Input
from iot.readings import Message, Reading, decode, encode
from iot.sensors.recording import LongRecording, LongReplay, Recording, Replay, read_recording
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


def kept(source: Input) -> Recording:
    recording = read_recording(source)
    assert isinstance(recording, Recording)
    return recording


@pytest.fixture(params=["readings.csv", "readings.jsonl"])
def recording(request: pytest.FixtureRequest) -> Recording:
    return kept(Input(DATA / request.param))


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
    assert [r.sensor_id for r in sent(kept(Input(written(tmp_path, HEADER + "".join(lines)))))] == [
        f"s{number}" for number in range(50)
    ]


JSON_GOOD = encode(Message("s1", "temperature", 20.5, "2026-11-24T02:15:07Z")).decode() + "\n"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (GOOD.replace("20.5", "warm"), "line 3: value: 'warm' is not a number"),
        (GOOD.replace("20.5", "1_0"), "line 3: value: '1_0' is not a number"),
        (GOOD.replace("20.5", "nan"), "line 3: value has no value: write a number to send it"),
        (GOOD.replace("20.5", "1e999"), "line 3: value: the number is out of range"),
        (GOOD.replace("20.5", ""), "line 3: value has no value: write a number to send it"),
        (GOOD.replace("2026-11-24T", "04.11.2026 "), "line 3: timestamp: '04.11.2026 "),
        ("\n" + GOOD.replace("-11-24T", "-11-31T"), "line 4: timestamp: .* names a day or hour that does not exist"),
        ("s1,temperature\n", "line 3: 2 columns; expected 7"),
        (GOOD.replace("good", "good,more"), "line 3: 8 columns; expected 7"),
        (GOOD.replace("good", '"go\nod"').replace("s1", "s" * 129), "line 4: sensor_id has 129 characters"),
        ('"' + "x" * 200_000 + '",\n', "line 3: no CSV .field larger than field limit"),
        (GOOD.replace("celsius", '"celsius'), "line 3: a quote is never closed"),
        ('{"sensor_id": "a"\n', "line 3: not JSON"),
        ("[]{}\n", "line 3: not JSON"),
        (JSON_GOOD.replace("20.5", '"1"'), "line 3: value: expected `float`, got `str`"),
        (JSON_GOOD.replace("20.5", "NaN"), "line 3: not JSON"),
    ],
)
@pytest.mark.parametrize("before", [1, 2_000])
def test_a_row_that_does_not_fit_is_named_and_the_others_are_sent(tmp_path, row, says, before):
    head, good = ("\n", JSON_GOOD) if row.startswith(("{", "[")) else (HEADER, GOOD)
    recording = kept(Input(written(tmp_path, head + good * before + row + good * 3)))
    [line] = recording.report.refusals()
    assert re.match(re.sub(r"\d+", lambda found: f"{int(found[0]) + before - 1:,}", says, count=1), line)
    assert len(recording.messages) == before + 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEADER + GOOD.replace("20.5", "warm"), "holds no readings; line 2: value: 'warm' is not a number"),
        ('\n\n{"sensor_id": "a"\n', "holds no readings; line 3: not JSON"),
        ("id,type,value,timestamp\n1,2,3,4\n", "no column names a sensor; timestamp: 4 is not a time"),
        ("[\n", "holds no readings"),
        ('{"sensor_id": "a"}\n', "no field names the time; no field names a known type"),
        (HEADER, "holds no readings"),
        ("", "holds no readings"),
    ],
)
def test_a_file_without_readings_is_a_one_line_error(tmp_path, content, says):
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
    assert len(kept(Input(written(tmp_path, content))).messages) == 5


@pytest.mark.parametrize("name", ["readings.csv", "readings.jsonl"])
def test_a_byte_order_mark_and_gzip_in_a_pipe(name):
    packed = gzip.compress(b"\xef\xbb\xbf") + gzip.compress((DATA / name).read_bytes().removeprefix(b"\xef\xbb\xbf"))
    reader, writer = os.pipe()
    os.write(writer, packed)
    os.close(writer)
    assert len(kept(Input(Path(f"/dev/fd/{reader}"))).messages) == 5
    os.close(reader)


@pytest.mark.parametrize("kept", [2, 1_000])
def test_an_input_that_is_cut_off_is_an_error_that_says_what_was_read(tmp_path, monkeypatch, kept):
    monkeypatch.setattr("iot.sensors.recording.KEEP", kept)
    monkeypatch.setattr("iot.devices.formats.SAMPLE_BYTES", 64)
    monkeypatch.setattr("iot.devices.text.CHUNK_BYTES", 64)
    monkeypatch.setattr("iot.inputs.HEAD_BYTES", 4)
    lines = HEADER + "".join(GOOD.replace("20.5", f"20.{number}") for number in range(70))
    path = written(tmp_path, gzip.compress(lines.encode(), 0)[:-20])
    with pytest.raises(UserError) as raised:
        read_recording(Input(path))
    assert re.fullmatch(
        rf"cannot read {path} to its end: the gzip data is cut off; copy or download it again"
        r" \((it was read up to line \d+, and )?nothing was sent\)",
        str(raised.value),
    )


def test_a_byte_that_is_no_utf_8_late_in_a_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("iot.devices.formats.SAMPLE_BYTES", 1_000)
    content = (HEADER + GOOD * 50).encode() + GOOD.encode().replace(b"here", b"\xff") + GOOD.encode()
    recording = kept(Input(written(tmp_path, content)))
    [line] = recording.report.refusals()
    assert line == "line 52: a character cannot be decoded: name the encoding in a map, [csv] encoding"
    assert len(recording.messages) == 51


def test_a_line_that_never_ends_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("iot.devices.text.MAX_LINE", 1_000)
    monkeypatch.setattr("iot.devices.formats.SAMPLE_BYTES", 1_000)
    monkeypatch.setattr("iot.devices.tables.SAMPLE_LINES", 3)
    path = written(tmp_path, HEADER + GOOD * 30 + "x" * 5_000)
    with pytest.raises(UserError, match=f"^{path}: line 32 has more than 1,000 characters"):
        read_recording(Input(path))


@pytest.fixture
def long(tmp_path, monkeypatch) -> Path:
    """A file that is longer than what is kept. Its readings stand a little out of order."""
    monkeypatch.setattr("iot.sensors.recording.KEEP", 100)
    monkeypatch.setattr("iot.sensors.recording.WINDOW", 10)
    seconds = [number + (7 if number % 9 == 0 else 0) for number in range(1_000)]
    rows = [GOOD.replace("s1", f"s{at % 3}").replace("02:15:07", f"02:{s // 60:02}:{s % 60:02}") for at, s in
            enumerate(seconds)]  # fmt: skip
    rows.insert(500, "broken\n")
    return written(tmp_path, HEADER + "".join(rows))


def replayed(recording: object, count: int) -> list[Reading]:
    assert isinstance(recording, LongRecording)
    replay = LongReplay(recording, "run1", keep_times=True)
    assert replay.numbers(0, 2_000).tolist() == list(range(count))
    assert [replay.count_below(number) for number in (0, 7, 2_000)] == [0, 7, count]
    assert replay.keys == [b"s0", b"s1", b"s2"]
    records = [record for _ in range(count // 100) for record in replay.records(np.zeros(100, np.int64))]
    return [decode(record["value"]) for record in records]


@pytest.mark.parametrize("how", ["file", "gzip", "pipe", "gzip in a pipe"])
def test_a_long_file_is_read_again_while_it_is_sent(long, how, tmp_path):
    if "gzip" in how:
        long.write_bytes(gzip.compress(long.read_bytes()))
    if "pipe" in how:
        content = long.read_bytes()
        long.unlink()
        os.mkfifo(long)
        threading.Thread(target=long.write_bytes, args=(content,), daemon=True).start()
    recording = read_recording(Input(long))
    assert isinstance(recording, LongRecording)
    assert recording.report.refusals() == ["line 502: 1 columns; expected 7"]
    found = replayed(recording, 1_000)
    assert [each.time_us for each in found] == sorted(each.time_us for each in found)
    sequences = {sensor: [r.sequence for r in found if r.sensor_id == sensor] for sensor in ("s0", "s1", "s2")}
    assert all(numbers == list(range(len(numbers))) for numbers in sequences.values())
    assert sum(map(len, sequences.values())) == 1_000


def test_a_long_file_in_another_order_is_sorted_in_memory(long):
    lines = long.read_text().splitlines(keepends=True)
    long.write_text("".join([lines[0], *reversed(lines[1:])]))
    recording = read_recording(Input(long))
    assert isinstance(recording, Recording)
    times = [decode(encode(message)).time_us for message in recording.messages]
    assert times == sorted(times)
    assert len(times) == 1_000


def test_a_long_file_whose_end_is_in_another_order_is_sorted_in_memory(long):
    with long.open("a") as file:
        file.write(GOOD)
        file.write(GOOD.replace("2026", "2025"))
        file.write(GOOD * 20)
    recording = read_recording(Input(long))
    assert isinstance(recording, Recording)
    assert recording.messages[0].timestamp.startswith("2025")
    assert recording.report.readings == len(recording.messages) == 1_022


def test_a_long_file_that_changes_while_it_is_sent_is_an_error(long):
    recording = read_recording(Input(long))
    long.write_text(HEADER + GOOD)
    with pytest.raises(UserError, match=r"recorded changed while it was sent: 1 of 1,000 readings were found again"):
        replayed(recording, 1_000)
