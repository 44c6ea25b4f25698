"""The rate and the histories: readings by the clock, alerts by event time."""

from __future__ import annotations

from sqlalchemy import func, select

from iot.results import timeline
from iot.results.model import Status
from iot.results.tables import history
from tests.support.results import DAY_S, HOUR_S, NOW_S, Sample, delivered, write_batch


def test_the_rate_covers_the_last_ten_seconds(store):
    for second in range(20):
        write_batch(store, second, [Sample(at_s=second)] * 30)
    assert store.read(NOW_S + 19).rate_10s == 30
    assert store.read(NOW_S + 24).rate_10s == 15
    assert store.read(NOW_S + 29).rate_10s == 0


def test_the_rate_history_distinguishes_zero_from_unknown_and_stays_short(store):
    begin_s = NOW_S // 900 * 900
    write_batch(store, 0, [Sample()] * 90, now_s=begin_s)
    store.heartbeat(Status(begin_s + 10, begin_s))
    # From 20 to 30 nothing was measured.
    store.heartbeat(Status(begin_s + 31, begin_s))
    rates = store.read(begin_s + 45).rate_history
    assert rates == [(begin_s + 10, 9.0), (begin_s + 20, 0.0), (begin_s + 40, 0.0)]
    # A step that is not over has no rate yet.
    assert store.read(begin_s + 39).rate_history == rates[:2]
    with store._database.writing() as connection:
        for second in range(0, DAY_S + HOUR_S, 10):
            timeline.count_readings(connection, begin_s + second, 20)
    now_s = begin_s + DAY_S + HOUR_S
    rates = store.read(now_s).rate_history
    assert 250 < len(rates) <= 300
    assert [end_s for end_s, _ in rates] == sorted({end_s for end_s, _ in rates})
    assert {per_s for end_s, per_s in rates} == {2.0}
    assert now_s - DAY_S - 1_800 < rates[0][0] < now_s - DAY_S + 1_800
    assert rates[-1][0] == now_s
    store.prune(now_s, DAY_S)
    assert store.read(now_s).rate_history == rates


def test_the_alert_history_counts_by_type_and_event_time_in_coarser_steps_for_older_alerts(store):
    begin_s = NOW_S // 900 * 900
    at_s = begin_s - NOW_S
    new = [delivered(number, at_s + number * 60) for number in range(24 * 60)]
    low = [delivered(5_000 + number, at_s + 24 * HOUR_S - 1, type="LOW_TEMPERATURE") for number in range(2)]
    # A year old, but processed now.
    old = [delivered(6_000, -365 * DAY_S, raised_s=0)]
    store.write_alerts(new + low + old, {}, "topic")
    store.write_alerts(new[:5], {}, "topic")
    now_s = begin_s + DAY_S
    counts = store.read(now_s).alert_history
    assert sum(count for _, kind, count in counts if kind == "HIGH_TEMPERATURE") == len(new)
    assert counts[0] == (begin_s, "HIGH_TEMPERATURE", 15)
    assert counts[-2:] == [(now_s - 60, "HIGH_TEMPERATURE", 1), (now_s - 60, "LOW_TEMPERATURE", 2)]
    assert {count for start_s, _, count in counts if now_s - 5 * HOUR_S < start_s < now_s - 2 * HOUR_S} == {5}
    assert len(counts) < 250
    # No alert is counted twice or left out where steps of two lengths meet.
    for later_s in range(7, 900, 60):
        counts = store.read(now_s + later_s).alert_history
        since_s = counts[0][0]
        assert since_s <= now_s + later_s - DAY_S
        wanted = sum(NOW_S + at_s + 60 * number >= since_s for number in range(24 * 60))
        assert sum(count for _, kind, count in counts if kind == "HIGH_TEMPERATURE") == wanted
    # Alerts too old to be shown are not stored.
    with store._database.reading() as connection:
        assert connection.scalar(select(func.min(history.c.at_s))) == begin_s
    assert store.read(now_s + 2 * DAY_S).alert_history == []
    store.prune(now_s + 3 * DAY_S, 10 * DAY_S)
    assert store.read(now_s).alert_history == []
