"""The faults of 30 minutes of simulated sensors, as a backlog: one alarm for each, equal to the reference."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from iot.batches import BatchReport, Identity
from iot.kafka.offsets import start_offsets
from iot.results.model import AlarmFilter, Batch
from iot.results.store import Store
from iot.rules_file import load_rules
from iot.sensors.faults import Injector
from iot.sensors.fleet import PERIOD_S, Fleet
from iot.spark import windows
from iot.spark.queries import kafka_options
from tests.support import alarms_of_topic, oracle
from tests.support.processes import RULES
from tests.support.streams import write

SENSORS, SEED = 50, 7
MINUTES = 30
RATE_PER_S = 50
PER_BATCH = 16_000
# A whole number of the simulator's periods.
BEGIN_US = 1_720_000_000 // PERIOD_S * PERIOD_S * 1_000_000
# One sensor has a fault in each period.
FAULTS = MINUTES * 60 // PERIOD_S


@pytest.mark.long
@pytest.mark.timeout(300)
def test_alarms_of_30_minutes_of_faults_equal_the_reference(spark, broker, topic, tmp_path):
    rules_file = tmp_path / "rules.toml"
    rules_file.write_text(RULES)
    rules = load_rules(rules_file)
    # Nothing is malformed: what is stamped hours ahead of a time long past would be a reading.
    source = Injector(Fleet(SENSORS, SEED, "run"), malformed_ratio=0, late_ratio=0.01, seed=str(SEED))
    count = MINUTES * 60 * RATE_PER_S
    times_us = BEGIN_US + np.arange(count) * (1_000_000 // RATE_PER_S)
    # The last part comes after a restart, which also cuts alarms in two.
    batches = 0
    for part in np.split(times_us, [count * 2 // 3]):
        messages = [(record["key"], record["value"]) for record in source.batch(part).records]
        write(broker.kafka, topic, iter(messages), at_once=20_000)
        batches += process(spark, broker, topic, rules, tmp_path)
    assert batches >= count // PER_BATCH

    store = Store(f"sqlite:///{tmp_path}/results.db")
    page = store.alarms.page(AlarmFilter(("pending", "firing", "resolved")), 10_000)
    store.close()
    found = {alarm.alarm_id: alarm for alarm in page.alarms}
    assert len(found) == page.total
    records = oracle.read_topic(broker.bootstrap_servers, topic)
    assert len(records) == count
    wanted = alarms_of_topic.expected(records, rules.rules, topic)
    assert alarms_of_topic.differences(found, wanted) == []
    # There is one warning for each fault, and a critical alarm for those that go beyond the second bound.
    of_severity = Counter(alarm.severity for alarm in found.values())
    assert of_severity["warning"] == FAULTS
    assert of_severity["critical"] > FAULTS // 2


def process(spark, broker, topic: str, rules, folder: Path) -> int:
    """Process everything that the topic has, as the application does; returns the number of batches."""
    store = Store(f"sqlite:///{folder}/results.db")
    if store.identity() is None:
        store.reset(Identity(topic, "id"), "state")
    active = store.active_alarms(rules, topic)
    active.read()
    batches = 0

    def keep(batch_id: int, changed: object, report: BatchReport) -> None:
        nonlocal batches
        batches += 1
        assert store.write_batch(Batch("windows", batch_id, changed, report), rules, time.time(), active)

    start = {topic: {str(number): at for number, at in start_offsets(broker.kafka, topic, "earliest").items()}}
    frame = spark.readStream.format("kafka").options(**kafka_options(broker.kafka)).option("subscribe", topic)
    frame = frame.option("startingOffsets", json.dumps(start)).option("maxOffsetsPerTrigger", PER_BATCH).load()
    query = windows.start_windows(
        frame,
        folder / "checkpoint",
        keep,
        trigger={"availableNow": True},
        sensors=True,
        alarm_rules=rules,
        watched=active.watched,
    )
    try:
        assert query.awaitTermination(120)
    finally:
        query.stop()
        store.close()
    return batches
