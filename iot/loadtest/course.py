"""The course's method, for comparison: send one reading with kafka-python, wait for it, send the next."""

from __future__ import annotations

import threading
from typing import cast

from iot.kafka.client_config import START_S, kafka_python_config, quiet_kafka_python
from iot.kafka.sender import MarkedRecord, Record, Sender
from iot.settings import Kafka, UserError, reason


class CourseSender(Sender):
    """One producer for all threads, which is the fastest way. ``send`` returns once all records are acknowledged."""

    client = "course"

    def __init__(self, kafka: Kafka, topic: str, timeout_s: float) -> None:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        quiet_kafka_python()
        super().__init__(topic, 0)
        self._acknowledged = 0
        self._timeout_s = timeout_s
        try:
            self._producer = KafkaProducer(
                **kafka_python_config(kafka), acks="all", bootstrap_timeout_ms=int(START_S * 1000)
            )
            self._producer.partitions_for(topic)
        except KafkaError as error:
            raise UserError(f"cannot send to {topic} at {kafka.bootstrap_servers}: {reason(error)}") from error

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    def send(self, records: list[Record], stop: threading.Event) -> int:
        from kafka.errors import KafkaError

        for number, record in enumerate(records):
            if stop.is_set():
                return number
            mark = cast(MarkedRecord, record).get("callback")
            try:
                self._producer.send(self._topic, value=record["value"], key=record["key"]).get(self._timeout_s)
                failure = None
            except KafkaError as error:
                failure = error
                self._fail(reason(error))
            with self._lock:
                self.accepted += 1
                self._acknowledged += failure is None
            if mark is not None:
                mark(failure, None)
        return len(records)

    def flush(self, timeout_s: float) -> int:
        return 0

    def close(self) -> None:
        self._producer.close(timeout=5)
