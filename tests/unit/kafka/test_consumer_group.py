"""A member of a consumer group: joining and commits."""

from __future__ import annotations

from unittest.mock import Mock

from kafka import TopicPartition
from kafka.coordinator.base import MemberState
from kafka.errors import KafkaTimeoutError

from iot.kafka.consumer_group import COMMIT_EVERY_S, GroupMember


def test_joins_again_when_joining_is_stuck():
    consumer = Mock()
    member = GroupMember(consumer, "t", from_beginning=False)

    def joins(state: MemberState, now_s: float) -> int:
        consumer.group_metadata.return_value.state = state
        member.rejoin_if_stuck(now_s)
        return int(consumer.subscribe.call_count)

    assert joins(MemberState.REBALANCING, 100.0) == 0
    assert joins(MemberState.STABLE, 114.0) == 0
    assert joins(MemberState.REBALANCING, 120.0) == 0
    assert joins(MemberState.REBALANCING, 134.9) == 0
    assert joins(MemberState.REBALANCING, 135.1) == 1
    assert joins(MemberState.REBALANCING, 136.0) == 1, "the new attempt gets the same time"


def test_commits_what_was_polled_at_most_every_two_seconds():
    consumer = Mock()
    member = GroupMember(consumer, "t", from_beginning=False)
    consumer.poll.return_value = {TopicPartition("t", 0): ["record"]}
    assert member.commit()
    member.commit_if_due(100.0)
    assert consumer.commit.call_count == 0, "nothing was polled yet"
    assert member.poll(1.0) == [["record"]]
    member.commit_if_due(100.0)
    member.commit_if_due(100.0 + COMMIT_EVERY_S)
    assert consumer.commit.call_count == 1
    member.poll(1.0)
    member.commit_if_due(100.0 + COMMIT_EVERY_S - 0.1)
    assert consumer.commit.call_count == 1
    member.commit_if_due(100.0 + COMMIT_EVERY_S)
    assert consumer.commit.call_count == 2


def test_a_failed_commit_is_tried_again():
    consumer = Mock()
    member = GroupMember(consumer, "t", from_beginning=False)
    consumer.poll.return_value = {TopicPartition("t", 0): ["record"]}
    member.poll(1.0)
    consumer.commit.side_effect = KafkaTimeoutError()
    assert not member.commit()
    consumer.commit.side_effect = None
    assert member.commit()
    assert consumer.commit.call_count == 2
