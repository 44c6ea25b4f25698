"""Only time in which Kafka answers and nothing waits unprocessed counts as silence."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.alarms.silent import MAX_PAUSE_MS, Heard, Limit, Observation, SilentSensors, limits_of
from iot.alerts import Rule, Rules
from iot.batches import Latest

LIMIT = Limit("temperature", "warning", 5_000)
RULES = Rules((Rule("temperature", "celsius", max=30.0, max_silence_s=5.0),))


def silent(observation: Observation, heard: dict[tuple[int, str], int], limit: Limit = LIMIT) -> set[str]:
    """The sensors in the spans that are due, as the database finds them."""
    return {
        name
        for span in observation.due(limit)
        for (partition, name), at_ms in heard.items()
        if partition == span.partition and at_ms < span.to_ms and (span.from_ms is None or at_ms >= span.from_ms)
    }


def test_a_sensor_is_silent_once_it_sent_nothing_for_longer_than_the_limit():
    observation = Observation()
    for second in range(7):
        observation.look(second * 1_000, {0: 1}, {0: 1})
        assert silent(observation, {(0, "s"): 0}) == ({"s"} if second > 5 else set())
    observation.judged(LIMIT)
    observation.look(7_000, {0: 1}, {0: 1})
    assert silent(observation, {(0, "s"): 0}) == set()
    # It became silent between the last two looks.
    assert silent(observation, {(0, "s"): 1_500}) == {"s"}


def test_what_waits_unprocessed_may_be_of_any_sensor():
    observation = Observation()
    observation.look(0, {0: 10, 1: 5}, {0: 10, 1: 4})
    assert observation.since_ms == {0: 0}
    observation.look(1_000, {0: 11, 1: 5}, {0: 10, 1: 5})
    assert (observation.since_ms, observation.known_until_ms) == ({0: 0, 1: 1_000}, {0: 0, 1: 1_000})
    observation.look(9_000, {0: 12, 1: 5}, {0: 11, 1: 5})
    assert (observation.since_ms, observation.known_until_ms) == ({0: 0, 1: 1_000}, {0: 1_000, 1: 9_000})
    # A little lag delays the judgement. More lag starts the count again.
    assert silent(observation, {(0, "s"): 0, (1, "t"): 0}) == {"t"}
    for at_ms in range(19_000, 61_000, 10_000):
        observation.look(at_ms, {0: 13, 1: 5}, {0: 11, 1: 5})
    assert observation.since_ms == {0: 0, 1: 1_000}
    observation.look(61_001, {0: 13, 1: 5}, {0: 11, 1: 5})
    assert observation.since_ms == {1: 1_000}
    observation.look(62_000, {0: 13, 1: 5}, {0: 13, 1: 5})
    assert observation.since_ms == {0: 62_000, 1: 1_000}


@pytest.mark.parametrize("batch_s", [1, 5, 6, 10, 20, 29])
def test_batches_that_take_long_only_delay_the_judgement(batch_s):
    """While one runs, the next one gathers: what waits is up to two batches old."""
    observation, processed, running = Observation(), 0, 0
    for second in range(200):
        if second % batch_s == 0:
            processed, running = running, second
        observation.look(second * 1_000, {0: second}, {0: processed})
        found = silent(observation, {(0, "s"): 100_000, (0, "t"): 195_000})
        assert found == set() or second > 105
        observation.judged(LIMIT)
        if found:
            assert (found, second <= 106 + 2 * batch_s) == ({"s"}, True)
            return
    raise AssertionError("the silent sensor was never found")


def test_an_outage_of_kafka_or_of_this_process_starts_the_count_again():
    for outage in ([1_000], [], [1_000, 2_000]):
        observation = Observation()
        observation.look(0, {0: 0}, {})
        observation.look(500, {0: 0}, {})
        assert observation.since_ms == {0: 0}
        for at_ms in outage:
            observation.look(at_ms, None, {})
            assert (observation.since_ms, observation.due(LIMIT)) == ({}, [])
        back_ms = 500 + MAX_PAUSE_MS + 1
        observation.look(back_ms, {0: 0}, {})
        assert observation.since_ms == {0: back_ms}
    # A clock that was set back.
    observation.look(0, {0: 0}, {})
    assert observation.since_ms == {0: 0}


@dataclass
class World:
    """A topic of two partitions, an application that reads it, and sensors that all send every second."""

    now_ms: int = 0
    ends: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    waiting: list[tuple[int, str, int]] = field(default_factory=list)
    processed: dict[int, int] = field(default_factory=dict)
    heard: dict[tuple[int, str], int] = field(default_factory=dict)

    def send(self, sensors: dict[str, int]) -> None:
        for name, partition in sensors.items():
            self.ends[partition] += 1
            self.waiting.append((partition, name, self.now_ms))

    def process(self) -> None:
        for partition, name, at_ms in self.waiting:
            self.heard[partition, name] = at_ms
            self.processed[partition] = self.processed.get(partition, 0) + 1
        self.waiting.clear()


SENSORS = {"a": 0, "b": 0, "c": 1}
# In each second: whether Kafka answers, the application processes, it looks, it was restarted; and which sensor stops.
seconds = st.tuples(
    st.sampled_from([True, True, True, False]),
    st.sampled_from([True, True, False]),
    st.booleans(),
    st.sampled_from([False] * 9 + [True]),
)


@given(
    st.lists(seconds, max_size=60),
    st.lists(st.tuples(st.sampled_from([1, 3, 20]), seconds), max_size=10),
    st.integers(0, 60),
)
def test_a_sensor_that_sends_is_never_silent_whatever_fails(course, pauses, stops_at):
    world, observation = World(), Observation()
    fired: set[str] = set()
    for second, (kafka, processes, looks, restarts) in enumerate([*course, *(of for _, of in pauses)]):
        world.now_ms += 1_000 if second < len(course) else 1_000 * pauses[second - len(course)][0]
        if restarts:
            observation = Observation()
        sending = dict(SENSORS)
        if second >= stops_at:
            del sending["b"]
        if kafka:
            world.send(sending)
            if processes:
                world.process()
        if looks:
            observation.look(world.now_ms, dict(world.ends) if kafka else None, world.processed)
            now_silent = silent(observation, world.heard)
            observation.judged(LIMIT)
            fired |= now_silent
            # The same, said directly.
            for (partition, name), at_ms in world.heard.items():
                known_ms = observation.known_until_ms.get(partition, 0)
                is_silent = known_ms - max(at_ms, observation.since_ms.get(partition, known_ms)) > 5_000
                assert not is_silent or name in fired
                assert name not in now_silent or is_silent
    assert fired <= {"b"}


def heard(name: str, at_ms: int = 0, sensor_type: str = "temperature") -> Heard:
    return Heard(name, sensor_type, "hall", 2, 7, at_ms)


def latest(name: str, at_ms: int, sensor_type: str = "temperature") -> Latest:
    return Latest(0, 9, 2, name, sensor_type, "roof", 20.0, "celsius", at_ms + 4_000, at_ms)


def test_an_alarm_says_how_long_a_sensor_was_silent():
    sensors = SilentSensors(RULES, "topic", [])
    step, is_all = sensors.fire(LIMIT, [heard("s", 1_000)], {2: 8_000})
    assert is_all
    [fired] = [change.active for change in step.changes]
    assert (fired.alarm_id, fired.rule, fired.state) == ("topic-2-7-silent-warning", "SENSOR_SILENT", "firing")
    assert (fired.threshold, fired.value, fired.peak, fired.unit, fired.alerts) == (5.0, 7.0, 7.0, "s", 0)
    assert (fired.started_us, fired.fired_us, fired.resolved_us) == (1_000_000, 8_000_000, None)
    # Until it is kept, nothing has changed.
    assert sensors.active() == []
    sensors.keep(step)
    assert sensors.fire(LIMIT, [heard("s", 1_000)], {2: 9_000})[0].changes == []
    assert sensors.hear([latest("other", 9_000), latest("s", 9_000, "humidity")]).changes == []
    step = sensors.hear([latest("s", 11_000)])
    [over] = [change.active for change in step.changes]
    assert (over.state, over.resolved_us, over.value, over.peak, over.location) == (
        "resolved",
        11_000_000,
        10.0,
        10.0,
        "roof",
    )
    assert len(sensors.active()) == 1
    sensors.keep(step)
    assert sensors.active() == []


def test_not_more_alarms_begin_at_once_than_allowed():
    sensors = SilentSensors(RULES, "topic", [])
    found = [heard(str(number)) for number in range(5)]
    for left in (5, 3, 1):
        step, is_all = sensors.fire(LIMIT, found, {2: 9_000}, 2)
        assert (len(step.changes), is_all) == (min(left, 2), left <= 2)
        sensors.keep(step)
    assert sensors.fire(LIMIT, found, {2: 9_000}, 0) == (type(step)([], {}, {}), True)
    assert sensors.fire(LIMIT, [heard("x")], {2: 9_000}, 0)[1] is False


def test_the_shortest_limit_of_a_type_and_severity_counts():
    rules = Rules(
        (
            Rule("temperature", "celsius", max_silence_s=60.0),
            Rule("temperature", "kelvin", max_silence_s=30.0),
            Rule("temperature", "celsius", max_silence_s=600.0, severity="critical"),
            Rule("humidity", "percent", max=70.0),
        )
    )
    assert limits_of(rules) == [Limit("temperature", "warning", 30_000), Limit("temperature", "critical", 600_000)]


def after_restart(rules: Rules, now_ms: int) -> list[tuple[str, float, int | None, float]]:
    """The alarm about a silence that began at 0 and was found at 9 s, as other rules leave it; and what others hear."""
    sensors = SilentSensors(RULES, "topic", [])
    sensors.keep(sensors.fire(LIMIT, [heard("s")], {2: 9_000})[0])
    later = SilentSensors(rules, "topic", sensors.active())
    step = later.by_rules(now_ms * 1_000)
    later.keep(step)
    assert later.active() == [change.active for change in step.changes if change.active.state == "firing"] or (
        not step.changes and later.active() == sensors.active()
    )
    return [
        (change.active.state, change.active.threshold, change.active.resolved_us, change.active.value)
        for change in step.changes
    ]


def test_alarms_follow_the_rules_of_a_restart():
    def limit(seconds: float) -> Rules:
        return Rules((Rule("temperature", "celsius", max_silence_s=seconds),))

    assert after_restart(RULES, 30_000) == []
    # A clock behind that of Kafka ends nothing.
    assert after_restart(RULES, -30_000) == []
    over = ("resolved", 5.0, 9_000_000, 9.0)
    assert after_restart(Rules(()), 30_000) == [over]
    # The silence is not too long by a rule that allows more, until it is.
    assert after_restart(limit(20), 12_000) == [over]
    assert after_restart(limit(20), 20_000) == [over]
    assert after_restart(limit(20), 30_000) == [("firing", 20.0, None, 9.0)]
    assert after_restart(limit(2), 30_000) == [("firing", 2.0, None, 9.0)]
