"""Silences suppress what they match, from their start to their end; silent sensors become alarms."""

from __future__ import annotations

from contextlib import contextmanager

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iot.alarms.model import SENSOR_SILENT, Matcher
from iot.alarms.silences import InvalidSilence, PostedSilence, state_of
from iot.alarms.silent import Observation
from iot.alerts import Rule, Rules
from iot.readings import format_timestamp, parse_timestamp
from iot.results import active_alarms
from iot.results import store as store_module
from iot.results.store import Store, StoreUnavailable
from tests.support.alarm_batches import NOW_US, AlarmStream, all_alarms, topic_of
from tests.support.alarm_oracle import silences
from tests.support.results import HOUR_S, IDENTITY, NOW_S, Sample

HOT, COOL = 31.0, 20.0


def silence_for(sensor_id: str, from_s: float = 0, to_s: float = 60, **changes) -> PostedSilence:
    posted = PostedSilence(
        [Matcher("sensor_id", sensor_id, is_regex=True)],
        format_timestamp(NOW_US + int(from_s * 1e6)),
        format_timestamp(NOW_US + int(to_s * 1e6)),
        "ann",
        "repair",
    )
    return msgspec.structs.replace(posted, **changes)


def silenced(store: Store) -> dict[str, list[str]]:
    """The ids of silences by sensor, in the database, which are also those in the topic."""
    found = {alarm.sensor_id: alarm.silenced_by for alarm in all_alarms(store).values()}
    assert {alarm.sensor_id: alarm.silenced_by for alarm in topic_of(store).values()} == found
    return found


def test_a_silence_silences_old_and_new_alarms_until_it_ends(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT, sensor_id="a1"), Sample(HOT, sensor_id="b"))
    made = store.silences.put(silence_for("a."), NOW_US)
    assert silenced(store) == {"a1": [made.id], "b": []}
    stream.send(Sample(HOT, 1, sensor_id="a2"), now_s=NOW_S + 1)
    assert silenced(store) == {"a1": [made.id], "b": [], "a2": [made.id]}
    changes = len(store.alarms.changes())
    stream.active.refresh_silences(NOW_US + 59_000_000)
    assert len(store.alarms.changes()) == changes
    stream.active.refresh_silences(NOW_US + 60_000_000)
    assert silenced(store) == {"a1": [], "b": [], "a2": []}
    assert len(store.alarms.changes()) == changes + 2
    stream.active.refresh_silences(NOW_US + 61_000_000)
    assert len(store.alarms.changes()) == changes + 2


def test_a_silence_begins_at_its_start_and_ends_when_it_is_expired(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT, sensor_id="a"))
    made = store.silences.put(silence_for("a", 30), NOW_US)
    stream.active.refresh_silences(NOW_US + 29_000_000)
    assert silenced(store) == {"a": []}
    stream.active.refresh_silences(NOW_US + 30_000_000)
    assert silenced(store) == {"a": [made.id]}
    ended = store.silences.expire(made.id, NOW_US + 40_000_000)
    assert silenced(store) == {"a": []}
    assert state_of(ended, NOW_US + 40_000_000) == "expired"
    assert store.silences.get(made.id) == ended
    assert store.silences.expire(made.id, NOW_US + 50_000_000) == ended
    assert store.silences.expire("other", NOW_US) is None


def test_an_acknowledged_alarm_is_silenced_and_both_stay(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT, sensor_id="a"))
    [alarm_id] = all_alarms(store)
    store.alarms.acknowledge(alarm_id, "bob", "", NOW_US)
    made = store.silences.put(silence_for("a"), NOW_US)
    stream.restart()
    stream.send(Sample(HOT + 1, 1, sensor_id="a"))
    alarm = store.alarms.get(alarm_id)
    assert (alarm.acknowledged.by, alarm.silenced_by) == ("bob", [made.id])
    assert topic_of(store) == {alarm_id: alarm}


def test_a_reading_from_another_place_can_end_that_an_alarm_is_silenced(store):
    stream = AlarmStream(store)
    stream.send(Sample(HOT, location="hall"))
    made = store.silences.put(silence_for("s", matchers=[Matcher("location", "hall")]), NOW_US)
    assert silenced(store) == {"s": [made.id]}
    stream.send(Sample(HOT, 1, location="roof"))
    assert silenced(store) == {"s": []}


def test_silences_are_listed_changed_and_refused(store):
    first = store.silences.put(silence_for("a", to_s=60), NOW_US)
    second = store.silences.put(silence_for("b\\x00", to_s=120, comment="\0ä"), NOW_US)
    assert store.silences.all() == [second, first]
    longer = store.silences.put(silence_for("a", to_s=180, id=first.id), NOW_US + 1)
    assert longer.id == first.id
    assert store.silences.all() == [longer, second]
    other = store.silences.put(silence_for("c", id=first.id), NOW_US + 1)
    assert other.id != first.id
    assert {state_of(one, NOW_US + 1) for one in store.silences.all()} == {"active", "expired"}
    assert store.silences.put(silence_for("a", id="unknown"), NOW_US) is None
    with pytest.raises(InvalidSilence):
        store.silences.put(silence_for("("), NOW_US)
    assert len(store.silences.all()) == 3


