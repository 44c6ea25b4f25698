"""The results database: what is kept, and what is told of it."""

from __future__ import annotations

import math
import threading
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from iot.alerts import DEFAULT_RULES
from iot.batches import Context
from iot.results import timeline, writes
from iot.results.model import State, Status
from iot.results.store import Store
from iot.results.tables import history as history_table
from iot.results.tables import metadata
from iot.settings import WINDOW_S
from tests.support.results import DAY_S, HOUR_S, IDENTITY, NOW_S, Sample, Stream, delivered, keep, total


def everything(store: Store) -> object:
    """All that is in the tables."""
    with store._database.reading() as connection:
        return {name: sorted(connection.execute(select(table)).all()) for name, table in metadata.tables.items()}


def test_of_a_new_database_nothing_is_known(url, tmp_path):
    store = Store(url)
    assert store.identity() is None
    assert (store.version(), store.read(NOW_S), store.alerts(), store.windows()) == (0, State(), [], [])
    assert (store.contexts(), store.offsets(), store.alert_offsets()) == ({}, {}, None)
    assert not list(tmp_path.iterdir())
    store.close()


def test_to_begin_again_forgets_everything(store):
    keep(store, 0, [Sample()], next_offsets={0: 1})
    store.keep_alerts([delivered(1)], {0: 1}, "topic")
    store.heartbeat(Status(NOW_S, NOW_S))
    store.prune(NOW_S, DAY_S)
    before = store.version()
    other = type(IDENTITY)("iot-sensors", "second-topic-id")
    store.begin(other, "new state")
    assert store.identity() == (other, "new state")
    assert store.version() > before
    state = store.read(NOW_S)
    state.version = 0
    assert state == State()
    assert (store.windows(), store.alerts(), store.alert_offsets()) == ([], [], None)
    assert keep(store, 0, [Sample()])
    assert store.keep_alerts([delivered(1)], {0: 1}, "topic")


