"""What the web server takes from the topic of alarms."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from iot.web.process import change_decoder
from tests.support.stored_alarms import an_alarm


def decoded(value: bytes | None):
    record = SimpleNamespace(topic="iot-alarms", partition=2, offset=7, value=value)
    return change_decoder("iot-sensors")(record)


@pytest.mark.parametrize("alarm_id", ["iot-sensors-0-1-warning", "iot-sensors-2-99-silent-critical"])
def test_a_changed_alarm_is_taken_with_an_id_of_the_change(alarm_id):
    alarm = an_alarm(1, alarm_id=alarm_id)
    assert decoded(msgspec.json.encode(alarm)) == ("iot-alarms-2-7", alarm)


@pytest.mark.parametrize(
    "value",
    [
        # An alarm that was forgotten.
        None,
        b"",
        b"{",
        b"{}",
        b"[" * 200_000,
        msgspec.json.encode(an_alarm(1, location="here")).replace(b"here", b"\xff"),
        msgspec.json.encode(an_alarm(1)).replace(b"firing", b"burning"),
        *(
            msgspec.json.encode(an_alarm(1, alarm_id=alarm_id))
            for alarm_id in ("other-sensors-0-1-warning", "iot-sensors-0-1", "iot-sensors-0-1-warning\n\nevent: x")
        ),
    ],
)
def test_anything_else_is_skipped(value):
    assert decoded(value) is None
