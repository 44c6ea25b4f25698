"""Where a topic begins and ends, read by consumers that belong to no group."""

from __future__ import annotations

from contextlib import suppress

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from iot.batches import Offsets
from iot.kafka import advertised
from iot.kafka.client_config import kafka_python_config, quiet_kafka_python
from iot.settings import Kafka, UserError, reason

# How long to wait for Kafka's answer.
TIMEOUT_MS = 4_000
# How long to wait for a consumer to close.
CLOSE_MS = 2_000


def make_reader(kafka: Kafka, wait_ms: int = 500) -> KafkaConsumer:
    """Return a consumer that belongs to no group and commits nothing.

    Args:
        wait_ms: how long a broker may wait for messages before it answers that there are none.

    Raises:
        KafkaError: Kafka does not answer.
    """
    quiet_kafka_python()
    return KafkaConsumer(
        **kafka_python_config(kafka),
        group_id=None,
        fetch_max_wait_ms=wait_ms,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        reconnect_backoff_max_ms=1_000,
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=TIMEOUT_MS,
    )


def partitions_of(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic, in order; none if it does not exist."""
    return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]


def end_offsets(kafka: Kafka, topic: str) -> Offsets:
    """Return the end offset of each partition.

    Raises:
        KafkaError: Kafka does not answer.
    """
    consumer = make_reader(kafka)
    try:
        return _ends(consumer, topic)
    finally:
        consumer.close(autocommit=False, timeout_ms=CLOSE_MS)


def start_offsets(kafka: Kafka, topic: str, which: str) -> Offsets:
    """Return the offset of each partition at which to start.

    Args:
        which: ``earliest`` or ``latest``.

    Raises:
        UserError: Kafka does not answer.
    """
    try:
        consumer = make_reader(kafka)
        try:
            if which == "latest":
                return _ends(consumer, topic)
            first = consumer.beginning_offsets(partitions_of(consumer, topic), timeout_ms=TIMEOUT_MS)
            return {partition.partition: offset for partition, offset in first.items()}
        finally:
            consumer.close(autocommit=False, timeout_ms=CLOSE_MS)
    except KafkaError as error:
        why = advertised.outage(kafka) or reason(error)
        raise UserError(f"cannot read the offsets of {topic} at {kafka.bootstrap_servers}: {why}") from error


def _ends(consumer: KafkaConsumer, topic: str) -> Offsets:
    ends = consumer.end_offsets(partitions_of(consumer, topic), timeout_ms=TIMEOUT_MS)
    return {partition.partition: offset for partition, offset in ends.items()}


class EndOffsets:
    """Reads the end offsets of a topic repeatedly, over one connection.

    ``outage`` says why the last ``fetch`` failed; None if it did not.
    """

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._consumer: KafkaConsumer | None = None
        self.outage: str | None = None

    def fetch(self) -> Offsets | None:
        """Return the end offset of each partition, or None if Kafka does not answer within a few seconds."""
        try:
            self._consumer = self._consumer or make_reader(self._kafka)
            ends = _ends(self._consumer, self._topic)
        except KafkaError as error:
            self.close()
            why = advertised.outage(self._kafka) or reason(error)
            self.outage = f"Kafka at {self._kafka.bootstrap_servers} does not answer ({why})"
            return None
        self.outage = None
        return ends

    def close(self) -> None:
        if self._consumer:
            with suppress(KafkaError):
                self._consumer.close(autocommit=False, timeout_ms=CLOSE_MS)
            self._consumer = None
