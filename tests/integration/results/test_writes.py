"""What batches and alerts change in the tables, and how the results are read back."""

from __future__ import annotations

import math

import pytest

from iot.alerts import DEFAULT_RULES
from iot.results import writes
from iot.results.store import Store, StoreUnavailable
from iot.settings import WINDOW_S
from tests.support.results import NOW_S, Sample, Stream, delivered, write_batch


def test_a_sum_that_overflowed_stays_unknown(store):
    huge = 1.7e308
    stream = Stream()
    write_batch(store, 0, [Sample(huge), Sample(huge, location="roof")], stream)
    # The sum of each location is finite, but not the sum of both.
    assert [row.avg for row in store.windows()] == [None] * 3
    assert [row.avg for row in store.windows(location="roof")] == [huge] * 3
    assert math.isnan(store.read(NOW_S).totals["temperature"].total)
    write_batch(store, 1, [Sample(-huge), Sample(huge, location="roof")], stream)
    assert [row.avg for row in store.windows(location="roof")] == [None] * 3
    of_type = store.read(NOW_S).totals["temperature"]
    assert math.isnan(of_type.total)
    assert (of_type.count, of_type.min, of_type.max) == (4, -huge, huge)
    write_batch(store, 2, [Sample(1.0, 60.0)], stream)
    assert [row.avg for row in store.windows(since_s=NOW_S + 60)] == [1.0] * 3


def test_windows_have_the_standard_unit_or_that_of_the_newest_reading(store):
    stream = Stream()
    write_batch(store, 0, [Sample(unit="kelvin"), Sample(sensor_type="depth", unit="ft", location="roof")], stream)
    write_batch(store, 1, [Sample(at_s=1, sensor_type="depth", unit="m")], stream)
    assert {row.sensor_type: row.unit for row in store.windows()} == {"temperature": "celsius", "depth": "m"}
    assert {row.unit for row in store.windows(location="roof")} == {"ft"}
    assert {row.unit for row in store.windows(sensor_type="temperature", location="hall")} == {"celsius"}
    assert store.read(NOW_S).totals["depth"].unit == "m"
    # This reading is late, so it is not the newest.
    write_batch(store, 2, [Sample(at_s=-5, sensor_type="depth", unit="ft")], stream)
    assert store.read(NOW_S).totals["depth"].unit == "m"


def test_windows_can_be_filtered_by_end_type_and_location(store):
    write_batch(store, 0, [Sample(), Sample(sensor_type="light", location="roof"), Sample(at_s=100)])
    ends_s = [NOW_S + 10, NOW_S + 20, NOW_S + 30]
    assert [row.end_s for row in store.windows(NOW_S, NOW_S + 30, "temperature")] == ends_s
    assert [row.end_s for row in store.windows(NOW_S + 20, NOW_S + 20, "temperature")] == [NOW_S + 20]
    assert [row.end_s for row in store.windows(NOW_S + 10.5, NOW_S + 29.9, "temperature")] == [NOW_S + 20]
    assert [row.end_s for row in store.windows(None, NOW_S + 30, None, "roof")] == ends_s
    assert store.windows(None, NOW_S + 30, "temperature", "roof") == []
    assert [row.end_s for row in store.windows(limit=4)] == [NOW_S + 10, NOW_S + 10, NOW_S + 20, NOW_S + 20]
    assert [row.end_s - WINDOW_S for row in store.windows(NOW_S + 40)] == [NOW_S + 80, NOW_S + 90, NOW_S + 100]


def test_a_sensor_is_active_for_a_minute_and_in_alert_by_its_latest_reading(store):
    hot, fine = 31.0, 20.0
    write_batch(
        store,
        0,
        [
            Sample(hot, 0, "hot"),
            Sample(fine, 0, "fine"),
            Sample(hot, 0, "was hot", offset=1),
            Sample(fine, 0, "was hot", offset=2),
            # One sensor with two types out of bounds.
            Sample(hot, 0, "both"),
            Sample(99.0, 0, "both", "humidity", unit="percent"),
            Sample(hot, 0, "other unit", unit="kelvin"),
        ],
        rules=DEFAULT_RULES,
    )
    state = store.read(NOW_S + 60)
    assert (state.active_sensors, state.active_alerts) == (5, 2)
    assert [one.alert for one in state.latest] == [True] * 3 + [False] * 3
    assert {one.sensor_id for one in state.latest[:3]} == {"hot", "both"}
    assert (store.read(NOW_S + 60.1).active_sensors, store.read(NOW_S + 60.1).active_alerts) == (0, 0)
    # A late reading shows that the sensor is active, but is not its latest.
    write_batch(
        store, 1, [Sample(fine, -5, "hot", heard_s=30), Sample(hot, -5, "fine", heard_s=30)], rules=DEFAULT_RULES
    )
    state = store.read(NOW_S + 90)
    assert (state.active_sensors, state.active_alerts) == (2, 1)
    write_batch(store, 2, [Sample(fine, 80, "hot")], rules=DEFAULT_RULES)
    assert (store.read(NOW_S + 90).active_sensors, store.read(NOW_S + 90).active_alerts) == (2, 0)


