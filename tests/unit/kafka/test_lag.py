"""The lag of a consumer, and reports that Kafka is unreachable."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaConnectionError, KafkaTimeoutError

from iot.kafka.lag import LagMonitor, lag_text


@pytest.mark.parametrize(
    ("lag", "text"),
    [
        ({}, "? (no partitions assigned)"),
        ({0: 0, 1: 0}, "0 (0: 0, 1: 0)"),
        ({0: 1200, 2: 34}, "1,234 (0: 1,200, 2: 34)"),
        ({0: 5, 1: None}, "? (0: 5, 1: ?)"),
    ],
)
def test_lag_text(lag, text):
    assert lag_text(lag) == text


def test_an_outage_is_reported_once_and_so_is_its_end():
    first, second = TopicPartition("t", 0), TopicPartition("t", 1)
    consumer = Mock()
    consumer.partitions_for_topic.return_value = {0, 1}
    consumer.assignment.return_value = {first, second}
    consumer.end_offsets.return_value = {first: 10, second: 20}
    consumer.position.side_effect = lambda partition, timeout_ms: {first: 7, second: None}[partition]
    monitor = LagMonitor(consumer, "here:9092", "t")
    assert monitor.refresh() == []
    assert monitor.lag == {0: 3, 1: None}
    consumer.end_offsets.side_effect = KafkaTimeoutError()
    assert monitor.refresh() == ["Kafka at here:9092 does not answer; retrying until it does"]
    assert monitor.report_unreachable(KafkaConnectionError("gone")) == []
    assert (monitor.unreachable, monitor.lag) == (True, {0: None, 1: None})
    consumer.end_offsets.side_effect = None
    assert monitor.refresh() == ["Kafka at here:9092 is back"]
    assert (monitor.unreachable, monitor.lag) == (False, {0: 3, 1: None})


def test_an_outage_is_reported_with_its_reason():
    (line,) = LagMonitor(Mock(), "here:9092", "t").report_unreachable(KafkaConnectionError("gone"))
    assert line.startswith("Kafka at here:9092 does not answer (")
    assert "gone" in line
