"""The simulated fleet: its readings are valid, reproducible and realistic."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pytest

from iot.alerts import DEFAULT_RULES, broken_bound
from iot.readings import STANDARD_UNITS, Reading, decode
from iot.sensors.fleet import PERIOD_S, Fleet

NOON_US = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()) * 1_000_000
HOUR_US = 3_600_000_000


def times(count: int, step_us: int, begin_us: int = NOON_US) -> npt.NDArray[np.int64]:
    return begin_us + np.arange(count) * step_us


def values(fleet: Fleet, times_us: npt.NDArray[np.int64], cuts: tuple[int, ...] = ()) -> list[bytes]:
    """Return the messages at these times, made in parts that end at ``cuts``."""
    return [record["value"] for part in np.split(times_us, cuts) for record in fleet.records(part)]


def readings(fleet: Fleet, times_us: npt.NDArray[np.int64]) -> list[Reading]:
    return [decode(value) for value in values(fleet, times_us)]


def test_sensors_take_turns_and_count_their_readings():
    times_us = times(2_000, 1_700_123)
    fleet = Fleet(7, 1, "run1")
    records = fleet.records(times_us)
    for number, (record, time_us) in enumerate(zip(records, times_us, strict=True)):
        reading = decode(record["value"])
        assert record["key"] == reading.sensor_id.encode() == b"sensor_%d" % (number % 7)
        assert (reading.sequence, reading.run_id, reading.time_us) == (number // 7, "run1", time_us)


def test_a_fleet_has_all_types_with_their_units_and_all_locations():
    by_sensor = {reading.sensor_id: reading for reading in readings(Fleet(30, 1, "r"), times(30, 1000))}
    assert [by_sensor[f"sensor_{number}"].sensor_type for number in range(5, 10)] == list(STANDARD_UNITS)
    assert all(reading.unit == STANDARD_UNITS[reading.sensor_type] for reading in by_sensor.values())
    assert len({reading.location for reading in by_sensor.values()}) == 5


@pytest.mark.parametrize("size", [1, 3, 50, 700])
def test_the_same_seed_gives_the_same_readings_in_any_batches(size):
    times_us = times(600, 211_000)
    whole = values(Fleet(size, 5, "r"), times_us)
    assert values(Fleet(size, 5, "r"), times_us, (1, 2, 49, 51, 300, 300, 599)) == whole
    assert values(Fleet(size, 6, "r"), times_us) != whole


@pytest.mark.parametrize("shares", [2, 3, 20])
def test_shares_together_make_the_whole_fleet(shares):
    times_us = times(500, 50_000)
    whole = values(Fleet(20, 5, "r"), times_us)
    together: dict[int, bytes] = {}
    for share in range(shares):
        fleet = Fleet(20, 5, "r", share, shares)
        count = fleet.count_below(500)
        numbers = fleet.numbers(0, count)
        assert [fleet.count_below(int(number)) for number in numbers] == list(range(count))
        together |= dict(zip(numbers.tolist(), values(fleet, times_us[numbers]), strict=True))
    assert [together[number] for number in range(500)] == whole


def test_times_may_go_back():
    late = times(60, 1_000_000)
    late[::7] -= 90_000_000
    assert [reading.time_us for reading in readings(Fleet(6, 1, "r"), late)] == late.tolist()
    assert Fleet(6, 1, "r").records(late[:0]) == []


def test_only_faults_break_rules_and_they_last_for_several_readings():
    found = readings(Fleet(50, 3, "r"), times(50 * 600, 20_000))
    alerting = [reading for reading in found if broken_bound(reading, DEFAULT_RULES)]
    assert {id(reading) for reading in alerting} == {id(reading) for reading in found if reading.quality == "suspect"}
    assert 0.002 < len(alerting) / len(found) < 0.05
    # During a fault the sensor alerts several times in a row.
    assert (
        len({(reading.sensor_id, reading.time_us // (PERIOD_S * 1_000_000)) for reading in alerting})
        < len(alerting) / 4
    )
    # Faults are spread over time: there are alerts in every minute.
    assert len({reading.time_us // 60_000_000 for reading in alerting}) == 10


@pytest.mark.parametrize("seed", range(5))
def test_a_small_fleet_alerts_within_a_minute(seed):
    found = readings(Fleet(10, seed, "r"), times(600, 100_000))
    assert any(broken_bound(reading, DEFAULT_RULES) for reading in found)


def test_values_follow_the_time_of_day_and_wander():
    def mean(sensor_type: str, begin_us: int) -> float:
        found = readings(Fleet(50, 3, "r"), times(5_000, 20_000, begin_us))
        return float(np.mean([r.value for r in found if r.sensor_type == sensor_type and r.quality == "good"]))

    night_us, afternoon_us = NOON_US - 9 * HOUR_US, NOON_US + 3 * HOUR_US
    assert 3 < mean("temperature", afternoon_us) - mean("temperature", night_us) < 7
    assert mean("light", afternoon_us) > 3 * mean("light", night_us)
    one = [reading.value for reading in readings(Fleet(1, 3, "r"), times(500, 10_000)) if reading.quality == "good"]
    assert len(set(one)) > 20
    # Consecutive values are closer to each other than distant ones.
    assert np.abs(np.diff(one)).mean() < 0.75 * np.abs(np.subtract(one[:200], one[200:400])).mean()


def test_motion_is_0_or_1_and_mostly_0():
    found = [r.value for r in readings(Fleet(50, 3, "r"), times(10_000, 20_000)) if r.sensor_type == "motion"]
    assert set(found) == {0.0, 1.0}
    assert 0.02 < np.mean(found) < 0.5


def test_values_stay_within_the_table_of_texts():
    # A year of every type, at the hours at which values are highest and lowest.
    for reading in readings(Fleet(500, 9, "r"), times(2_000, 15_770_000_000)):
        assert 0 <= reading.value < 1_050
