"""The topic guard while Kafka does not answer."""

from __future__ import annotations

import pytest
from kafka.errors import KafkaTimeoutError

from iot.batches import Identity
from iot.kafka import topic_guard
from iot.kafka.topic_guard import TopicGuard
from iot.settings import Kafka, UserError


def test_an_outage_does_not_mean_that_the_topic_was_replaced(monkeypatch):
    def make_admin(kafka: Kafka) -> None:
        raise KafkaTimeoutError("no brokers")

    monkeypatch.setattr(topic_guard, "make_admin", make_admin)
    guard = TopicGuard(Kafka("localhost:1"), Identity("topic", "id"), "the fix")
    with pytest.raises(UserError, match=r"^Kafka at localhost:1 does not answer "):
        guard.require_same()
    guard.require_not_replaced()