def test_expired_silences_are_kept_for_the_retention_time(store):
    store.silences.put(silence_for("a"), NOW_US)
    store.prune(NOW_S + HOUR_S, HOUR_S)
    assert len(store.silences.all()) == 1
    store.prune(NOW_S + HOUR_S + 61, HOUR_S)
    assert store.silences.all() == []


def observed(seconds: int) -> Observation:
    """The partition is observed from ``NOW_S`` until this many seconds later."""
    observation = Observation()
    for second in (*range(0, seconds, 10), seconds):
        observation.look((NOW_S + second) * 1_000, {0: 0}, {})
    return observation


def test_a_silent_sensor_is_an_alarm_until_it_sends_again(store):
    stream = AlarmStream(store)
    stream.send(Sample(COOL), Sample(COOL, 100, sensor_id="t"), Sample(COOL, sensor_type="odd"))
    observation = observed(300)
    stream.active.judge_silence(observation, NOW_US)
    assert all_alarms(store) == {}
    observation = observed(301)
    stream.active.judge_silence(observation, NOW_US)
    [alarm] = all_alarms(store).values()
    assert (alarm.rule, alarm.state, alarm.sensor_id, alarm.sensor_type) == (
        SENSOR_SILENT,
        "firing",
        "s",
        "temperature",
    )
    assert (alarm.value, alarm.threshold, alarm.unit) == (301.0, 300.0, "s")
    assert alarm.alarm_id == "iot-sensors-0-0-silent-warning"
    for _ in range(2):
        stream.active.judge_silence(observation, NOW_US)
        stream.restart()
        stream.active.judge_silence(observed(302), NOW_US)
    assert topic_of(store) == {alarm.alarm_id: alarm}
    assert len(store.alarms.changes()) == 1
    store.alarms.acknowledge(alarm.alarm_id, "bob", "", NOW_US)
    # It is older than the latest reading, but it did arrive.
    stream.send(Sample(COOL, -5, heard_s=400))
    [over] = all_alarms(store).values()
    assert (over.state, over.value, over.resolved) == ("resolved", 400.0, format_timestamp(NOW_US + 400_000_000))
    # The latest reading is still the same, so the alarm about it begins again.
    stream.active.judge_silence(observed(800), NOW_US)
    [again] = [one for one in all_alarms(store).values() if one.sensor_id == "s"]
    assert (again.alarm_id, again.state, again.acknowledged) == (alarm.alarm_id, "firing", None)
    assert topic_of(store)[alarm.alarm_id] == again


def test_a_sensor_that_was_heard_before_the_retention_is_not_waited_for(store):
    stream = AlarmStream(store)
    stream.send(Sample(COOL, heard_s=-100), Sample(COOL, sensor_id="t", heard_s=-3_300))
    store.prune(NOW_S, 3_600)
    stream.active.judge_silence(observed(301), NOW_US + 301_000_000)
    assert [alarm.sensor_id for alarm in all_alarms(store).values()] == ["s"]


def test_an_alarm_about_a_silence_follows_the_rules_of_a_restart(store):
    stream = AlarmStream(store)
    stream.send(Sample(COOL))
    stream.active.judge_silence(observed(400), NOW_US + 400_000_000)
    for minutes, state, threshold in ((6, "firing", 360.0), (10, "resolved", 360.0)):
        stream.rules = Rules((Rule("temperature", "celsius", max_silence_s=60.0 * minutes),))
        stream.restart()
        stream.active.apply_rules(NOW_US + 410_000_000)
        [one] = all_alarms(store).values()
        assert (one.state, one.threshold) == (state, threshold)
        assert topic_of(store) == all_alarms(store)
    # It is silent by this rule later.
    stream.active.judge_silence(observed(700), NOW_US + 700_000_000)
    [one] = all_alarms(store).values()
    assert (one.state, one.threshold) == ("firing", 600.0)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 25), min_size=1, unique=True), min_size=1),
    st.sets(st.integers(0, 50)),
)
def test_silences_end_with_a_reading_or_once_the_sensor_is_gone_for_good(url, hundreds, restarts):
    """Readings come at multiples of 100 s, and judgements every 60 s, at another second."""
    store = Store(url)
    store.reset(IDENTITY, "state")
    store.prune(NOW_S, 1_000)
    stream, observation = AlarmStream(store), Observation()
    due = sorted((100 * number, sensor) for sensor, numbers in hundreds.items() for number in numbers)
    for look, second in enumerate(range(1, 3_000, 60)):
        while due and due[0][0] <= second:
            at_s, sensor = due.pop(0)
            stream.send(Sample(COOL, at_s, sensor_id=sensor))
        if look in restarts:
            stream.restart()
        for at_s in range(max(second - 50, 0), second + 1, 10):
            observation.look((NOW_S + at_s) * 1_000, {0: 0}, {})
        stream.active.judge_silence(observation, (NOW_S + second) * 1_000_000)
    wanted = [
        (sensor, began_s, ended_s)
        for sensor, numbers in hundreds.items()
        for began_s, ended_s in silences([100 * number for number in numbers], 300, 1_000, second)
    ]
    found = [(one.sensor_id, seconds(one.started), seconds(one.resolved)) for one in all_alarms(store).values()]
    assert sorted(found) == sorted(wanted)
    assert topic_of(store) == all_alarms(store)
    store.close()


