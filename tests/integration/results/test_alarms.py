"""Alarms are written with their batch, exactly once, and read back in pages."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iot.alarms.silent import Observation
from iot.alerts import Rule, Rules
from iot.readings import format_timestamp
from iot.results import store as store_module
from iot.results.model import AlarmFilter, InvalidCursor, NotActive
from iot.results.store import Store, StoreUnavailable
from tests.support.alarm_batches import NOW_US, AlarmStream, all_alarms, expected, topic_of
from tests.support.results import DAY_S, HOUR_S, IDENTITY, NOW_S, Sample

HOT, HOTTER, BETWEEN, COOL = 31.0, 33.0, 29.5, 20.0


def reduced(alarm):
    """What is told to others: progress alone is not."""
    return msgspec.structs.replace(alarm, value=0, alerts=0, updated="", location="")


def test_an_alarm_fires_survives_a_restart_and_is_resolved(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT), Sample(HOTTER, 1), Sample(HOT, 2))
    [alarm] = store.alarms.page().alarms
    assert (alarm.rule, alarm.severity, alarm.state) == ("HIGH_TEMPERATURE", "warning", "firing")
    assert (alarm.value, alarm.peak, alarm.alerts, alarm.threshold) == (HOT, HOTTER, 3, 30.0)
    assert store.alarms.get(alarm.alarm_id) == alarm
    assert [change.alarm_id for change in store.alarms.changes()] == ["iot-sensors-0-0-warning"]
    stream.restart()
    assert stream.active.watched() == {("s", "temperature"): (NOW_S + 2) * 1_000_000}
    stream.send(Sample(COOL, 3))
    assert store.alarms.page().alarms == []
    [resolved] = store.alarms.page(AlarmFilter(("resolved",))).alarms
    assert (resolved.state, resolved.alerts, resolved.value) == ("resolved", 3, COOL)
    assert [msgspec.json.decode(change.body)["state"] for change in store.alarms.changes()] == ["firing", "resolved"]
    assert stream.active.watched() == {}


samples = st.builds(
    Sample,
    value=st.sampled_from([HOT, HOTTER, BETWEEN, COOL, 45.0, 10.0]),
    at_s=st.integers(0, 30),
    sensor_id=st.sampled_from(["a", "b\0\\"]),
    sensor_type=st.sampled_from(["temperature", "temperature", "humidity", "odd"]),
    location=st.sampled_from(["hall", "roof"]),
    unit=st.sampled_from(["celsius", "celsius", "percent"]),
    heard_s=st.none(),
    offset=st.just(0),
)
steps = st.tuples(st.lists(samples, max_size=6), st.sampled_from(["", "repeat", "repeat all", "restart", "fail"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=6))
def test_alarms_are_a_function_of_the_readings_alone(url, steps):
    """Whatever is repeated, restarted or fails, the result is that of one machine that sees every reading once."""
    store = Store(url)
    store.reset(IDENTITY, "state")
    stream = AlarmStream(store)
    for new, then in steps:
        batch = stream.make(new)
        if then == "fail":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store_module, "update_summary", _fail)
                with pytest.raises(StoreUnavailable):
                    stream.write(batch)
        assert stream.write(batch)
        if then == "restart":
            store.close()
            stream.store = store = Store(url)
            stream.restart()
        elif then.startswith("repeat"):
            changes, before = store.alarms.changes(), all_alarms(store)
            assert not any(map(stream.write, stream.batches if then == "repeat all" else stream.batches[-1:]))
            assert (store.alarms.changes(), all_alarms(store)) == (changes, before)
    wanted = expected(stream.batches)
    assert all_alarms(store) == wanted
    told = topic_of(store)
    assert {name: reduced(alarm) for name, alarm in told.items()} == {
        name: reduced(alarm) for name, alarm in wanted.items()
    }
    numbers = [change.number for change in store.alarms.changes()]
    assert numbers == sorted(set(numbers))
    store.close()


def _fail(*_: object, **__: object) -> None:
    raise StoreUnavailable("the disk is full")


def test_readings_older_than_those_of_earlier_batches_change_nothing(store):
    stream = AlarmStream(store)
    stream.send(Sample(COOL, 10))
    stream.send(Sample(HOT, 9))
    assert all_alarms(store) == {}
    stream.send(Sample(HOT, 10))
    assert len(all_alarms(store)) == 1


def test_many_sensors_begin_alarms_in_one_batch(store):
    stream = AlarmStream(store)
    stream.send(*(Sample(COOL, sensor_id=f"s{number}") for number in range(5_100)))
    stream.send(*(Sample(HOT, 1, sensor_id=f"s{number}") for number in range(5_100)))
    assert store.alarms.page().total == 5_100
    assert len(store.alarms.changes(10_000)) == 5_100


def test_alarms_whose_rule_is_gone_are_resolved_or_forgotten(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT), Sample(80.0, sensor_type="humidity", unit="percent"))
    assert {alarm.state for alarm in all_alarms(store).values()} == {"pending", "firing"}
    stream.rules = Rules((Rule("light", "lux", max=1.0),))
    stream.restart()
    stream.active.apply_rules(NOW_US)
    [alarm] = all_alarms(store).values()
    assert (alarm.state, alarm.resolved) == ("resolved", alarm.updated)
    assert topic_of(store) == all_alarms(store)
    stream.active.apply_rules(NOW_US)
    assert len(store.alarms.changes()) == 4


def test_an_acknowledgement_stays_until_the_alarm_ends(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT))
    [alarm_id] = all_alarms(store)
    assert store.alarms.acknowledge("no-such-alarm", "ann", "", NOW_US) is None
    told = store.alarms.acknowledge(alarm_id, "ann", "on my way", NOW_US)
    assert (told.acknowledged.by, told.acknowledged.comment) == ("ann", "on my way")
    assert told.acknowledged.at == "2026-11-24T23:03:00.000000+00:00"
    assert topic_of(store) == {alarm_id: told}
    stream.send(Sample(HOTTER, 1))
    assert topic_of(store)[alarm_id].acknowledged == told.acknowledged
    assert store.alarms.page(AlarmFilter(acknowledged=True)).total == 1
    assert store.alarms.page(AlarmFilter(acknowledged=False)).total == 0
    assert store.alarms.unacknowledge(alarm_id).acknowledged is None
    before = len(store.alarms.changes())
    assert store.alarms.unacknowledge(alarm_id).acknowledged is None
    assert len(store.alarms.changes()) == before
    store.alarms.acknowledge(alarm_id, "bob", "", NOW_US)
    stream.send(Sample(COOL, 2))
    with pytest.raises(NotActive, match="is resolved"):
        store.alarms.acknowledge(alarm_id, "ann", "", NOW_US)
    with pytest.raises(NotActive, match="is resolved"):
        store.alarms.unacknowledge(alarm_id)
    stream.send(Sample(HOT, 3))
    [new] = store.alarms.page().alarms
    assert new.acknowledged is None


def test_pages_are_in_order_and_complete_while_alarms_begin(store):
    stream = AlarmStream(store)
    for number in range(25):
        # Two at a time fire at the same moment.
        stream.send(Sample(HOT, number // 2, sensor_id=f"s{number}"))
    for number in range(5):
        stream.send(Sample(80.0, number, sensor_id=f"h{number}", sensor_type="humidity", unit="percent"))
    found, cursor = [], None
    while True:
        page = store.alarms.page(limit=7, after=cursor)
        found += page.alarms
        cursor = page.next
        if cursor is None:
            break
        assert len(page.alarms) == 7
        # What begins later than the first page does not move the others.
        stream.send(Sample(HOT, 100 + len(found), sensor_id=f"new{len(found)}"))
    assert len(found) == len({alarm.alarm_id for alarm in found}) == 30
    assert [alarm.state for alarm in found] == ["firing"] * 25 + ["pending"] * 5
    order = [(alarm.fired or "", alarm.started) for alarm in found]
    assert order == sorted(order, reverse=True)
    assert page.total == 34
    assert store.alarms.page(limit=34).next is None
    assert store.alarms.page(limit=33).next is not None


def test_a_page_has_only_what_the_filter_names(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT), Sample(45.0, sensor_id="t"), Sample(80.0, sensor_type="humidity", unit="percent"))
    stream.send(Sample(COOL, 1))

    def ids(**which):
        page = store.alarms.page(AlarmFilter(**which))
        assert page.total == len(page.alarms)
        return sorted((alarm.sensor_id, alarm.severity, alarm.sensor_type) for alarm in page.alarms)

    humid, hot = ("s", "warning", "humidity"), ("t", "warning", "temperature")
    very = ("t", "critical", "temperature")
    assert ids() == sorted([humid, hot, very])
    assert ids(severity="critical") == [very]
    assert ids(sensor_type="temperature") == sorted([hot, very])
    assert ids(sensor_id="s") == [humid]
    assert ids(states=("resolved",)) == [("s", "warning", "temperature")]
    assert ids(states=("pending",)) == sorted([humid, very])
    assert len(ids(states=("firing", "resolved"))) == 2


def test_a_cursor_may_name_any_alarm(store):
    place = base64.urlsafe_b64encode(msgspec.json.encode((0, 0, "a\0b\\"))).decode()
    assert store.alarms.page(after=place).alarms == []


@pytest.mark.parametrize(
    "cursor", ["", "x", "ä", "W10=", "WzEsMl0=", "WzFlOTksMiwiYSJd", "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5LDEsImEiXQ=="]
)
def test_another_text_is_no_cursor(store, cursor):
    with pytest.raises(InvalidCursor, match="after: expected the value of next"):
        store.alarms.page(after=cursor)


def test_changes_are_deleted_once_they_are_in_the_topic(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT))
    [change] = store.alarms.changes()
    stream.send(Sample(COOL, 1))
    store.alarms.delete_changes(change.number)
    [left] = store.alarms.changes()
    assert left.number > change.number
    store.alarms.delete_changes(left.number)
    # A number is never used again: a deletion that is repeated must not delete what came later.
    stream.send(Sample(HOT, 2))
    store.alarms.delete_changes(left.number)
    assert len(store.alarms.changes()) == 1
    stream.send(Sample(COOL, 3))
    assert len(store.alarms.changes(1)) == 1


def test_resolved_alarms_are_kept_for_the_retention_time_by_the_clock(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT), Sample(HOT, sensor_id="t"), now_s=NOW_S + DAY_S)
    stream.send(Sample(COOL, 1), now_s=NOW_S + DAY_S)
    store.prune(NOW_S + DAY_S + 10, HOUR_S)
    assert len(all_alarms(store)) == 2
    store.prune(NOW_S + DAY_S + 2 * HOUR_S, HOUR_S)
    [left] = all_alarms(store).values()
    assert left.state == "firing"
    # The topic of alarms forgets it too.
    assert topic_of(store) == all_alarms(store)


def test_resolved_alarms_that_ended_first_are_deleted_above_the_limit(store, monkeypatch):
    from iot.results import retention

    monkeypatch.setattr(retention, "MAX_ENDED", 5)
    monkeypatch.setattr(retention, "MAX_DELETED", 3)
    stream = AlarmStream(store)
    for number in range(12):
        name = f"s{number}"
        stream.send(
            Sample(HOT, number, sensor_id=name), Sample(COOL, number + 0.5, sensor_id=name), now_s=NOW_S + number
        )
    store.prune(NOW_S + 20, DAY_S)
    assert {alarm.sensor_id for alarm in all_alarms(store).values()} == {f"s{number}" for number in range(7, 12)}


def test_alarms_are_found_by_id_also_those_that_ended_long_ago(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT), Sample(HOT, sensor_id="t"))
    stream.send(Sample(COOL, 1))
    found = all_alarms(store)
    assert {one.state for one in found.values()} == {"firing", "resolved"}
    assert store.alarms.recent((NOW_S + 1) * 1_000) == store.alarms.page().alarms
    assert {one.alarm_id: one for one in store.alarms.find([*found, "no-such-alarm"])} == found
    assert store.alarms.find([]) == []


def test_a_reset_forgets_all_alarms_also_in_the_topic(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT))
    [change] = store.alarms.changes()
    store.alarms.delete_changes(change.number)
    store.reset(IDENTITY, "new state")
    assert all_alarms(store) == {}
    assert [(change.alarm_id, change.body) for change in store.alarms.changes()] == [("iot-sensors-0-0-warning", None)]


def test_a_reset_keeps_what_receivers_were_told(store):
    """They hear the end of what is forgotten, and nothing again that the readings raise once more."""
    store.notifications.save("mail", {"group": b"1"})
    store.reset(IDENTITY, "new state")
    assert store.notifications.read() == {("mail", "group"): b"1"}
    store.set_aside("20261127")
    store.reset(IDENTITY, "newer state")
    assert store.notifications.read() == {("mail", "group"): b"1"}


def test_a_new_database_has_no_alarms(url):
    store = Store(url)
    assert store.alarms.page() == store.alarms.page(AlarmFilter(("resolved",)))
    assert (store.alarms.page().alarms, store.alarms.page().total) == ([], 0)
    assert store.alarms.get("x") is None
    assert store.alarms.acknowledge("x", "", "", NOW_US) is None
    assert store.alarms.changes() == []
    assert store.silences.all() == []
    assert store.notifications.read() == {}
    store.close()


def test_the_log_of_notifications_is_read_written_and_deleted(store):
    log = store.notifications
    log.save("mail", {'g"\0': b"1", "gone": b"3"})
    log.save("mail", {'g"\0': b"2", "gone": None})
    log.save("chat", {"": b"\0"})
    assert log.read() == {("mail", 'g"\0'): b"2", ("chat", ""): b"\0"}
    log.save("mail", {'g"\0': None, "other": None})
    assert log.read() == {("chat", ""): b"\0"}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_sensor_that_is_forgotten_leaves_no_active_alarm(store, monkeypatch, restarts):
    """Otherwise sensors that come once, each with a new name, would leave more and more."""
    monkeypatch.setattr("iot.results.writes.MAX_SENSORS", 3)
    stream = AlarmStream(store)
    stream.send(Sample(HOT, sensor_id="hot"), Sample(80.0, 0, "damp", "humidity", unit="percent"))
    observation = Observation()
    for look_s in range(310):
        observation.look((NOW_S + look_s) * 1_000, {0: 2}, {0: 2})
    stream.active.judge_silence(observation, NOW_US + 310_000_000)
    assert {(one.sensor_id, one.rule, one.state) for one in all_alarms(store).values()} == {
        ("hot", "HIGH_TEMPERATURE", "firing"),
        ("hot", "SENSOR_SILENT", "firing"),
        ("damp", "HIGH_HUMIDITY", "pending"),
    }
    if restarts:
        stream.restart()
    stream.send(*(Sample(HOT, 400 + number, f"new-{number}") for number in range(3)))
    assert {(one.sensor_id, one.rule, one.state) for one in all_alarms(store).values()} == {
        ("hot", "HIGH_TEMPERATURE", "resolved"),
        ("hot", "SENSOR_SILENT", "resolved"),
        *((f"new-{number}", "HIGH_TEMPERATURE", "firing") for number in range(3)),
    }
    assert topic_of(store).keys() == all_alarms(store).keys()
    assert stream.active.watched().keys() == {(f"new-{number}", "temperature") for number in range(3)}
    # More sensors in one batch than are remembered.
    stream.send(*(Sample(HOT, 500 + number, f"more-{number}") for number in range(5)))
    assert len(stream.active.watched()) == 3
    assert {one.sensor_id for one in store.alarms.page().alarms} == {"more-2", "more-3", "more-4"}
    # One that comes back is new.
    stream.send(Sample(HOT, 600, "hot"))
    assert [one.started for one in store.alarms.page(AlarmFilter(sensor_id="hot")).alarms] == [
        format_timestamp(NOW_US + 600_000_000)
    ]


def test_of_very_many_changes_that_wait_only_the_newest_of_each_alarm_waits(store, monkeypatch):
    """The topic of alarms may refuse them for days, for example without the permission to write."""
    monkeypatch.setattr("iot.results.alarm_writes.MAX_WAITING", 20)
    monkeypatch.setattr("iot.results.alarm_writes.THIN_EVERY", 10)
    stream, most = AlarmStream(store), 0
    stream.send(Sample(HOT, sensor_id="other"))
    for number in range(1, 41):
        stream.send(Sample(HOT, number * 10), Sample(COOL, number * 10 + 1), Sample(HOT + number, number * 10 + 2, "x"))
        most = max(most, len(store.alarms.changes()))
    told = {one.alarm_id: one for one in topic_of(store).values()}
    assert told.keys() == all_alarms(store).keys()
    assert {one.alarm_id: one.state for one in told.values()} == {
        one.alarm_id: one.state for one in all_alarms(store).values()
    }
    numbers = [change.number for change in store.alarms.changes()]
    assert numbers == sorted(numbers)
    # 42 alarms, at most 10 changes since the last look.
    assert most <= 42 + 20
