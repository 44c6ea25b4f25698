"""Read a topic back."""

from __future__ import annotations

from collections import defaultdict

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaConnectionError

# How often a client asks on whose other nodes have just died.
TRIES = 10


def read_back(bootstrap_servers: str, topic: str) -> dict[int, list[tuple[bytes, bytes]]]:
    """By partition, the (key, value) of all records in order."""
    for left in reversed(range(TRIES)):
        consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
        try:
            return _read_back(consumer, topic)
        except KafkaConnectionError:
            # Its metadata still name a node that was killed.
            if not left:
                raise
        finally:
            consumer.close()
    raise AssertionError("no try was made")


def _read_back(consumer: KafkaConsumer, topic: str) -> dict[int, list[tuple[bytes, bytes]]]:
    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    found: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        for partition, batch in consumer.poll(500).items():
            found[partition.partition] += [(record.key, record.value) for record in batch]
    return found
