"""Whether a topic is still the one that it was."""

from __future__ import annotations

import pytest
from kafka.errors import KafkaTimeoutError

from iot.batches import Identity
from iot.kafka import topic_guard
from iot.kafka.topic_guard import TopicGuard, TopicReplaced
from iot.kafka.topics import ensure_topics, make_admin, topic_id
from iot.settings import Kafka, UserError


@pytest.mark.integration
def test_a_topic_of_the_same_name_is_not_the_same(broker, topic, eventually):
    guard = TopicGuard(broker.kafka, Identity(topic, topic_id(broker.kafka, topic)), "the cure")
    guard.require_same()
    with make_admin(broker.kafka) as admin:
        admin.delete_topics([topic])
        eventually(lambda: topic not in admin.list_topics())
    with pytest.raises(UserError, match=rf"^Kafka at localhost:\d+ has no topic {topic} any more$"):
        guard.require_same()
    guard.require_unless_away()
    ensure_topics(broker.kafka, [topic])
    for require in (guard.require_same, guard.require_unless_away):
        with pytest.raises(TopicReplaced, match=rf"^the topic {topic} was deleted and made again .*; the cure$"):
            require()
    guard.close()


def test_without_kafka_nothing_is_known(monkeypatch):
    def make_admin(kafka: Kafka) -> None:
        raise KafkaTimeoutError("no brokers")

    monkeypatch.setattr(topic_guard, "make_admin", make_admin)
    guard = TopicGuard(Kafka("localhost:1"), Identity("topic", "id"), "the cure")
    with pytest.raises(UserError, match=r"^Kafka at localhost:1 does not answer "):
        guard.require_same()
    guard.require_unless_away()
