"""The topic guard against a real broker."""

from __future__ import annotations

import pytest

from iot.batches import Identity
from iot.kafka.topic_guard import TopicGuard, TopicReplaced
from iot.kafka.topics import ensure_topics, make_admin, topic_id
from iot.settings import UserError


def test_a_topic_made_again_under_the_same_name_is_detected(broker, topic, eventually):
    guard = TopicGuard(broker.kafka, Identity(topic, topic_id(broker.kafka, topic)), "the fix")
    guard.require_same()
    with make_admin(broker.kafka) as admin:
        admin.delete_topics([topic])
        eventually(lambda: topic not in admin.list_topics())
    with pytest.raises(UserError, match=rf"^Kafka at localhost:\d+ has no topic {topic} any more$"):
        guard.require_same()
    guard.require_not_replaced()
    ensure_topics(broker.kafka, [topic])
    for require in (guard.require_same, guard.require_not_replaced):
        with pytest.raises(TopicReplaced, match=rf"^the topic {topic} was deleted and made again .*; the fix$"):
            require()
    guard.close()
