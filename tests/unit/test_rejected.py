"""The command for rejected messages: its lines of JSON, and its flags."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iot import rejected
from iot.kafka.rejected_topic import RejectedMessage
from iot.processes import Stopped
from iot.readings import format_timestamp
from iot.settings import UserError
from tests.support.readings import valid_fields
from tests.support.scripts import ROOT

REJECTED_MS = 1_795_561_388_713


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (json.dumps(valid_fields(value="21,5")).encode(), valid_fields(value="21,5")),
        ('{"location": "Küche\\n", "value": 1, "value": "2"}'.encode(), {"location": "Küche\n", "value": "2"}),
        (b'{"value": NaN}', {"rejected": {"text": '{"value": NaN}'}}),
        (b'{"value": 1e999}', {"rejected": {"text": '{"value": 1e999}'}}),
        (b'{"a": "\\ud800"}', {"rejected": {"text": '{"a": "\\ud800"}'}}),
        (b"[1]", {"rejected": {"text": "[1]"}}),
        (b"[" * 100_000, {"rejected": {"text": "[" * 100_000}}),
        (b"", {"rejected": {"text": ""}}),
        (None, {"rejected": {"text": None}}),
        (b"\xff\x00", {"rejected": {"base64": base64.b64encode(b"\xff\x00").decode()}}),
    ],
)
def test_a_rejected_message_becomes_a_line_of_json_to_correct(value, line):
    made = rejected.json_line(RejectedMessage(value, "the reason", "readings", 2, 7, REJECTED_MS))
    assert made.count(b"\n") == 1
    known = {
        "reason": "the reason",
        "topic": "readings",
        "partition": 2,
        "offset": 7,
        "at": format_timestamp(REJECTED_MS * 1_000),
    }
    assert json.loads(made) == line | {"rejected": known | line.get("rejected", {})}


def test_since_takes_only_a_time(refuses):
    assert "--since" in refuses(rejected.parse_args, ["--since", "yesterday"])


def failing(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [UserError("Kafka stopped answering"), OSError(28, "No space left"), Stopped("x")])
def test_half_of_the_messages_are_not_left_behind(error, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(type(error) if not isinstance(error, OSError) else UserError), rejected.new_file(path) as file:  # noqa: PT012
        file.write(b"half")
        failing(error)
    assert not path.exists()
    with rejected.new_file(path) as file:
        file.write(b"all")
    assert path.read_bytes() == b"all"


def test_the_file_is_checked_before_kafka_is_asked(tmp_path, capsys):
    (tmp_path / "there").write_text("corrections")
    (tmp_path / "link").symlink_to("nowhere")
    for name, said in {
        "there": "already exists and may hold corrections",
        "link": "already exists",
        "": "already exists",
        "none/x": "there is no folder .*none: create it, or choose another file with --to",
        "there/x": "there is no folder",
    }.items():
        assert rejected.main(["--to", str(tmp_path / name), "--bootstrap-servers", "localhost:1"]) == 1
        assert re.fullmatch(rf"error: .*{said}.*\n", capsys.readouterr().err)
    assert (tmp_path / "there").read_text() == "corrections"


def run_with(code: str, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """The command in a folder, without Kafka: ``code`` yields what was rejected."""
    program = (
        "import sys, time; from iot import rejected; from iot.kafka.rejected_topic import RejectedMessage\n"
        "rejected.require_broker = lambda *_: None\n"
        "message = RejectedMessage(b'x' * 50_000, 'why', 'readings', 0, 0, 0)\n"
        f"def read(*_):\n    {code}\n"
        f"rejected.read_rejected = read\nsys.exit(rejected.main({list(flags)}))"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_dash_is_the_standard_output(tmp_path):
    with run_with("yield from [message] * 3", tmp_path, "--to", "-") as process:
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert [json.loads(line)["rejected"]["reason"] for line in output.splitlines()] == ["why"] * 3
    assert errors.decode().splitlines() == ["3 messages of iot-sensors were rejected", "        3  why"]
    assert not list(tmp_path.iterdir())


def test_a_file_called_dash_is_a_file(tmp_path):
    with run_with("yield message", tmp_path, "--to", "./-") as process:
        output, _ = process.communicate(timeout=30)
    assert output.startswith(b"1 messages of")
    assert json.loads((tmp_path / "-").read_text())["rejected"]["reason"] == "why"


def test_a_reader_that_leaves_or_does_not_read_ends_without_a_traceback(tmp_path):
    endless = "while True: yield message"
    with run_with(endless, tmp_path, "--to", "-") as process:
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == b""
    with run_with(endless, tmp_path, "--to", "-") as process:
        assert process.stdout.read(10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr.read() == b"stopped before all messages were read, so not all are written\n"


def test_a_pipe_or_device_is_no_file_for_corrections(tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), "/dev/null"):
        assert rejected.main(["--to", path, "--bootstrap-servers", "localhost:1"]) == 1
        assert capsys.readouterr().err == (
            f"error: {path} is no file: choose the name of a new one with --to, or - for the standard output\n"
        )
