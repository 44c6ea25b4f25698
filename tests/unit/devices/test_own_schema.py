"""Many readings at once are read as one by one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.devices.formats import PayloadParser
from iot.devices.own_schema import own_readings
from iot.devices.results import Timed

NOW_US = 1_800_000_000_000_000
OWN = {"sensor_id": "s", "sensor_type": "temperature", "value": 21.5, "timestamp": "2026-11-24T02:15:07.123456+00:00"}
VALUES: dict[str, list[Any]] = {
    "sensor_id": ["s", "", "x" * 129, 7, None, "Küche", "{"],
    "sensor_type": ["temperature", "pressure", "co2", ""],
    "value": [21.5, -1, 0, "21.5", None, True, 10**400],
    "unit": [None, "celsius", "°C", "K", "kPa", "hPa", "ppm", "", "unknown", 7],
    "timestamp": [
        OWN["timestamp"],
        "2026-11-24T02:15:07Z",
        "2026-11-24T02:15:07",
        "2026-02-30T00:00:00Z",
        7,
        "now",
        None,
    ],
    "run_id": [None, "r", ""],
    "sequence": [None, 7, 1.5, 10**25],
    "more": [None, {"a": {}}, [1], "]"],
}
CHANGES = [{name: value} for name, values in VALUES.items() for value in values]


def assert_same(payload: bytes) -> None:
    found = own_readings(payload)
    if found is not None:
        assert list(map(Timed, *found)) == PayloadParser().parse(payload, None, NOW_US).results


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_each_field_is_judged_alike(change):
    record = json.dumps(OWN | change, ensure_ascii=False)
    for payload in (record, f"[{record}]", f"{record}\n{record}\n", f"[{json.dumps(OWN)}, {record}]"):
        assert_same(payload.encode())


@given(st.lists(st.sampled_from(CHANGES)), st.booleans())
def test_lists_are_judged_alike(changes, is_array):
    records = [json.dumps(OWN | change) for change in changes]
    assert_same((f"[{','.join(records)}]" if is_array else "\n".join(records)).encode())


@given(st.integers(0, 300), st.binary(max_size=3))
def test_a_broken_payload_is_left_to_the_closer_look(at, piece):
    payload = json.dumps([OWN, OWN]).encode()
    assert_same(payload[:at] + piece + payload[at + 1 :])


def test_the_usual_readings_need_no_closer_look():
    for payload in (OWN, [OWN] * 3, [OWN | {"unit": "°F", "run_id": "r", "sequence": 1}]):
        found = own_readings(json.dumps(payload).encode())
        assert found is not None
        assert len(found[0]) == (len(payload) if isinstance(payload, list) else 1)
