"""Read the dead-letter topic: the messages that were rejected, as they came, with the reason and their origin.

The Spark jobs write it, at least once; a repeat is recognised by its headers and left out. The gateway writes what it
refuses, which was never in the source topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from iot.kafka import advertised
from iot.kafka.offsets import make_reader, partitions_of
from iot.settings import REJECTED_TOPIC, Kafka, UserError, reason

# How long a poll waits for messages.
POLL_MS = 1_000
# Maximum number of polls in a row that return nothing, before Kafka counts as unreachable.
MAX_EMPTY_POLLS = 10


class RejectedMessage(NamedTuple):
    """A rejected message: its bytes, the reason, its place in the source topic, and Kafka's timestamp in ms.

    What the gateway refused has partition and offset -1.
    """

    value: bytes | None
    reason: str
    topic: str
    partition: int
    offset: int
    rejected_ms: int


def read_rejected(kafka: Kafka, source_topic: str, since_ms: int = 0) -> Iterator[RejectedMessage]:
    """Yield the messages of ``source_topic`` that were rejected since ``since_ms``, up to the present end.

    Raises:
        UserError: Kafka does not answer, or the dead-letter topic does not exist.
    """
    try:
        consumer = make_reader(kafka)
        try:
            partitions = partitions_of(consumer, REJECTED_TOPIC)
            if not partitions:
                raise UserError(
                    f"topic {REJECTED_TOPIC} does not exist yet: start iot_streaming_app.py, which creates it"
                )
            yield from _distinct(_read(consumer, partitions, since_ms), source_topic)
        finally:
            consumer.close(autocommit=False)
    except KafkaError as error:
        why = advertised.outage(kafka) or reason(error)
        raise UserError(f"cannot read {REJECTED_TOPIC} at {kafka.bootstrap_servers}: {why}") from error


def _read(consumer: KafkaConsumer, partitions: list[TopicPartition], since_ms: int) -> Iterator[Any]:
    """Yield Kafka's records from ``since_ms`` up to the present end of each partition."""
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    for partition, found in consumer.offsets_for_times(dict.fromkeys(partitions, since_ms)).items():
        consumer.seek(partition, found.offset if found else ends[partition])
    empty_polls = 0
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        records = [record for batch in consumer.poll(POLL_MS).values() for record in batch]
        yield from records
        empty_polls = 0 if records else empty_polls + 1
        if empty_polls == MAX_EMPTY_POLLS:
            raise UserError(f"cannot read {REJECTED_TOPIC} to its end: Kafka stopped answering; try again")


def _distinct(records: Iterable[Any], source_topic: str) -> Iterator[RejectedMessage]:
    seen: set[tuple[bytes, bytes, int]] = set()
    for record in records:
        headers = dict(record.headers or ())
        if headers.get("source.topic", b"").decode(errors="replace") != source_topic:
            continue
        partition, offset = headers.get("source.partition", b"-1"), headers.get("source.offset", b"-1")
        # The value belongs to the identity, because a topic that was deleted and created again reuses its offsets.
        identity = (partition, offset, hash(record.value))
        is_from_gateway = "source.device" in headers
        if is_from_gateway or identity not in seen:
            if not is_from_gateway:
                seen.add(identity)
            why = headers.get("reason", b"").decode(errors="replace")
            yield RejectedMessage(record.value, why, source_topic, int(partition), int(offset), record.timestamp)