samples = st.builds(
    Sample,
    value=st.integers(-400, 400).map(lambda number: number / 4),
    at_s=st.integers(-60, 60),
    sensor_id=st.sampled_from(["a", "b", "c"]),
    sensor_type=st.sampled_from(["temperature", "humidity", "odd"]),
    location=st.sampled_from(["hall", "roof"]),
    unit=st.sampled_from(["celsius", "m", "ft"]),
    heard_s=st.integers(0, 120),
    offset=st.integers(0, 5),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.lists(samples, max_size=6), st.sampled_from(["", "repeat", "repeat all", "restart"]), st.integers(0, 3)
        ),
        max_size=5,
    )
)
def test_results_are_those_of_all_readings_once_whatever_is_repeated(url, steps):
    """Against a plain model: lists of all readings."""
    store = Store(url)
    store.begin(IDENTITY, "state")
    stream, sent, rejected, kept = Stream(), [], 0, []
    for batch_id, (new, then, of_rejected) in enumerate(steps):
        changed, report = stream.batch(new, rejected=of_rejected, late=len(new) // 2, next_offsets={0: batch_id})
        call = ("windows", batch_id, changed, report, {batch_id: Context(batch_id)}, DEFAULT_RULES, NOW_S + batch_id)
        assert store.keep_batch(*call)
        kept.append(call)
        sent += new
        rejected += of_rejected
        if then == "restart":
            store.close()
            store = Store(url)
        elif then:
            before = everything(store)
            assert not any(store.keep_batch(*again) for again in (kept if then == "repeat all" else kept[-1:]))
            assert everything(store) == before

    now_s = NOW_S + 120
    state = store.read(now_s)
    assert (state.messages, state.rejected) == (len(sent), rejected)
    assert state.late == sum(len(new) // 2 for new, _, _ in steps)
    of_types: dict[str, list[Sample]] = defaultdict(list)
    of_windows: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    of_sensors: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    heard_ms: dict[str, int] = {}
    for sample in sent:
        of_types[sample.sensor_type].append(sample)
        of_sensors[sample.sensor_id, sample.sensor_type].append(sample)
        heard_ms[sample.sensor_id] = max(sample.heard_ms, heard_ms.get(sample.sensor_id, 0))
    for (end_s, name, _), of in stream.windows.items():
        of_windows[end_s, name] += of
    found = {name: (of.count, of.total, of.min, of.max, of.newest_us) for name, of in state.totals.items()}
    wanted = {name: total(of) for name, of in of_types.items()}
    assert found == {name: (of.count, of.total, of.min, of.max, of.newest_us) for name, of in wanted.items()}

    wanted_windows = {
        key: (len(of), sum(one.value for one in of) / len(of), min(of).value, max(of).value)
        for key, of in of_windows.items()
    }
    rows = store.windows()
    assert {(row.end_s, row.sensor_type): (row.count, row.avg, row.min, row.max) for row in rows} == wanted_windows
    assert [row.end_s for row in rows] == sorted(row.end_s for row in rows)
    by_location = {
        (row.end_s, row.sensor_type, place): (row.count, row.avg) for place in ("hall", "roof")
        for row in store.windows(location=place)
    }  # fmt: skip
    assert by_location == {key: (len(of), sum(one.value for one in of) / len(of)) for key, of in stream.windows.items()}

    def last(of: list[Sample]) -> tuple[float, int]:
        return max((one.time_us, one.offset) for one in of)

    values = {(one.sensor_id, one.sensor_type): one for one in state.latest}
    assert values.keys() == of_sensors.keys()
    for key, of in of_sensors.items():
        newest = [one for one in of if (one.time_us, one.offset) == last(of)]
        assert values[key].time_us == newest[0].time_us
        assert values[key].value in {one.value for one in newest}
    assert state.active_sensors == sum(heard >= (now_s - 60) * 1_000 for heard in heard_ms.values())
    assert state.offsets == ({0: len(steps) - 1} if steps else {})
    store.close()


def test_a_later_batch_of_the_same_query_rules_out_an_earlier_one_and_another_query_does_not(store):
    assert keep(store, 5, [Sample()])
    assert not keep(store, 4, [Sample()])
    changed, report = Stream().batch([Sample()])
    assert store.keep_batch("another", 0, changed, report, {}, {}, NOW_S)
    assert store.read(NOW_S).messages == 2


def test_a_batch_without_readings_counts_what_was_rejected(store):
    assert keep(store, 0, [], rejected=3, next_offsets={1: 3})
    state = store.read(NOW_S + 1)
    assert (state.messages, state.rejected, state.offsets, state.processed_s) == (0, 3, {1: 3}, NOW_S)
    keep(store, 1, [], now_s=NOW_S + 50)
    assert store.read(NOW_S + 51).processed_s == NOW_S


def test_what_the_next_batch_has_to_know_is_kept_with_the_last(url, store):
    contexts = {7: Context(1_000_000, ["temperature"], ["hall"]), 8: Context(2_000_000, ["temperature", "x"], ["hall"])}
    changed, report = Stream().batch([Sample()], next_offsets={0: 10, 2: 5})
    store.keep_batch("windows", 7, changed, report, contexts, {}, NOW_S)
    store.keep_batch("windows", 8, changed, Stream().batch([], next_offsets={2: 6})[1], contexts, {}, NOW_S)
    again = Store(url)
    assert (again.contexts(), again.offsets(), again.identity()) == (contexts, {0: 10, 2: 6}, (IDENTITY, "state"))
    state = again.read(NOW_S)
    assert (state.sensor_types, state.locations) == (["temperature", "x"], ["hall"])
    again.close()


def test_a_sum_that_overflowed_is_not_known_and_stays_so(store):
    huge = 1.7e308
    stream = Stream()
    keep(store, 0, [Sample(huge), Sample(huge, location="roof")], stream)
    # Each location's sum is finite, that of both is not.
    assert [row.avg for row in store.windows()] == [None] * 3
    assert [row.avg for row in store.windows(location="roof")] == [huge] * 3
    assert math.isnan(store.read(NOW_S).totals["temperature"].total)
    keep(store, 1, [Sample(-huge), Sample(huge, location="roof")], stream)
    assert [row.avg for row in store.windows(location="roof")] == [None] * 3
    of_type = store.read(NOW_S).totals["temperature"]
    assert math.isnan(of_type.total)
    assert (of_type.count, of_type.min, of_type.max) == (4, -huge, huge)
    keep(store, 2, [Sample(1.0, 60.0)], stream)
    assert [row.avg for row in store.windows(since_s=NOW_S + 60)] == [1.0] * 3


def test_windows_are_in_the_standard_unit_of_their_type_or_that_of_its_newest_reading(store):
    stream = Stream()
    keep(store, 0, [Sample(unit="kelvin"), Sample(sensor_type="depth", unit="ft", location="roof")], stream)
    keep(store, 1, [Sample(at_s=1, sensor_type="depth", unit="m")], stream)
    assert {row.sensor_type: row.unit for row in store.windows()} == {"temperature": "celsius", "depth": "m"}
    assert {row.unit for row in store.windows(location="roof")} == {"ft"}
    assert {row.unit for row in store.windows(sensor_type="temperature", location="hall")} == {"celsius"}
    assert store.read(NOW_S).totals["depth"].unit == "m"
    # Late: not the newest.
    keep(store, 2, [Sample(at_s=-5, sensor_type="depth", unit="ft")], stream)
    assert store.read(NOW_S).totals["depth"].unit == "m"


def test_windows_are_asked_for_by_end_type_and_location(store):
    keep(store, 0, [Sample(), Sample(sensor_type="light", location="roof"), Sample(at_s=100)])
    ends_s = [NOW_S + 10, NOW_S + 20, NOW_S + 30]
    assert [row.end_s for row in store.windows(NOW_S, NOW_S + 30, "temperature")] == ends_s
    assert [row.end_s for row in store.windows(NOW_S + 20, NOW_S + 20, "temperature")] == [NOW_S + 20]
    assert [row.end_s for row in store.windows(NOW_S + 10.5, NOW_S + 29.9, "temperature")] == [NOW_S + 20]
    assert [row.end_s for row in store.windows(None, NOW_S + 30, None, "roof")] == ends_s
    assert store.windows(None, NOW_S + 30, "temperature", "roof") == []
    assert [row.end_s for row in store.windows(limit=4)] == [NOW_S + 10, NOW_S + 10, NOW_S + 20, NOW_S + 20]
    assert [row.end_s - WINDOW_S for row in store.windows(NOW_S + 40)] == [NOW_S + 80, NOW_S + 90, NOW_S + 100]


def test_sensors_are_active_for_a_minute_and_in_alert_by_their_latest_reading(store):
    hot, fine = 31.0, 20.0
    keep(
        store,
        0,
        [
            Sample(hot, 0, "hot"),
            Sample(fine, 0, "fine"),
            Sample(hot, 0, "was hot", offset=1),
            Sample(fine, 0, "was hot", offset=2),
            # One sensor, two of its types out of bounds.
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
    # A late reading is a sign of life, and not the latest.
    keep(store, 1, [Sample(fine, -5, "hot", heard_s=30), Sample(hot, -5, "fine", heard_s=30)], rules=DEFAULT_RULES)
    state = store.read(NOW_S + 90)
    assert (state.active_sensors, state.active_alerts) == (2, 1)
    keep(store, 2, [Sample(fine, 80, "hot")], rules=DEFAULT_RULES)
    assert (store.read(NOW_S + 90).active_sensors, store.read(NOW_S + 90).active_alerts) == (2, 0)


def test_of_readings_of_one_moment_that_of_the_greater_offset_is_the_latest(store):
    for batch_id, (value, offset) in enumerate([(1.0, 5), (2.0, 7), (3.0, 6)]):
        keep(store, batch_id, [Sample(value, offset=offset)])
    assert [one.value for one in store.read(NOW_S).latest] == [2.0]


def test_of_too_many_sensors_those_heard_from_last_are_kept(store, monkeypatch):
    monkeypatch.setattr(writes, "MAX_SENSORS", 5)
    keep(store, 0, [Sample(sensor_id=f"s{number}", at_s=number / 10) for number in range(5)])
    keep(store, 1, [Sample(sensor_id=f"s{number}", at_s=number / 10) for number in (0, 7, 8)], now_s=NOW_S)
    keep(store, 2, [Sample(sensor_id="s2", at_s=0.9)])
    state = store.read(NOW_S)
    assert [one.sensor_id for one in state.latest] == ["s2", "s8", "s7", "s4", "s3"]
    assert (state.sensors, state.active_sensors) == (5, 5)


def test_the_page_gets_some_of_many_sensors_those_in_alert_first(store):
    keep(
        store,
        0,
        [Sample(31.0 if number < 3 else 20.0, number / 1_000, f"s{number}") for number in range(300)],
        rules=DEFAULT_RULES,
    )
    found = [one.sensor_id for one in store.read(NOW_S).latest]
    assert found == ["s2", "s1", "s0", *(f"s{number}" for number in range(299, 102, -1))]


def test_the_rate_is_of_the_last_ten_seconds(store):
    for second in range(20):
        keep(store, second, [Sample(at_s=second)] * 30)
    assert store.read(NOW_S + 19).rate_10s == 30
    assert store.read(NOW_S + 24).rate_10s == 15
    assert store.read(NOW_S + 29).rate_10s == 0


def test_the_history_of_rates_tells_nothing_from_none_and_stays_short(store):
    begin_s = NOW_S // 900 * 900
    keep(store, 0, [Sample()] * 90, now_s=begin_s)
    store.heartbeat(Status(begin_s + 10, begin_s))
    # From 20 to 30 nobody watched.
    store.heartbeat(Status(begin_s + 31, begin_s))
    rates = store.read(begin_s + 45).rate_history
    assert rates == [(begin_s + 10, 9.0), (begin_s + 20, 0.0), (begin_s + 40, 0.0)]
    # A step that is not over tells too little.
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


def test_alerts_are_kept_once_however_often_they_are_delivered(url, store):
    first, second = delivered(1), delivered(2, 1)
    assert store.keep_alerts([first, second, first], {0: 3}, "topic") == [first.alert, second.alert]
    assert store.keep_alerts([second, delivered(3, 2), first], {0: 6}, "topic") == [delivered(3, 2).alert]
    again = Store(url)
    assert again.keep_alerts([first], {0: 7, 1: 2}, "topic") == []
    assert again.alert_offsets() == {0: 7, 1: 2}
    assert again.read(NOW_S).total_alerts == 3
    # The same place in a topic that was made again.
    assert again.keep_alerts([first], {0: 8}, "another topic") == [first.alert]
    assert again.read(NOW_S).total_alerts == 4
    again.close()


def test_alerts_are_newest_first_by_event_time_and_can_be_filtered(store):
    late = delivered(9, -50, sensor_id="other", type="LOW_HUMIDITY", sensor_type="humidity", raised_s=0)
    store.keep_alerts([delivered(1, 1), delivered(3, 3), delivered(2, 2), delivered(4, 3), late], {}, "topic")

    def numbers(*question, **named):
        return [int(alert.alert_id.rpartition("-")[2]) for alert in store.alerts(*question, **named)]

    assert numbers() == [4, 3, 2, 1, 9]
    assert numbers(2) == [4, 3]
    assert numbers(sensor_type="humidity") == numbers(sensor_id="other") == [9]
    assert numbers(sensor_type="temperature", sensor_id="other") == []
    assert numbers(since_us=(NOW_S + 2) * 1_000_000) == [4, 3, 2]
    assert store.alerts(1, sensor_id="other") == [late.alert]
    assert [alert.alert_id for alert in store.read(NOW_S).recent_alerts] == [alert.alert_id for alert in store.alerts()]


def test_what_has_no_moment_is_no_alert(store):
    assert store.keep_alerts([delivered(1, timestamp="yesterday"), delivered(2)], {}, "topic") == [delivered(2).alert]


def test_the_history_of_alerts_counts_by_type_and_event_time_coarser_the_longer_ago(store):
    begin_s = NOW_S // 900 * 900
    at_s = begin_s - NOW_S
    new = [delivered(number, at_s + number * 60) for number in range(24 * 60)]
    low = [delivered(5_000 + number, at_s + 24 * HOUR_S - 1, type="LOW_TEMPERATURE") for number in range(2)]
    # Of last year, processed now.
    old = [delivered(6_000, -365 * DAY_S, raised_s=0)]
    store.keep_alerts(new + low + old, {}, "topic")
    store.keep_alerts(new[:5], {}, "topic")
    now_s = begin_s + DAY_S
    counts = store.read(now_s).alert_history
    assert sum(count for _, kind, count in counts if kind == "HIGH_TEMPERATURE") == len(new)
    assert counts[0] == (begin_s, "HIGH_TEMPERATURE", 15)
    assert counts[-2:] == [(now_s - 60, "HIGH_TEMPERATURE", 1), (now_s - 60, "LOW_TEMPERATURE", 2)]
    assert {count for start_s, _, count in counts if now_s - 5 * HOUR_S < start_s < now_s - 2 * HOUR_S} == {5}
    assert len(counts) < 250
    # Wherever one kind of step follows another, nothing is counted twice or left out.
    for later_s in range(7, 900, 60):
        counts = store.read(now_s + later_s).alert_history
        since_s = counts[0][0]
        assert since_s <= now_s + later_s - DAY_S
        wanted = sum(NOW_S + at_s + 60 * number >= since_s for number in range(24 * 60))
        assert sum(count for _, kind, count in counts if kind == "HIGH_TEMPERATURE") == wanted
    # What is too old to be shown is not even kept.
    with store._database.reading() as connection:
        assert connection.scalar(select(func.min(history_table.c.at_s))) == begin_s
    assert store.read(now_s + 2 * DAY_S).alert_history == []
    store.prune(now_s + 3 * DAY_S, 10 * DAY_S)
    assert store.read(now_s).alert_history == []


@pytest.mark.parametrize(
    "name", ["\0", "a\0b\\0\\", "\\", "'; drop table alerts; --", "%s %(x)s", "🌡", "ÄÖ\n\t", "x" * 128]
)
def test_any_name_is_kept_as_it_is(store, name):
    keep(store, 0, [Sample(sensor_id=name, sensor_type=name, location=name, unit=name)])
    state = store.read(NOW_S)
    assert set(state.totals) == {name}
    assert state.totals[name].unit == name
    assert [(one.sensor_id, one.sensor_type, one.location) for one in state.latest] == [(name, name, name)]
    assert [row.sensor_type for row in store.windows(sensor_type=name, location=name)] == [name] * 3
    assert (state.sensor_types, state.locations) == ([name], [name])
    alert = delivered(1, sensor_id=name, sensor_type=name, type=name, location=name, unit=name)
    store.keep_alerts([alert], {}, "topic")
    assert store.alerts(sensor_id=name, sensor_type=name) == [alert.alert]
    assert store.keep_alerts([alert], {}, "topic") == []
    assert [kind for _, kind, _ in store.read(NOW_S + 1).alert_history] == [name]


def test_the_version_changes_with_every_write_and_only_then(store):
    seen = [store.version()]

    def changed() -> bool:
        seen.append(store.version())
        return len(set(seen)) == len(seen)

    keep(store, 0, [Sample()])
    assert changed()
    store.heartbeat(Status(NOW_S, NOW_S))
    assert changed()
    store.keep_alerts([delivered(1)], {}, "topic")
    assert changed()
    store.prune(NOW_S, DAY_S)
    assert changed()
    keep(store, 0, [Sample()])
    store.read(NOW_S)
    assert store.version() == seen[-1]
    assert store.read(NOW_S).version == seen[-1]


def test_writers_and_readers_at_once_see_whole_batches(url, store):
    """Three threads write while others read, each through a connection of its own."""
    failures: list[BaseException] = []
    done = threading.Event()
    batches = 40

    def run(work) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def write() -> None:
        stream = Stream()
        for batch_id in range(batches):
            keep(store, batch_id, [Sample(), Sample(sensor_type="light", sensor_id=f"s{batch_id}")], stream)

    def write_alerts() -> None:
        for number in range(batches):
            store.keep_alerts([delivered(number), delivered(number + 1)], {0: number}, "topic")

    def write_heartbeats() -> None:
        for number in range(batches):
            store.heartbeat(Status(NOW_S + number, NOW_S))
            if number % 10 == 0:
                store.prune(NOW_S, DAY_S)

    def read() -> None:
        reader = Store(url)
        while not done.is_set():
            state = reader.read(NOW_S)
            assert state.messages == sum(of.count for of in state.totals.values())
            assert state.totals.get("light", total([Sample()])).count == (state.messages // 2 or 1)
            assert len({row.count for row in reader.windows(sensor_type="temperature")}) <= 1
        reader.close()

    readers = [run(read), run(read)]
    writers = [run(work) for work in (write, write_alerts, write_heartbeats)]
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert failures == []
    state = store.read(NOW_S)
    assert (state.messages, state.total_alerts) == (2 * batches, batches + 1)
    assert state.status.at_s == NOW_S + batches - 1
