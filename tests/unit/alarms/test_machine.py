"""The state machine of alarms against the independent reference, however the readings are cut into batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot.alarms.machine import Active, Candidate, Machine, to_alarm
from iot.alarms.model import SENSOR_SILENT
from iot.alerts import Rule, Rules
from tests.support.alarm_oracle import Ledger, alarms

TOPIC = "iot-sensors"
START_US = 1_795_561_388_000_000
HOT = Rule("temperature", "celsius", max=30.0, clear_max=29.0)
# Bounds on both sides, two severities, and units of which one has no rule.
RULES = Rules(
    (
        Rule("x", "u", min=-2.0, max=2.0, clear_min=-1.0, clear_max=1.0, keep_firing_for_s=2.0),
        Rule("x", "u", max=3.0, severity="critical", for_s=2.0),
        Rule("x", "v", min=0.0, severity="info", for_s=1.0, clear_min=1.0, keep_firing_for_s=1.0),
        Rule("y", "u", max=0.0),
        Rule("y", "u", severity="info", max_silence_s=1.0),
    )
)


def a_reading(offset: int, value: float, after_s: float, **fields: str) -> Candidate:
    reading = Candidate(0, 0, offset, "s", "temperature", "hall", "celsius", value, START_US + round(after_s * 1e6))
    return msgspec.structs.replace(reading, **fields)


def one_a_second(*values: float) -> list[Candidate]:
    return [a_reading(number, value, number) for number, value in enumerate(values)]


def run(readings: Sequence[Candidate], rules: Rules, cuts: Sequence[int] = ()) -> tuple[list[Active], Machine]:
    """Run the machine over batches of readings that end at the cuts; return all alarms, and the machine.

    Before each batch the machine is made from the alarms that a database would have, and each batch is tried twice.
    """
    ledger, heard = Ledger(), dict[str, Active]()
    newest_us: dict[tuple[str, str], int] = {}
    machine = Machine(rules, TOPIC, [])
    for first, last in itertools.pairwise([0, *sorted(cuts), len(readings)]):
        assert machine.watched() == {one.sensor: newest_us[one.sensor] for one in machine.active()}
        machine = Machine(rules, TOPIC, [one for one in ledger.alarms() if one.state != "resolved"], newest_us)
        batch = readings[first:last]
        step = machine.advance(batch, newest_us)
        assert machine.advance(batch, newest_us) == step
        machine.keep(step)
        ledger.write([(change.active, change.forgotten) for change in step.changes], step.touched.values())
        names = [(change.active.alarm_id, change.active.rule, change.active.state) for change in step.changes]
        assert len(set(names)) == len(names)
        for change in step.changes:
            heard[change.active.alarm_id] = change.active
            if change.forgotten:
                del heard[change.active.alarm_id]
        for one in batch:
            sensor = one.sensor_id, one.sensor_type
            newest_us[sensor] = max(one.time_us, newest_us.get(sensor, one.time_us))
    # Who hears only of the changes knows all alarms, their states and their peaks.
    found = ledger.alarms()
    assert {name: (one.state, one.peak) for name, one in heard.items()} == {
        one.alarm_id: (one.state, one.peak) for one in found
    }
    active = [one for one in found if one.state != "resolved"]
    assert sorted(machine.active(), key=lambda one: one.alarm_id) == active
    return found, machine


def every_cut(size: int) -> list[tuple[int, ...]]:
    """All at once, a batch per reading, and two batches cut anywhere."""
    return [(), tuple(range(1, size)), *((cut,) for cut in range(size + 1))]


@pytest.mark.parametrize("cuts", every_cut(5))
def test_an_alarm_ends_only_when_the_value_is_clear_of_the_bound(cuts):
    [alarm], machine = run(one_a_second(31, 31, 29.5, 31, 28), Rules((HOT,)), cuts)
    assert alarm.alarm_id == "iot-sensors-0-0-warning"
    assert (alarm.rule, alarm.severity, alarm.state) == ("HIGH_TEMPERATURE", "warning", "resolved")
    assert (alarm.threshold, alarm.value, alarm.peak, alarm.alerts) == (30.0, 28.0, 31.0, 3)
    assert (alarm.started_us, alarm.fired_us) == (START_US, START_US)
    assert (alarm.updated_us, alarm.resolved_us) == (START_US + 4_000_000, START_US + 4_000_000)
    assert machine.active() == []
    assert machine.watched() == {}


@pytest.mark.parametrize("cuts", every_cut(5))
def test_an_alarm_that_is_not_broken_long_enough_never_fires(cuts):
    found, machine = run(one_a_second(31, 31, 29.5, 31, 28), Rules((replace(HOT, for_s=3.0),)), cuts)
    assert found == []
    assert machine.active() == []


def test_a_firing_and_its_end_in_one_batch_are_two_changes():
    machine = Machine(Rules((HOT,)), TOPIC, [])
    step = machine.advance(one_a_second(31, 33, 32, 28), {})
    assert [(change.active.state, change.active.peak, change.active.alerts) for change in step.changes] == [
        ("firing", 33.0, 3),
        ("resolved", 33.0, 3),
    ]
    assert set(step.touched.values()) == {None}


def test_mere_progress_is_no_change():
    machine = Machine(Rules((HOT,)), TOPIC, [])
    machine.keep(machine.advance(one_a_second(33), {}))
    step = machine.advance([a_reading(1, 32, 1)], {})
    assert step.changes == []
    assert [(one and one.value, one and one.alerts) for one in step.touched.values()] == [(32.0, 2)]


def test_nobody_hears_of_an_alarm_that_begins_and_is_forgotten_in_one_batch():
    rules = Rules((replace(HOT, for_s=3.0),))
    machine = Machine(rules, TOPIC, [])
    assert machine.advance(one_a_second(31, 28), {}).changes == []
    machine.keep(machine.advance(one_a_second(31), {}))
    [change] = machine.advance([a_reading(1, 28, 1)], {}).changes
    assert (change.forgotten, change.active.state) == (True, "pending")


def test_a_batch_that_is_not_kept_changes_nothing():
    machine = Machine(Rules((HOT,)), TOPIC, [])
    machine.keep(machine.advance(one_a_second(31), {}))
    before = machine.active(), machine.watched()
    machine.advance([a_reading(1, 40, 1), a_reading(2, 20, 2)], {})
    assert (machine.active(), machine.watched()) == before


def test_a_reading_older_than_the_newest_of_its_sensor_changes_nothing():
    machine = Machine(Rules((HOT,)), TOPIC, [])
    newest_us = {("s", "temperature"): START_US + 1}
    assert machine.advance([a_reading(0, 31, 0)], newest_us).touched == {}
    assert len(machine.advance([a_reading(0, 31, 0)], {("s", "temperature"): START_US}).touched) == 1
    assert len(machine.advance([a_reading(0, 31, 0)], {("s", "humidity"): START_US + 1}).touched) == 1


def test_alarms_whose_rule_is_gone_end_when_they_were_updated():
    rules = Rules((HOT, replace(HOT, severity="critical", for_s=60.0)))
    machine = Machine(rules, TOPIC, [])
    machine.keep(machine.advance(one_a_second(31, 32), {}))
    active = machine.active()
    assert machine.without_rule().changes == []
    machine = Machine(Rules((replace(HOT, severity="info"),)), TOPIC, active)
    step = machine.without_rule()
    assert [(change.active.severity, change.active.state, change.forgotten) for change in step.changes] == [
        ("warning", "resolved", False),
        ("critical", "pending", True),
    ]
    assert step.changes[0].active.resolved_us == START_US + 1_000_000
    machine.keep(step)
    assert machine.active() == []


def test_alarms_about_silence_are_left_alone():
    machine = Machine(Rules((HOT,)), TOPIC, [])
    machine.keep(machine.advance(one_a_second(31), {}))
    [active] = machine.active()
    machine = Machine(Rules((HOT,)), TOPIC, [msgspec.structs.replace(active, rule=SENSOR_SILENT)])
    assert machine.active() == []
    assert machine.without_rule().changes == []


def test_an_alarm_as_the_api_has_it():
    [alarm], _ = run(one_a_second(31, 33), Rules((HOT,)))
    assert msgspec.to_builtins(to_alarm(alarm, silenced_by=["a"])) == {
        "alarm_id": "iot-sensors-0-0-warning",
        "rule": "HIGH_TEMPERATURE",
        "severity": "warning",
        "state": "firing",
        "sensor_id": "s",
        "sensor_type": "temperature",
        "location": "hall",
        "unit": "celsius",
        "threshold": 30.0,
        "value": 33.0,
        "peak": 33.0,
        "alerts": 2,
        "started": "2026-11-24T23:03:08.000000+00:00",
        "fired": "2026-11-24T23:03:08.000000+00:00",
        "updated": "2026-11-24T23:03:09.000000+00:00",
        "resolved": None,
        "acknowledged": None,
        "silenced_by": ["a"],
    }


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "a", "a", "b"]),  # sensor
            st.sampled_from(["x", "x", "x", "y"]),  # type
            st.sampled_from(["u", "u", "u", "v", "w"]),  # unit
            st.sampled_from([-3.0, -2.0, -1.5, -1.0, 0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]),
            st.sampled_from([-1_500_000, 0, 500_000, 500_000, 1_000_000, 2_000_000]),  # µs after the previous reading
            st.sampled_from(["hall", "roof"]),
        ),
        max_size=40,
    ),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_the_alarms_are_those_of_the_reference(drawn, cuts):
    time_us = START_US
    readings = []
    for offset, (sensor_id, sensor_type, unit, value, after_us, location) in enumerate(drawn):
        time_us += after_us
        readings.append(Candidate(0, 1, offset, sensor_id, sensor_type, location, unit, value, time_us))
    found, _ = run(readings, RULES, [min(cut, len(readings)) for cut in cuts])
    assert found == alarms(readings, RULES.rules, TOPIC)
