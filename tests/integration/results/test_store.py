"""Batches are written exactly once, whatever is repeated, and read back from one snapshot."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from iot.alerts import DEFAULT_RULES
from iot.results.model import Batch, State, Status
from iot.results.store import BatchesMissing, Store
from iot.results.tables import metadata
from tests.support.results import DAY_S, IDENTITY, NO_RULES, NOW_S, Sample, Stream, delivered, total, write_batch


def everything(store: Store) -> object:
    """All rows of all tables."""
    with store._database.reading() as connection:
        return {name: sorted(connection.execute(select(table)).all()) for name, table in metadata.tables.items()}


def test_a_new_database_is_empty(url, tmp_path):
    store = Store(url)
    assert store.identity() is None
    assert (store.version(), store.read(NOW_S), store.alerts(), store.windows()) == (0, State(), [], [])
    assert (store.offsets(), store.alert_offsets()) == ({}, None)
    assert not list(tmp_path.iterdir())
    store.close()


def test_reset_deletes_everything(store):
    write_batch(store, 0, [Sample()], next_offsets={0: 1})
    store.write_alerts([delivered(1)], {0: 1}, "topic")
    store.heartbeat(Status(NOW_S, NOW_S))
    store.prune(NOW_S, DAY_S)
    before = store.version()
    other = type(IDENTITY)("iot-sensors", "second-topic-id")
    store.reset(other, "new state")
    assert store.identity() == (other, "new state")
    assert store.version() > before
    state = store.read(NOW_S)
    state.version = 0
    assert state == State()
    assert (store.windows(), store.alerts(), store.alert_offsets()) == ([], [], None)
    assert write_batch(store, 0, [Sample()])
    assert store.write_alerts([delivered(1)], {0: 1}, "topic")


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
def test_results_count_every_reading_once_even_if_batches_are_repeated(url, steps):
    """Compare with a simple model: lists of all readings."""
    store = Store(url)
    store.reset(IDENTITY, "state")
    stream, sent, rejected, written = Stream(), [], 0, []
    for batch_id, (new, then, of_rejected) in enumerate(steps):
        changed, report = stream.batch(new, rejected=of_rejected, late=len(new) // 2, next_offsets={0: batch_id})
        batch = Batch("windows", batch_id, changed, report)
        assert store.write_batch(batch, DEFAULT_RULES, NOW_S + batch_id)
        written.append(batch)
        sent += new
        rejected += of_rejected
        if then == "restart":
            store.close()
            store = Store(url)
        elif then:
            before = everything(store)
            repeated = written if then == "repeat all" else written[-1:]
            assert not any(store.write_batch(batch, DEFAULT_RULES, NOW_S + batch.batch_id) for batch in repeated)
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


def test_a_batch_is_ignored_after_a_later_one_of_the_same_query_only(store):
    assert write_batch(store, 0, [Sample()])
    assert write_batch(store, 1, [Sample()])
    assert not write_batch(store, 0, [Sample()])
    changed, report = Stream().batch([Sample()])
    assert store.write_batch(Batch("another", 0, changed, report), NO_RULES, NOW_S)
    assert store.read(NOW_S).messages == 3


@pytest.mark.parametrize(("stored", "batch_id", "lacks"), [(0, 1, "0 to 0"), (0, 5, "0 to 4"), (3, 4, "3 to 3")])
def test_a_database_that_lacks_batches_is_not_written(store, stored, batch_id, lacks):
    """For example one that was restored from an older copy."""
    for number in range(stored):
        assert write_batch(store, number, [Sample()])
    before = store.read(NOW_S)
    with pytest.raises(BatchesMissing, match=f" lacks the batches {lacks}, which Spark does not process again: an "):
        write_batch(store, batch_id, [Sample()])
    assert store.read(NOW_S) == before
    assert write_batch(store, stored, [Sample()])


def test_a_batch_without_readings_counts_rejected_messages(store):
    assert write_batch(store, 0, [], rejected=3, next_offsets={1: 3})
    state = store.read(NOW_S + 1)
    assert (state.messages, state.rejected, state.offsets, state.processed_s) == (0, 3, {1: 3}, NOW_S)
    write_batch(store, 1, [], now_s=NOW_S + 50)
    assert store.read(NOW_S + 51).processed_s == NOW_S


def test_names_and_offsets_are_written_with_the_batch(url, store):
    changed, report = Stream().batch([Sample()], next_offsets={0: 10, 2: 5})
    store.write_batch(Batch("windows", 0, changed, report), NO_RULES, NOW_S)
    _, report = Stream().batch([], next_offsets={2: 6}, locations=["hall", "roof"])
    store.write_batch(Batch("windows", 1, changed, report), NO_RULES, NOW_S)
    again = Store(url)
    assert (again.offsets(), again.identity()) == ({0: 10, 2: 6}, (IDENTITY, "state"))
    state = again.read(NOW_S)
    assert (state.sensor_types, state.locations) == (["temperature"], ["hall", "roof"])
    again.close()


@pytest.mark.parametrize(
    "name", ["\0", "a\0b\\0\\", "\\", "'; drop table alerts; --", "%s %(x)s", "🌡", "ÄÖ\n\t", "x" * 128]
)
def test_names_of_any_characters_are_stored_unchanged(store, name):
    write_batch(store, 0, [Sample(sensor_id=name, sensor_type=name, location=name, unit=name)])
    state = store.read(NOW_S)
    assert set(state.totals) == {name}
    assert state.totals[name].unit == name
    assert [(one.sensor_id, one.sensor_type, one.location) for one in state.latest] == [(name, name, name)]
    assert [row.sensor_type for row in store.windows(sensor_type=name, location=name)] == [name] * 3
    assert (state.sensor_types, state.locations) == ([name], [name])
    alert = delivered(1, sensor_id=name, sensor_type=name, type=name, location=name, unit=name)
    store.write_alerts([alert], {}, "topic")
    assert store.alerts(sensor_id=name, sensor_type=name) == [alert.alert]
    assert store.write_alerts([alert], {}, "topic") == []
    assert [kind for _, kind, _ in store.read(NOW_S + 1).alert_history] == [name]


def test_only_writes_change_the_version(store):
    seen = [store.version()]

    def changed() -> bool:
        seen.append(store.version())
        return len(set(seen)) == len(seen)

    write_batch(store, 0, [Sample()])
    assert changed()
    store.heartbeat(Status(NOW_S, NOW_S))
    assert changed()
    store.write_alerts([delivered(1)], {}, "topic")
    assert changed()
    store.prune(NOW_S, DAY_S)
    assert changed()
    write_batch(store, 0, [Sample()])
    store.read(NOW_S)
    assert store.version() == seen[-1]
    assert store.read(NOW_S).version == seen[-1]


def test_concurrent_readers_see_whole_batches(url, store):
    """Three threads write while two others read through connections of their own."""
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
            write_batch(store, batch_id, [Sample(), Sample(sensor_type="light", sensor_id=f"s{batch_id}")], stream)

    def write_alerts() -> None:
        for number in range(batches):
            store.write_alerts([delivered(number), delivered(number + 1)], {0: number}, "topic")

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
