"""Writes rejected messages to their topic, from Spark's Python workers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyarrow as pa

from iot.kafka.client_config import confluent_config
from iot.settings import Kafka, reason

# Maximum size of a rejected message.
MAX_BYTES = 2 * 1024 * 1024
# How long to wait for Kafka to store the messages of an Arrow batch.
FLUSH_S = 60.0


class RejectedWriter:
    """Writes rejected messages, at least once: Kafka has stored them before the task ends.

    Spark's own Kafka sink would have to carry every message through the windows query, or to read the topic twice.

    Args:
        topic: where to write the messages.
        source_topic: the topic that they come from, for the header ``source.topic``.
    """

    def __init__(self, kafka: Kafka, topic: str, source_topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.source_topic = source_topic

    def __call__(self, batch: pa.RecordBatch, rejected: list[tuple[int, str]]) -> None:
        """Write rejected rows of an Arrow batch.

        Args:
            batch: rows with the columns ``key``, ``value``, ``partition`` and ``offset``.
            rejected: the number of a row and the reason, for each rejected message.

        Raises:
            RuntimeError: Kafka did not store every message within ``FLUSH_S``.
        """
        producer = _producer(self.kafka.bootstrap_servers, tuple(sorted(self.kafka.properties.items())))
        failures: list[str] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(error.str())

        columns = {name: batch.column(name) for name in ("key", "value", "partition", "offset")}
        for row, why in rejected:
            key, value, partition, offset = (column[row].as_py() for column in columns.values())
            headers = [
                ("reason", why.encode()),
                ("source.topic", self.source_topic.encode()),
                ("source.partition", str(partition).encode()),
                ("source.offset", str(offset).encode()),
            ]
            while True:
                try:
                    producer.produce(self.topic, value, key, headers=headers, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(1)
        left = producer.flush(FLUSH_S)
        if left or failures:
            why = failures[0] if failures else "no answer"
            raise RuntimeError(f"{left + len(failures)} rejected messages could not be written to {self.topic}: {why}")


@lru_cache(maxsize=4)
def _producer(bootstrap_servers: str, properties: tuple[tuple[str, str], ...]) -> Any:
    """Return the producer of this worker process, which all its tasks share.

    Raises:
        RuntimeError: the producer rejects its configuration.
    """
    from confluent_kafka import KafkaException, Producer

    config = confluent_config(Kafka(bootstrap_servers, dict(properties))) | {
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": 1,
        "message.max.bytes": 2 * MAX_BYTES,
        "message.timeout.ms": int(FLUSH_S * 1000),
        "log_level": 0,
    }
    try:
        return Producer(config)
    except KafkaException as error:
        raise RuntimeError(reason(error.args[0])) from error
