"""The readings of an end-to-end test."""

from __future__ import annotations

import time

import pytest

from iot.alerts import DEFAULT_RULES
from iot.batches import Candidate
from iot.loadtest.load import Load
from iot.readings import decode
from tests.support import alarm_oracle


def test_the_load_breaks_the_rules_as_often_as_expected():
    load = Load(420, 1_000.0, "run1", "here", time.monotonic())
    readings = [decode(load.record(number)["value"]) for number in range(420)]
    assert {(r.location, r.run_id) for r in readings} == {("here", "run1")}
    assert len({(r.sensor_id, r.sequence) for r in readings}) == 420
    breaking = [r for r in readings if r.value in (34.0, 24.0, 1037.0)]
    assert len(breaking) == 400 // 20
    assert len({r.sensor_id for r in breaking}) == 20
    assert sum(map(len, load.expected_windows().values())) == 1_260
    places = {"t-0-5": ("load_0", 0)}
    assert "t-0-5" in load.expected_alerts(places)
    assert len(load.expected_alerts(places)) == 20


@pytest.mark.parametrize("messages", [1, 20, 21, 47, 1_000])
def test_each_reading_that_breaks_a_rule_fires_an_alarm_that_ends(messages):
    load = Load(messages, 1_000.0, "run1", "here", time.monotonic())
    readings = [
        Candidate(0, 0, number, r.sensor_id, r.sensor_type, r.location or "", r.unit or "", r.value, r.time_us)
        for number in range(messages)
        for r in [decode(load.record(number)["value"])]
    ]
    alarms = alarm_oracle.alarms(readings, DEFAULT_RULES.rules, "t")
    places = {f"t-0-{number}": load.key(number) for number in range(messages)}
    assert {alarm.alarm_id.removesuffix("-warning") for alarm in alarms} == load.expected_alerts(places).keys()
    assert all((alarm.state, alarm.alerts) == ("resolved", 1) for alarm in alarms)
    assert messages < 1_000 or len(alarms) == 1_000 // 20 - 1
