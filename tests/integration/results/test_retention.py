"""Windows and alerts are deleted by age and above a maximum number."""

from __future__ import annotations

from sqlalchemy import select

from iot.results import retention
from iot.results.tables import alerts
from tests.support.results import DAY_S, HOUR_S, NOW_S, Sample, Stream, delivered, write_batch


def test_windows_are_deleted_by_the_time_of_writing_not_by_event_time(store):
    stream = Stream()
    year_s = 365 * DAY_S
    write_batch(store, 0, [Sample(at_s=-year_s), Sample(at_s=-year_s, location="roof")], stream, now_s=NOW_S)
    store.prune(NOW_S + HOUR_S, HOUR_S)
    assert len(store.windows()) == 3
    write_batch(store, 1, [Sample(at_s=-year_s + 100)], stream, now_s=NOW_S + HOUR_S)
    store.prune(NOW_S + HOUR_S + 1, HOUR_S)
    assert [row.end_s for row in store.windows()] == [NOW_S - year_s + end_s for end_s in (110, 120, 130)]
    assert store.windows(location="roof") == []
    assert store.read(NOW_S).retention_s == HOUR_S


def test_an_unchanged_window_is_not_kept_longer(store):
    stream = Stream()
    write_batch(store, 0, [Sample(), Sample(sensor_type="light")], stream, now_s=NOW_S)
    write_batch(store, 1, [Sample(), Sample(at_s=100)], stream, now_s=NOW_S + HOUR_S)
    store.prune(NOW_S + HOUR_S + 1, HOUR_S)
    assert {row.sensor_type for row in store.windows(until_s=NOW_S + 30)} == {"temperature"}


def test_an_open_window_is_not_deleted(store):
    stream = Stream()
    write_batch(store, 0, [Sample(1.0), Sample(2.0, location="roof")], stream)
    store.prune(NOW_S + DAY_S, HOUR_S)
    # A reading of another type, a day later, closes the windows.
    write_batch(store, 1, [Sample(3.0), Sample(at_s=DAY_S, sensor_type="light")], stream, now_s=NOW_S + DAY_S)
    assert [(row.count, row.avg) for row in store.windows(sensor_type="temperature")] == [(3, 2.0)] * 3
    store.prune(NOW_S + 3 * DAY_S, HOUR_S)
    assert store.windows(sensor_type="temperature") == []
    assert store.windows(sensor_type="light") != []


def test_windows_written_first_are_deleted_above_the_limit(store, monkeypatch):
    monkeypatch.setattr(retention, "MAX_WINDOW_ROWS", 10)
    monkeypatch.setattr(retention, "MAX_DELETED", 2)
    for batch_id in range(6):
        write_batch(store, batch_id, [Sample(at_s=100 * batch_id), Sample(at_s=100 * batch_id, location="roof")])
    store.prune(NOW_S + 600, DAY_S)
    # A window over two locations counts as three rows.
    assert [row.end_s - NOW_S for row in store.windows()] == [510, 520, 530]
    assert [row.end_s - NOW_S for row in store.windows(location="roof")] == [510, 520, 530]


def test_old_alerts_are_deleted_but_repeats_are_recognised_for_five_more_minutes(store):
    old = delivered(1, -DAY_S, raised_s=0)
    store.write_alerts([old, delivered(2, 200)], {}, "topic")
    store.prune(NOW_S + 300, 400)
    assert len(store.alerts()) == 2
    store.prune(NOW_S + 500, 400)
    assert [alert.alert_id for alert in store.alerts()] == ["iot-sensors-0-2"]
    assert store.write_alerts([old], {}, "topic") == []
    # The newest alerts are remembered, however long ago they came.
    store.prune(NOW_S + 10 * DAY_S, 400)
    assert store.alerts() == []
    assert store.write_alerts([old, delivered(2, 200)], {}, "topic") == []
    store.write_alerts([delivered(3, 2 * HOUR_S)], {}, "topic")
    store.prune(NOW_S + 2 * HOUR_S, 400)
    assert store.write_alerts([old], {}, "topic") == [old.alert]
    assert store.read(NOW_S + 2 * HOUR_S).total_alerts == 4


def test_alerts_are_kept_for_the_retention_time(store):
    store.write_alerts([delivered(1), delivered(2, 3 * HOUR_S)], {}, "topic")
    store.prune(NOW_S + 3 * HOUR_S, DAY_S)
    assert len(store.alerts()) == 2


def test_alerts_written_first_are_deleted_above_the_limit(store, monkeypatch):
    monkeypatch.setattr(retention, "MAX_ALERTS", 5)
    monkeypatch.setattr(retention, "MAX_DELETED", 3)
    store.write_alerts([delivered(number, -number) for number in range(20)], {}, "topic")
    store.prune(NOW_S, DAY_S)
    assert [alert.alert_id for alert in store.alerts()] == [f"iot-sensors-0-{number}" for number in range(15, 20)]
    assert store.read(NOW_S).total_alerts == 20
    with store._database.reading() as connection:
        assert len(connection.execute(select(alerts)).all()) == 5
