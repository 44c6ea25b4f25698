"""Which rejected messages are repeats."""

from __future__ import annotations

from typing import NamedTuple

from iot.kafka.rejected_topic import _distinct


class Record(NamedTuple):
    value: bytes
    headers: list[tuple[str, bytes]]
    timestamp: int = 0


def of_spark(offset: int, value: bytes = b"{") -> Record:
    place = {"source.partition": b"1", "source.offset": b"%d" % offset}
    return Record(value, [("reason", b"why"), ("source.topic", b"topic"), *place.items()])


def of_gateway(value: bytes = b"{") -> Record:
    return Record(value, [("reason", b"why"), ("source.topic", b"topic"), ("source.device", b"d1")])


def test_a_repeat_of_spark_is_left_out():
    found = _distinct([of_spark(7), of_spark(8), of_spark(7), of_spark(7, b"other")], "topic")
    assert [(each.offset, each.value) for each in found] == [(7, b"{"), (8, b"{"), (7, b"other")]


def test_each_message_that_the_gateway_refused_is_one_of_its_own():
    found = list(_distinct([of_gateway(), of_gateway(), of_spark(7)], "topic"))
    assert [(each.partition, each.offset) for each in found] == [(-1, -1), (-1, -1), (1, 7)]
    assert list(_distinct([of_gateway()], "other")) == []
