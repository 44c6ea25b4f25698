"""The candidates for alarms: few, and enough for the alarms of the reference, however batches are cut."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot.alarms.machine import Active, Candidate, Machine
from iot.alerts import DEFAULT_RULES, Rule, Rules
from iot.spark import candidate_columns
from iot.spark.candidates import sides_of
from tests.support.alarm_oracle import Ledger, alarms
from tests.support.batches import BASE_MS, BASE_US, Sent, reading, run_batch

TOPIC = "iot-sensors"
# Bounds on both sides, two severities, and units of which one has no rule.
RULES = Rules(
    (
        Rule("x", "u", min=-2.0, max=2.0, clear_min=-1.0, clear_max=1.0, keep_firing_for_s=2.0),
        Rule("x", "u", max=3.0, severity="critical", for_s=2.0),
        Rule("x", "u", max=0.0, severity="info", for_s=1.0, keep_firing_for_s=5.0),
        Rule("x", "v", min=0.0, severity="info", for_s=1.0, clear_min=1.0, keep_firing_for_s=1.0),
        Rule("y", "u", max=0.0),
        Rule("z", "u", max_silence_s=1.0),
    )
)


def sent(candidate: Candidate) -> Sent:
    """The message that is this reading."""
    fields = {"sensor_type": candidate.sensor_type, "location": candidate.location, "unit": candidate.unit}
    message = reading(candidate.time_us, candidate.value, candidate.sensor_id, **fields)
    return Sent(candidate.partition, candidate.arrived_ms, message)


def run(
    readings: Sequence[Candidate], rules: Rules, cuts: Sequence[int] = (), size: int = 50_000
) -> tuple[list[Active], int]:
    """Fold and judge batches that end at the cuts, and run the machine over their candidates, as the database would.

    Args:
        readings: with the offsets that they have in their partitions.
        size: of the Arrow batches.

    Returns:
        All alarms, and the number of candidates.
    """
    ledger, candidates = Ledger(), 0
    sides = sides_of(rules)
    newest_us: dict[tuple[str, str], int] = {}
    context = None
    for first, last in itertools.pairwise([0, *sorted(cuts), len(readings)]):
        machine = Machine(rules, TOPIC, [one for one in ledger.alarms() if one.state != "resolved"], newest_us)
        batch = readings[first:last]
        offsets: dict[int, int] = {}
        for one in batch:
            offsets.setdefault(one.partition, one.offset)
        _, report, context = run_batch(
            [sent(one) for one in batch],
            context,
            size,
            offsets=offsets,
            alarm_sides=sides,
            watched=machine.watched(),
        )
        candidates += len(report.candidates)
        step = machine.advance(report.candidates, newest_us)
        machine.keep(step)
        ledger.write([(change.active, change.forgotten) for change in step.changes], step.touched.values())
        for latest in report.latest:
            sensor = latest.sensor_id, latest.sensor_type
            newest_us[sensor] = max(latest.time_us, newest_us.get(sensor, latest.time_us))
        # The next batch is selected by what the machine knows, so it must know the newest readings.
        assert machine.watched() == {one.sensor: newest_us[one.sensor] for one in machine.active()}
    return ledger.alarms(), candidates


def one_a_second(*values: float, sensor_type: str = "temperature", unit: str = "celsius") -> list[Candidate]:
    return [
        Candidate(BASE_MS, 0, number, "s", sensor_type, "hall", unit, value, BASE_US - 10**9 + number * 1_000_000)
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([20, 20, 20], 0),
        ([30, 30, 20], 2 + 1),
        ([20, 31, 20, 20, 14, 31, 29, 20, 20], 1 + 1 + 2 + 1),
        ([29.5, 29.5, 20], 2 + 1),
    ],
)
def test_few_readings_are_candidates(values, wanted):
    assert run(one_a_second(*values), DEFAULT_RULES)[1] == wanted


def test_a_candidate_has_the_fields_of_its_reading():
    readings = one_a_second(20, 31, 20, 20)
    offsets = {0: 0}
    _, report, _ = run_batch([sent(one) for one in readings], offsets=offsets, alarm_sides=sides_of(DEFAULT_RULES))
    assert list(report.candidates) == readings[1:3]
    assert (len(report.candidates), report.candidates[1], report.candidates[-1]) == (2, readings[2], readings[2])


def test_any_number_of_candidates_is_made_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(candidate_columns, "CHUNK", 7)
    readings = one_a_second(*([31] * 50))
    _, report, _ = run_batch([sent(one) for one in readings], offsets={0: 0}, alarm_sides=sides_of(DEFAULT_RULES))
    assert list(report.candidates) == readings


def test_without_rules_there_are_no_candidates():
    _, report, _ = run_batch([sent(one) for one in one_a_second(31, 20)])
    assert list(report.candidates) == []


def test_a_watched_sensor_with_clear_readings_has_one_candidate():
    readings = [sent(one) for one in one_a_second(20, 20, 20)]
    watched = {("s", "temperature"): BASE_US - 2 * 10**9, ("s", "motion"): 0, ("t", "temperature"): 0}
    _, report, _ = run_batch(readings, alarm_sides=sides_of(DEFAULT_RULES), watched=watched)
    assert [one.offset for one in report.candidates] == [0]


def test_candidates_of_all_partitions_are_in_the_order_of_their_arrival():
    chance = random.Random(3)
    messages = [
        Sent(number % 3, BASE_MS + chance.randrange(50), reading(BASE_US + number, 99.0, f"s{number % 3}"))
        for number in range(300)
    ]
    _, report, _ = run_batch(messages, size=7, alarm_sides=sides_of(DEFAULT_RULES))
    order = [(one.arrived_ms, one.partition, one.offset) for one in report.candidates]
    assert order == sorted(order)
    assert len(order) == 300
    by_partition = [[one for one in messages if one.partition == partition] for partition in range(3)]
    for one in report.candidates:
        before = by_partition[one.partition][: one.offset + 1]
        assert one.arrived_ms == max(message.arrived_ms for message in before)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "a", "a", "b", "c"]),  # sensor
            st.sampled_from(["x", "x", "x", "y", "z"]),  # type
            st.sampled_from(["u", "u", "u", "u", "v", "w"]),  # unit
            st.sampled_from([-3.0, -2.0, -1.5, -1.0, -0.5, -0.5, 0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]),
            # µs after the previous reading
            st.sampled_from([-4_000_000, -1_500_000, 0, 500_000, 500_000, 1_000_000, 1_000_000, 2_000_000]),
            st.sampled_from(["hall", "hall", "roof"]),
        ),
        max_size=60,
    ),
    st.lists(st.integers(0, 60), max_size=4),
    st.sampled_from([1, 2, 3, 5, 50]),
)
def test_the_alarms_are_those_of_all_readings(drawn, cuts, size):
    time_us = BASE_US - 10**9
    readings = []
    next_offsets = {0: 100, 1: 7}
    for number, (sensor_id, sensor_type, unit, value, after_us, location) in enumerate(drawn):
        time_us += after_us
        partition = int(sensor_id == "c")
        at = BASE_MS + number // 3, partition, next_offsets[partition]
        readings.append(Candidate(*at, sensor_id, sensor_type, location, unit, value, time_us))
        next_offsets[partition] += 1
    found, candidates = run(readings, RULES, [min(cut, len(readings)) for cut in cuts], size)
    assert found == alarms(readings, RULES.rules, TOPIC)
    assert candidates <= len(readings)


def sticky(chance: random.Random, count: int) -> list[Candidate]:
    """Readings of three sensors whose values stay for a while, some of them late."""
    readings = []
    next_offsets = [100, 7]
    time_us = BASE_US - 10**9
    values: dict[tuple[str, str], float] = {}
    for number in range(count):
        time_us += chance.choice([0, 100_000, 500_000])
        sensor_id, sensor_type = chance.choice("abc"), chance.choice("xxy")
        if chance.random() < 0.2:
            values[sensor_id, sensor_type] = chance.choice([-3.0, -1.5, -0.5, 0.5, 1.5, 2.5, 4.0])
        late_us = chance.choice([500_000, 2_000_000, 4_000_000]) if chance.random() < 0.15 else 0
        unit = chance.choice("uv") if chance.random() < 0.1 else "u"
        value = values.get((sensor_id, sensor_type), -0.5)
        partition = int(sensor_id == "c")
        at = BASE_MS + number // 3, partition, next_offsets[partition]
        readings.append(Candidate(*at, sensor_id, sensor_type, "hall", unit, value, time_us - late_us))
        next_offsets[partition] += 1
    return readings


@pytest.mark.parametrize("seed", range(30))
def test_the_alarms_of_sensors_that_stay_out_of_bounds_for_a_while(seed):
    chance = random.Random(seed)
    readings = sticky(chance, 400)
    cuts = [chance.randrange(400) for _ in range(chance.choice([0, 3, 40]))]
    wanted = alarms(readings, RULES.rules, TOPIC)
    assert len({alarm.rule for alarm in wanted}) >= 3
    found, candidates = run(readings, RULES, cuts, chance.choice([1, 7, 50, 400]))
    assert found == wanted
    assert candidates < len(readings)
