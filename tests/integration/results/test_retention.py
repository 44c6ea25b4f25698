"""What goes from the results database, and what stays: by age, and by number."""

from __future__ import annotations

from sqlalchemy import select

from iot.results import retention
from iot.results.tables import alerts
from tests.support.results import DAY_S, HOUR_S, NOW_S, Sample, Stream, delivered, keep


def test_windows_go_when_they_were_written_too_long_ago_whatever_their_time(store):
    stream = Stream()
    year_s = 365 * DAY_S
    keep(store, 0, [Sample(at_s=-year_s), Sample(at_s=-year_s, location="roof")], stream, now_s=NOW_S)
    store.prune(NOW_S + HOUR_S, HOUR_S)
    assert len(store.windows()) == 3
    keep(store, 1, [Sample(at_s=-year_s + 100)], stream, now_s=NOW_S + HOUR_S)
    store.prune(NOW_S + HOUR_S + 1, HOUR_S)
    assert [row.end_s for row in store.windows()] == [NOW_S - year_s + end_s for end_s in (110, 120, 130)]
    assert store.windows(location="roof") == []
    assert store.read(NOW_S).retention_s == HOUR_S


def test_what_did_not_change_is_not_kept_longer(store):
    stream = Stream()
    keep(store, 0, [Sample(), Sample(sensor_type="light")], stream, now_s=NOW_S)
    keep(store, 1, [Sample(), Sample(at_s=100)], stream, now_s=NOW_S + HOUR_S)
    store.prune(NOW_S + HOUR_S + 1, HOUR_S)
    assert {row.sensor_type for row in store.windows(until_s=NOW_S + 30)} == {"temperature"}


def test_a_window_that_is_open_stays_because_a_part_of_it_would_not_come_again(store):
    stream = Stream()
    keep(store, 0, [Sample(1.0), Sample(2.0, location="roof")], stream, newest_us=NOW_S * 1_000_000)
    store.prune(NOW_S + DAY_S, HOUR_S)
    keep(store, 1, [Sample(3.0)], stream, now_s=NOW_S + DAY_S, newest_us=(NOW_S + DAY_S) * 1_000_000)
    assert [(row.count, row.avg) for row in store.windows()] == [(3, 2.0)] * 3
    store.prune(NOW_S + 3 * DAY_S, HOUR_S)
    assert store.windows() == []


def test_of_too_many_windows_those_written_last_are_kept(store, monkeypatch):
    monkeypatch.setattr(retention, "MAX_WINDOW_ROWS", 10)
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    for batch_id in range(6):
        keep(store, batch_id, [Sample(at_s=100 * batch_id), Sample(at_s=100 * batch_id, location="roof")])
    store.prune(NOW_S + 600, DAY_S)
    # A window over two locations is three rows.
    assert [row.end_s - NOW_S for row in store.windows()] == [510, 520, 530]
    assert [row.end_s - NOW_S for row in store.windows(location="roof")] == [510, 520, 530]


def test_alerts_go_when_they_were_raised_too_long_ago_and_repeats_are_known_five_minutes_longer(store):
    old = delivered(1, -DAY_S, raised_s=0)
    store.keep_alerts([old, delivered(2, 200)], {}, "topic")
    store.prune(NOW_S + 300, 400)
    assert len(store.alerts()) == 2
    store.prune(NOW_S + 500, 400)
    assert [alert.alert_id for alert in store.alerts()] == ["iot-sensors-0-2"]
    assert store.keep_alerts([old], {}, "topic") == []
    # However long nothing came, the newest of before are known.
    store.prune(NOW_S + 10 * DAY_S, 400)
    assert store.alerts() == []
    assert store.keep_alerts([old, delivered(2, 200)], {}, "topic") == []
    store.keep_alerts([delivered(3, 2 * HOUR_S)], {}, "topic")
    store.prune(NOW_S + 2 * HOUR_S, 400)
    assert store.keep_alerts([old], {}, "topic") == [old.alert]
    assert store.read(NOW_S + 2 * HOUR_S).total_alerts == 4


def test_alerts_are_kept_as_long_as_told(store):
    store.keep_alerts([delivered(1), delivered(2, 3 * HOUR_S)], {}, "topic")
    store.prune(NOW_S + 3 * HOUR_S, DAY_S)
    assert len(store.alerts()) == 2


def test_of_too_many_alerts_those_kept_last_stay(store, monkeypatch):
    monkeypatch.setattr(retention, "MAX_ALERTS", 5)
    monkeypatch.setattr(retention, "AT_ONCE", 3)
    store.keep_alerts([delivered(number, -number) for number in range(20)], {}, "topic")
    store.prune(NOW_S, DAY_S)
    assert [alert.alert_id for alert in store.alerts()] == [f"iot-sensors-0-{number}" for number in range(15, 20)]
    assert store.read(NOW_S).total_alerts == 20
    with store._database.reading() as connection:
        assert len(connection.execute(select(alerts)).all()) == 5
