"""Writes rejected messages to their topic, from inside Spark's Python workers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyarrow as pa

from iot.kafka.client_config import confluent_config
from iot.settings import Kafka, reason

MAX_BYTES = 2 * 1024 * 1024
FLUSH_S = 60.0


class RejectedWriter:
    """Writes rejected messages from inside Spark's Python workers, at least once: before a task ends they are stored.

    Spark's own Kafka sink would need every message to take the way through the windows, or the topic to be read twice.
    """

    def __init__(self, kafka: Kafka, topic: str, source_topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.source_topic = source_topic

    def __call__(self, batch: pa.RecordBatch, rejected: list[tuple[int, str]]) -> None:
        """Write these rows of a batch (``key``, ``value``, ``partition``, ``offset``), each with its reason.

        Raises:
            RuntimeError: Kafka did not store them.
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
    """One producer in each worker process, however many tasks it runs."""
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
