"""The pipeline finds silent sensors from what Kafka has and what the database has processed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from iot.alarms.notify_file import NO_RECEIVERS
from iot.pipeline.alarms import PipelineAlarms
from iot.results.store import Store
from iot.settings import Kafka
from tests.support.alarm_batches import RULES, AlarmStream, all_alarms
from tests.support.results import IDENTITY, NOW_S, Sample, opened

START = {0: 2, 1: 7}


@pytest.fixture
def store(tmp_path):
    yield from opened(Store(f"sqlite:///{tmp_path}/results.db"))


@pytest.fixture
def clock() -> list[float]:
    """The time in seconds; tests set it."""
    return [float(NOW_S)]


@pytest.fixture
def said() -> list[str]:
    """The lines for the operator."""
    return []


@pytest.fixture
def alarms(store, clock, said) -> PipelineAlarms:
    stream = AlarmStream(store)
    batch = stream.make([Sample(20.0)])
    batch.report.next_offsets = {0: 5}
    assert stream.write(batch)
    kafka = Kafka("localhost:1")
    made = PipelineAlarms(store, kafka, RULES, IDENTITY.topic, START, NO_RECEIVERS, said.append, clock=lambda: clock[0])
    made.read()
    return made


def look(alarms: PipelineAlarms, ends: dict[int, int] | None, seconds: Iterable[int]) -> None:
    for second in seconds:
        alarms.look(NOW_S + second, ends)


def test_a_sensor_is_silent_after_its_limit_also_if_another_partition_waits(store, alarms):
    look(alarms, {0: 5, 1: 8}, range(0, 301, 10))
    assert all_alarms(store) == {}
    look(alarms, {0: 5, 1: 8}, range(301, 302))
    assert [alarm.sensor_id for alarm in all_alarms(store).values()] == ["s"]


def test_no_sensor_is_silent_while_something_waits(store, alarms):
    look(alarms, {0: 6, 1: 7}, range(0, 1_000, 10))
    assert all_alarms(store) == {}


def test_no_sensor_is_silent_by_a_broker_whose_clock_is_behind(store, alarms, clock, said):
    """It sends every ten seconds, and Kafka stamps its readings with a time 600 s ago."""
    stream, next_offset = AlarmStream(store), 5
    # The fixture has written the first batch.
    stream.make([])
    stream.active = alarms.active

    def send(second: int, behind_s: int) -> None:
        nonlocal next_offset
        batch = stream.make([Sample(20.0, second, heard_s=second - behind_s)])
        batch.report.latest[0].offset = next_offset
        next_offset += 1
        batch.report.next_offsets = {0: next_offset}
        clock[0] = NOW_S + second + 1
        alarms.compare_clocks(batch.report.latest)
        assert stream.write(batch)

    for second in range(0, 1_000, 10):
        look(alarms, {0: next_offset, 1: 7}, [second])
        send(second + 1, 600)
    assert all_alarms(store) == {}
    assert said == [
        "the clock of the Kafka broker with partition 0 is 599 s behind this machine's: set both by NTP; until then no "
        "sensor in partition 0 counts as silent"
    ]
    send(1_000, 0)
    # With the right time, it is silent once it has stopped.
    look(alarms, {0: next_offset, 1: 7}, range(1_001, 1_302, 10))
    assert all_alarms(store) == {}
    look(alarms, {0: next_offset, 1: 7}, range(1_310, 1_331, 10))
    assert [one.rule for one in all_alarms(store).values()] == ["SENSOR_SILENT"]
    assert said[1:] == ["the clocks of Kafka's brokers agree with this machine's again"]


def test_an_outage_of_kafka_starts_the_count_again(store, alarms):
    look(alarms, {0: 5, 1: 7}, range(0, 295, 10))
    look(alarms, None, range(295, 305, 5))
    look(alarms, {0: 5, 1: 7}, range(305, 606, 10))
    assert all_alarms(store) == {}
    look(alarms, {0: 5, 1: 7}, range(606, 607))
    assert len(all_alarms(store)) == 1


def test_a_restart_starts_the_count_again_but_alarms_stay(store, alarms):
    look(alarms, {0: 5, 1: 7}, (*range(0, 301, 10), 301))
    [before] = all_alarms(store).values()
    again = PipelineAlarms(store, Kafka("localhost:1"), RULES, IDENTITY.topic, START, NO_RECEIVERS, print)
    look(again, {0: 5, 1: 7}, range(302, 1_000, 10))
    # Nothing is judged before the alarms are read.
    assert all_alarms(store) == {before.alarm_id: before}
    again.read()
    look(again, {0: 5, 1: 7}, range(1_000, 1_020, 10))
    assert all_alarms(store) == {before.alarm_id: before}
