"""Lateness in the windows query: exact at every edge, live and as a backlog, and beside wrong clocks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from iot.readings import Message, encode, format_timestamp
from iot.settings import Kafka
from tests.support import oracle
from tests.support.streams import Results, start_query, write

pytestmark = pytest.mark.timeout(600)
DAY_US = 86_400_000_000


def edges(now_s: int) -> list[tuple[str, int, int]]:
    """(sensor, event time in us, step) of readings that are late by 0 to 40 s, at the edges of windows and watermark.

    Readings of a step must have greater Kafka timestamps than those of the step before it.
    """
    plan, step = [], 0
    # The position of the newest reading in its slot of ten seconds: at the edges, and one microsecond beside them.
    for newest_us in (now_s * 1_000_000 + at for at in (0, 1, 4_999_999, 5_000_000, 5_000_001, 9_999_999)):
        step += 1
        plan.append(("ahead", newest_us, step))
        for late_us in sorted(
            {edge * 1_000_000 + more for edge in (*range(41), *range(0, 41, 5)) for more in (-1, 0, 1)}
        ):
            if late_us >= 0:
                # Four sensors, so that the partition of the newest reading and others get late readings.
                plan += [(f"sensor_{number}", newest_us - late_us, step + 1) for number in range(4)]
        step += 1
        now_s += 40
    return plan


def write_edges(kafka: Kafka, topic: str, plan: list[tuple[str, int, int]], wait: Callable[[], None]) -> None:
    for step in sorted({step for *_, step in plan}):
        rows = [(sensor, at_us) for sensor, at_us, of in plan if of == step]
        value = 20.0 + step
        written = [
            (sensor.encode(), encode(Message(sensor, "temperature", value, format_timestamp(at_us), "hall")))
            for sensor, at_us in rows
        ]
        write(kafka, topic, written)
        wait()


def test_readings_late_by_0_to_40_s_count_exactly_live_and_as_a_backlog(spark, broker, topic, tmp_path):
    plan = edges(int(time.time()) - 400)
    live = Results()
    query = start_query(spark, broker, topic, tmp_path / "live", live, trigger={"processingTime": "0 seconds"})
    try:
        write_edges(broker.kafka, topic, plan, query.processAllAvailable)
    finally:
        query.stop()
    wanted = oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic))
    assert wanted.late > len(plan) / 2
    assert live.batches > 5
    live.require(wanted)
    backlog = Results()
    query = start_query(spark, broker, topic, tmp_path / "backlog", backlog, trigger={"availableNow": True})
    assert query.awaitTermination(60)
    assert backlog.batches == 1
    backlog.require(wanted)


@pytest.mark.parametrize("slack_s", [0, *(pytest.param(slack_s, marks=pytest.mark.long) for slack_s in (15, 3_600))])
def test_how_long_spark_keeps_state_changes_no_result(spark, broker, topic, tmp_path, slack_s):
    results = Results()
    trigger = {"processingTime": "0 seconds"}
    query = start_query(spark, broker, topic, tmp_path, results, trigger=trigger, state_slack_s=slack_s)
    try:
        write_edges(broker.kafka, topic, edges(int(time.time()) - 400), query.processAllAvailable)
    finally:
        query.stop()
    assert results.batches > 5
    results.require(oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic)))


def test_clocks_a_day_ahead_or_behind_change_no_other_sensors_windows(spark, broker, topic, tmp_path):
    now_us = time.time_ns() // 1_000
    results = Results()
    query = start_query(spark, broker, topic, tmp_path, results, trigger={"processingTime": "0 seconds"})
    try:
        for part in range(3):
            sent = []
            for n in range(400):
                at_us = now_us - 60_000_000 + (part * 400 + n) * 50_000
                sent.append(Message(f"s{n % 7}", "temperature", float(n), format_timestamp(at_us), "hall"))
                if n % 20 == 0:
                    ahead_us = DAY_US if n % 40 else -DAY_US
                    sent.append(Message("wrong", "temperature", 99.0, format_timestamp(at_us + ahead_us), "hall"))
            write(broker.kafka, topic, ((of.sensor_id.encode(), encode(of)) for of in sent), at_once=50)
            query.processAllAvailable()
    finally:
        query.stop()
    records = oracle.read_topic(broker.bootstrap_servers, topic)
    others = [record for record in records if record.key != b"wrong"]
    wanted = oracle.expected(others)
    assert (results.messages, results.rejected, results.late) == (1_200 + 30, 30, 30)
    assert oracle.differences(results.windows, wanted.windows) == []