def test_among_readings_with_equal_times_the_greatest_offset_is_the_latest(store):
    for batch_id, (value, offset) in enumerate([(1.0, 5), (2.0, 7), (3.0, 6)]):
        write_batch(store, batch_id, [Sample(value, offset=offset)])
    assert [one.value for one in store.read(NOW_S).latest] == [2.0]


def test_sensors_heard_from_longest_ago_are_deleted_above_the_limit(store, monkeypatch):
    monkeypatch.setattr(writes, "MAX_SENSORS", 5)
    write_batch(store, 0, [Sample(sensor_id=f"s{number}", at_s=number / 10) for number in range(5)])
    write_batch(store, 1, [Sample(sensor_id=f"s{number}", at_s=number / 10) for number in (0, 7, 8)], now_s=NOW_S)
    write_batch(store, 2, [Sample(sensor_id="s2", at_s=0.9)])
    state = store.read(NOW_S)
    assert [one.sensor_id for one in state.latest] == ["s2", "s8", "s7", "s4", "s3"]
    assert (state.sensors, state.active_sensors) == (5, 5)


def test_the_state_has_at_most_200_latest_readings_those_in_alert_first(store):
    write_batch(
        store,
        0,
        [Sample(31.0 if number < 3 else 20.0, number / 1_000, f"s{number}") for number in range(300)],
        rules=DEFAULT_RULES,
    )
    found = [one.sensor_id for one in store.read(NOW_S).latest]
    assert found == ["s2", "s1", "s0", *(f"s{number}" for number in range(299, 102, -1))]


def test_an_alert_is_written_once_however_often_it_is_delivered(url, store):
    first, second = delivered(1), delivered(2, 1)
    assert store.write_alerts([first, second, first], {0: 3}, "topic") == [first.alert, second.alert]
    assert store.write_alerts([second, delivered(3, 2), first], {0: 6}, "topic") == [delivered(3, 2).alert]
    again = Store(url)
    assert again.write_alerts([first], {0: 7, 1: 2}, "topic") == []
    assert again.alert_offsets() == {0: 7, 1: 2}
    assert again.read(NOW_S).total_alerts == 3
    # The same offset in a topic that was deleted and created again.
    assert again.write_alerts([first], {0: 8}, "another topic") == [first.alert]
    assert again.read(NOW_S).total_alerts == 4
    again.close()


def test_alerts_are_newest_first_by_event_time_and_can_be_filtered(store):
    late = delivered(9, -50, sensor_id="other", type="LOW_HUMIDITY", sensor_type="humidity", raised_s=0)
    store.write_alerts([delivered(1, 1), delivered(3, 3), delivered(2, 2), delivered(4, 3), late], {}, "topic")

    def numbers(*question, **named):
        return [int(alert.alert_id.rpartition("-")[2]) for alert in store.alerts(*question, **named)]

    assert numbers() == [4, 3, 2, 1, 9]
    assert numbers(2) == [4, 3]
    assert numbers(sensor_type="humidity") == numbers(sensor_id="other") == [9]
    assert numbers(sensor_type="temperature", sensor_id="other") == []
    assert numbers(since_us=(NOW_S + 2) * 1_000_000) == [4, 3, 2]
    assert store.alerts(1, sensor_id="other") == [late.alert]
    assert [alert.alert_id for alert in store.read(NOW_S).recent_alerts] == [alert.alert_id for alert in store.alerts()]


def test_an_alert_with_a_malformed_timestamp_is_ignored(store):
    assert store.write_alerts([delivered(1, timestamp="yesterday"), delivered(2)], {}, "topic") == [delivered(2).alert]


def test_rejected_messages_add_up_by_the_kind_of_reason(store):
    write_batch(store, 0, [Sample()], rejected=3, rejections={"value": 2, "empty": 1})
    write_batch(store, 1, [Sample(at_s=1)])
    write_batch(store, 2, [], rejected=2, rejections={"value": 1, "not_json": 1})
    # A batch that is repeated changes nothing.
    write_batch(store, 2, [], rejected=2, rejections={"value": 1, "not_json": 1})
    state = store.read(NOW_S)
    assert (state.rejected, state.rejections) == (5, {"value": 3, "empty": 1, "not_json": 1})


def test_the_size_of_the_database_grows_with_what_is_in_it(store):
    before = store.size_bytes()
    assert before > 0
    write_batch(store, 0, [Sample(sensor_id=f"sensor {number}" * 10) for number in range(5_000)])
    assert store.size_bytes() > before + 500_000


def test_a_database_that_does_not_exist_has_no_size(tmp_path):
    with pytest.raises(StoreUnavailable):
        Store(f"sqlite:///{tmp_path}/none.db").size_bytes()
