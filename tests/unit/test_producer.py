"""The producer's flags, and what they mean as a rate and a number of messages."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iot_producer import message_limit, parse_args, run_or_ask
from tests.support.scripts import ROOT, started

FORMS = ROOT / "tests" / "data" / "forms"


@pytest.mark.parametrize(
    "flags",
    [
        "--sensors 0",
        "--sensors 1000001",
        "--rate 0",
        "--rate inf",
        "--rate 1e9",
        "--threads 0",
        "--threads 1000",
        "--duration -1",
        "--count 0.5",
        "--seed x",
        "--client librdkafka",
        "--malformed-ratio 1.1",
        "--late-ratio nan",
        "--timestamps recorded",
        "--map x",
        "--dry-run",
        "--replay x --sensors 3",
        "--replay x --timestamps recorded --late-ratio 0.1",
        "--replay x --timestamps then",
        "more",
    ],
)
def test_bad_flags_exit_2(flags, refuses):
    refuses(parse_args, flags.split())


@pytest.mark.parametrize(
    ("flags", "rate"),
    [("", 10), ("--sensors 3", 3), ("--sensors 3 --rate 7.5", 7.5), ("--replay f", 1), ("--replay f --rate 9", 9)],
)
def test_each_sensor_sends_once_a_second_by_default(flags, rate):
    assert parse_args(flags.split()).rate == rate


@pytest.mark.parametrize(
    ("flags", "limit"),
    [
        ("", float("inf")),
        ("--rate 2000 --duration 20", 40_000),
        ("--rate 30 --duration 0.1", 3),
        ("--rate 0.1 --duration 1", 1),
        ("--rate 3 --duration 1.5", 5),
        ("--rate 100 --duration 10 --count 7", 7),
        ("--rate 1e7 --duration 1e300 --count 7", 7),
    ],
)
def test_flags_limit_the_number_of_messages(flags, limit):
    assert message_limit(parse_args(flags.split()), None) == limit


@pytest.fixture
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def tried(flags: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = run_or_ask(parse_args(flags.split()), threading.Event())
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.usefixtures("_utc")
def test_a_dry_run_shows_what_would_be_sent_and_what_not(capsys):
    path = FORMS / "csv-dialects" / "gap.csv"
    assert tried(f"--replay {path} --dry-run", capsys) == (
        0,
        f"""\
{path} was recognised as:
  form         CSV, delimiter ,, decimal point, header in line 1, UTF-8
  sensor_id    column sensor_id
  timestamp    column timestamp: ISO 8601, without a time zone: read as local time of this machine
  value        column value
  sensor_type  column sensor_type

first readings, in order of time (2 of 2):
  timestamp                         sensor_id  sensor_type  value  unit     location
  2017-10-11T00:01:03.000000+00:00  9001       temperature  12.7   celsius  unknown
  2017-10-11T00:05:58.000000+00:00  9001       temperature  12.8   celsius  unknown

would send 2 readings of 1 sensor, 2017-10-11T00:01:03.000000+00:00 to 2017-10-11T00:05:58.000000+00:00

would not send 1:
  line 3: value has no value: write a number to send it

nothing was sent (--dry-run)
""",
        "",
    )


@pytest.mark.parametrize("more", ["", " --dry-run"])
def test_a_file_that_nobody_can_tell_is_status_2_with_a_map(more, capsys):
    status, out, err = tried(f"--replay {FORMS / 'day-first' / 'as-published.csv'}{more}", capsys)
    assert (status, out) == (2, "")
    first, *lines = err.splitlines()
    assert "no column names a sensor; 08-12-2018 09:30 in noted_date may have the day or the month first" in first
    assert 'format = "day first"  # or "month first", or a format such as "%d.%m.%Y %H:%M:%S"' in lines


def test_a_dry_run_with_a_map(capsys):
    folder = FORMS / "day-first"
    status, out, err = tried(f"--replay {folder / 'as-published.csv'} --map {folder / 'map.toml'} --dry-run", capsys)
    assert (status, err) == (0, "")
    assert "2018-12-08T09:29:00.000000+00:00  Room Admin Out  temperature  41     celsius  unknown" in out
    assert "columns room_id/id, out/in" in out


def peak_kb(path: Path, readings: int) -> int:
    """The memory that a dry run of a file needs."""
    with path.open("w", encoding="utf-8") as file:
        file.write("sensor_id,sensor_type,value,timestamp\n")
        for number in range(readings):
            file.write(f"s{number % 100},temperature,20.5,{1_700_000_000 + number}\n")
    command = [sys.executable, "iot_producer.py", "--replay", str(path), "--dry-run"]
    with started(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def test_the_memory_does_not_grow_with_a_file_in_order_of_time(tmp_path):
    shorter, longer = peak_kb(tmp_path / "a", 120_000), peak_kb(tmp_path / "b", 400_000)
    assert longer < shorter + 20_000
