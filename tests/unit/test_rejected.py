"""The command for rejected messages: its lines of JSON, and its flags."""

from __future__ import annotations

import base64
import json

import pytest

from iot import rejected
from iot.kafka.rejected_topic import RejectedMessage
from iot.readings import format_timestamp
from tests.support.readings import valid_fields

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
