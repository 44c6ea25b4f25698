"""A transactional producer leaves nothing that seems to wait: its markers have offsets, but are no messages."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Producer
from kafka import KafkaConsumer

from iot.batches import Offsets
from iot.kafka.lag import LagMonitor
from iot.kafka.offsets import end_offsets
from tests.support.streams import Results, start_query, stream

pytestmark = pytest.mark.timeout(600)


class Ends(Results):
    """Also what the database would keep as processed."""

    def __init__(self) -> None:
        super().__init__()
        self.processed: Offsets = {}

    def keep(self, number, rows, report):
        super().keep(number, rows, report)
        self.processed |= report.next_offsets


@pytest.fixture
def producer(broker, topic):
    made = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": topic})
    made.init_transactions(30)
    return made


def send(producer: Producer, topic: str, count: int, seed: int, commits: bool = True) -> None:
    producer.begin_transaction()
    for key, value in stream(count, seed, 60):
        producer.produce(topic, value, key)
    producer.flush(30)
    if commits:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


def test_batches_say_that_everything_is_processed(spark, broker, topic, producer, tmp_path):
    results = Ends()
    query = start_query(spark, broker, topic, tmp_path, results, trigger={"processingTime": "0 seconds"})
    try:
        for number, commits in enumerate((True, False, True)):
            send(producer, topic, 200, number, commits)
            query.processAllAvailable()
            ends = end_offsets(broker.kafka, topic)
            assert sum(ends.values()) > results.messages + results.rejected
            assert results.processed == ends
    finally:
        query.stop()


def test_the_consumer_has_no_lag_behind_a_marker(broker, topic, producer):
    send(producer, topic, 200, 1)
    with KafkaConsumer(topic, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest") as consumer:
        monitor, until_s = LagMonitor(consumer, broker.bootstrap_servers, topic), time.monotonic() + 30
        while set(monitor.lag.values()) != {0}:
            assert time.monotonic() < until_s, monitor.lag
            consumer.poll(timeout_ms=200)
            monitor.refresh()
        assert monitor.lag.keys() == {0, 1, 2}