def seconds(moment: str | None) -> float | None:
    return None if moment is None else parse_timestamp(moment) / 1_000_000 - NOW_S


def test_a_sensor_is_not_gone_for_good_while_its_readings_may_wait(store):
    """After an outage of days, the first looks see the backlog."""
    store.prune(NOW_S, 1_000)
    stream = AlarmStream(store)
    stream.send(Sample(COOL))
    stream.active.judge_silence(observed(400), NOW_US + 400_000_000)
    waits = Observation()
    for second in range(2_000, 2_100, 10):
        waits.look((NOW_S + second) * 1_000, {0: 0, 1: 1}, {})
    assert (waits.known_until_ms, waits.all_known_until_ms) == ({0: (NOW_S + 2_090) * 1_000}, None)
    stream.active.judge_silence(waits, NOW_US + 2_090_000_000)
    assert [one.state for one in all_alarms(store).values()] == ["firing"]
    waits.look((NOW_S + 2_100) * 1_000, {0: 0, 1: 1}, {1: 1})
    stream.active.judge_silence(waits, NOW_US + 2_100_000_000)
    assert [(one.state, one.value) for one in all_alarms(store).values()] == [("resolved", 1_000.0)]


def test_sensors_that_are_silent_at_once_become_alarms_in_several_transactions(store, monkeypatch):
    monkeypatch.setattr(active_alarms, "MAX_FIRED", 4)
    stream = AlarmStream(store)
    stream.send(*(Sample(COOL, number % 3, sensor_id=f"s{number}") for number in range(10)))
    observation = observed(400)
    for found in (4, 8, 10, 10):
        stream.active.judge_silence(observation, NOW_US)
        assert store.alarms.page().total == found
    assert observation.due(stream.active._silent.limits[0]) == [
        span._replace(from_ms=span.to_ms) for span in observation.due(stream.active._silent.limits[0])
    ]


def test_a_failure_changes_neither_database_nor_memory(store, monkeypatch):
    stream = AlarmStream(store)
    stream.send(Sample(COOL))
    observation = observed(400)
    with monkeypatch.context() as patch:
        patch.setattr(active_alarms, "update_summary", _fail)
        with pytest.raises(StoreUnavailable):
            stream.active.judge_silence(observation, NOW_US)
    assert (all_alarms(store), store.alarms.changes()) == ({}, [])
    stream.active.judge_silence(observation, NOW_US)
    assert len(all_alarms(store)) == 1
    back = stream.make([Sample(COOL, 500)])
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "update_summary", _fail)
        with pytest.raises(StoreUnavailable):
            stream.write(back)
    assert store.alarms.page().total == 1
    assert stream.write(back)
    assert store.alarms.page().total == 0


def test_a_commit_whose_answer_is_lost_is_looked_up(store, monkeypatch):
    """The alarm is in the database, so that it must not begin a second time, and must end."""
    stream = AlarmStream(store)
    stream.send(Sample(COOL))
    writing = store._transactions.writing

    @contextmanager
    def lose_the_answer():
        with writing() as opened:
            yield opened
        raise StoreUnavailable("the connection broke during COMMIT")

    with monkeypatch.context() as patch:
        patch.setattr(store._transactions, "writing", lose_the_answer)
        with pytest.raises(StoreUnavailable):
            stream.active.judge_silence(observed(400), NOW_US)
    [begun] = all_alarms(store).values()
    stream.active.judge_silence(observed(500), NOW_US + 100_000_000)
    assert all_alarms(store) == {begun.alarm_id: begun}
    assert len(store.alarms.changes()) == 1
    with monkeypatch.context() as patch:
        patch.setattr(store._transactions, "writing", lose_the_answer)
        with pytest.raises(StoreUnavailable):
            stream.send(Sample(COOL, 700))
    stream.send(Sample(COOL, 710))
    assert [one.state for one in all_alarms(store).values()] == ["resolved"]
    assert len(store.alarms.changes()) == 2


def _fail(*_: object, **__: object) -> None:
    raise StoreUnavailable("the disk is full")
