"""What becomes of payloads: readings, refusals, and what is said."""

from __future__ import annotations

import json

import pytest

from iot.devices.field_map import NO_MAP, parse_map
from iot.gateway.intake import Intake, Problem
from iot.readings import format_timestamp

NOW_S = 1_800_000_000.0
NOW = format_timestamp(int(NOW_S * 1e6))
OWN = {"sensor_id": "s", "sensor_type": "temperature", "value": 21.5, "timestamp": NOW, "run_id": "r", "sequence": 1}


def make(field_map=NO_MAP) -> tuple[Intake, list[str]]:
    lines: list[str] = []
    return Intake(lines.append, field_map, lambda: NOW_S), lines


def encoded(content: object) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


@pytest.mark.parametrize(
    "payload",
    [
        OWN, [OWN], b"\n".join([encoded(OWN), b"", encoded(OWN)]), [OWN] * 100, OWN | {"unit": "°F"},
        OWN | {"location": "Küche", "quality": None}, OWN | {"timestamp": "2026-11-24T02:15:07"},
    ],
)  # fmt: skip
def test_our_own_schema_is_taken_as_it_is(payload):
    taken = make()[0].take(encoded(payload))
    assert taken.messages
    assert len(taken.messages) == taken.records
    assert (taken.refusals, taken.problems) == ([], [])
    assert {(each.sensor_id, each.run_id, each.sequence) for each in taken.messages} == {("s", "r", 1)}


def test_a_record_that_is_wrong_is_refused_by_itself():
    wrong = {"sensor_id": "s", "sensor_type": "temperature", "value": "warm", "timestamp": NOW}
    taken = make()[0].take(encoded([OWN, wrong, OWN]))
    assert len(taken.messages) == 2
    [problem], [refusal] = taken.problems, taken.refusals
    assert problem.number == 2
    assert problem.reason == refusal.reason
    assert "value" in problem.reason
    assert json.loads(refusal.value) == wrong


@pytest.mark.parametrize("payload", [b"\xff", b"{", b"7", b"[7]", b"[]", b"null", b"{}", b'{"a": "b"}', b"garbage"])
def test_what_holds_no_reading_is_refused(payload):
    taken = make()[0].take(payload, device="d1")
    assert taken.messages == []
    assert len(taken.problems) == taken.records
    record = payload.strip(b"[]") if payload.startswith(b"[") else payload
    assert [(each.value, each.device) for each in taken.refusals] == [(record, "d1")] * len(taken.problems)
    assert all(each.reason for each in taken.problems)


def test_a_reading_of_the_future_is_refused():
    intake, _ = make()
    for ahead_s, count in ((59, 1), (61, 0)):
        payload = OWN | {"timestamp": format_timestamp(int((NOW_S + ahead_s) * 1e6))}
        taken = intake.take(encoded(payload))
        assert len(taken.messages) == count
        assert taken.problems == ([] if count else [Problem(1, "future timestamp")])


def test_the_device_of_a_token_sends_measurements_by_name():
    taken = make()[0].take(encoded({"temperature": 21.5, "humidity": 40}), device="d1")
    assert {(each.sensor_id, each.sensor_type, each.value, each.timestamp) for each in taken.messages} == {
        ("d1", "temperature", 21.5, NOW),
        ("d1", "humidity", 40.0, NOW),
    }


def test_names_that_are_left_out_are_said_once_per_device():
    intake, lines = make()
    for device in ("d1", "d1", "d2"):
        intake.take(encoded({"temperature": 21.5, "battery": 97, "linkquality": 3}), device=device)
    assert lines == [
        "d1: battery, linkquality name no known type and are left out",
        "d2: battery, linkquality name no known type and are left out",
    ]


def test_messages_about_the_state_of_a_device_are_neither_readings_nor_refused():
    intake, _ = make()
    for topic, payload in (
        ("zigbee2mqtt/d1/availability", {"state": "online"}),
        ("tele/d1/LWT", b"Online"),
        ("zigbee2mqtt/d1", {"linkquality": 3}),
        ("zigbee2mqtt/d1", {"temperature": None}),
    ):
        taken = intake.take(encoded(payload), topic)
        assert (taken.messages, taken.refusals) == ([], []), topic


def test_the_topic_names_the_device():
    [message] = make()[0].take(b'{"temperature": 21.5}', "zigbee2mqtt/attic").messages
    assert message.sensor_id == "attic"


def test_a_map_says_what_cannot_be_recognised():
    intake, _ = make(parse_map({"columns": {"temperature": "T1"}}))
    [message] = intake.take(b'{"T1": 21.5}', device="d1").messages
    assert (message.sensor_type, message.value) == ("temperature", 21.5)
