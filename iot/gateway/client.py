"""The Kafka client of the gateway, and its settings."""

from __future__ import annotations

import logging
from typing import Any

from iot.kafka.client_config import confluent_config
from iot.kafka.sender import RECONNECT_MS
from iot.settings import Kafka, UserError, reason

# Maximum size of one message to the client: a refused one with its headers.
MAX_MESSAGE_BYTES = 2 << 20
# How long the client may wait for more readings before it sends.
LINGER_MS = 5


def make_producer(kafka: Kafka, topic: str) -> Any:
    """Return a client that repeats what is not acknowledged, without a time limit, in order and without duplicates.

    Raises:
        UserError: it cannot be made.
    """
    from confluent_kafka import KafkaException, Producer

    settings = {
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": LINGER_MS,
        "message.timeout.ms": 0,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "reconnect.backoff.max.ms": RECONNECT_MS,
        # The bound is that of ``Writer``.
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 1 << 20,
        # The client drops the callback of a record that was acknowledged, which tells a ``Mark``.
        "delivery.report.only.error": True,
        "logger": logging.getLogger("confluent_kafka.silent"),
    }
    logging.getLogger("confluent_kafka.silent").disabled = True
    try:
        return Producer(confluent_config(kafka) | settings)
    except KafkaException as error:
        raise UserError(f"cannot send to {topic} at {kafka.bootstrap_servers}: {reason(error)}") from error


def is_too_large(error: Any) -> bool:
    """Whether the client or the topic refuses a record for ever, because of its size."""
    from confluent_kafka import KafkaError

    return bool(error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD))
