"""One interface to both Kafka clients: a ``Sender`` counts every acknowledgement.

The course uses kafka-python; confluent-kafka (librdkafka) is the fast client. Both send with ``acks=all`` and
idempotence. Both choose the partition by murmur2 of the key, so a sensor's readings share a partition. Both retry while
a broker is unavailable; ``max_in_flight`` bounds the records that wait.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, cast

from iot.kafka import advertised
from iot.kafka.client_config import START_S, confluent_config, kafka_python_config, quiet_kafka_python
from iot.settings import Kafka, UserError, reason

CLIENTS = ("kafka-python", "confluent-kafka")
DEFAULT_MAX_IN_FLIGHT = 100_000
# A delivery timeout that never expires.
NEVER_MS = 2**31 - 1
# Maximum time between two attempts to reconnect.
RECONNECT_MS = 1_000
# How often a full sender checks whether there is room again.
ROOM_S = 0.005


class Mark:
    """Reports the end of one record: it calls ``on_end(acknowledged)`` once.

    The call comes from a thread of the client or from the thread that sends.
    """

    __slots__ = ("_on_end", "_on_failed")

    def __init__(self, on_end: Callable[[bool], None], on_failed: Callable[[Any, Any], None] | None) -> None:
        """``on_failed`` is the sender's own error callback, if this mark replaces it."""
        self._on_end: Callable[[bool], None] | None = on_end
        self._on_failed = on_failed

    def __call__(self, error: Any, about: Any) -> None:
        if error is not None and self._on_failed:
            self._on_failed(error, about)
        self.end(error is None)

    def __del__(self) -> None:
        # confluent-kafka reports failures only. It drops the mark of a record that was acknowledged.
        if self._on_failed:
            self.end(True)

    def forget(self) -> None:
        """Report nothing, because the record was not accepted."""
        self._on_end = None

    def end(self, acknowledged: bool) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end:
            on_end(acknowledged)


class Record(TypedDict):
    """A record to send. It is a dict because librdkafka's batch call takes dicts."""

    key: bytes
    value: bytes


class MarkedRecord(Record, total=False):
    """A record with a mark: ``callback`` was made by ``Sender.mark`` for this record alone."""

    callback: Mark


class Sender(ABC):
    """Sends records and counts them: accepted = acknowledged + failed + in flight. Threads may share a sender."""

    client: str

    def __init__(self, topic: str, max_in_flight: int) -> None:
        self.accepted = self.failed = 0
        self.last_error = ""
        self._topic, self._max_in_flight = topic, max_in_flight
        self._lock = threading.Lock()

    @property
    @abstractmethod
    def acknowledged(self) -> int: ...

    @property
    def in_flight(self) -> int:
        """The number of records that are neither acknowledged nor failed."""
        return self.accepted - self.acknowledged - self.failed

    @abstractmethod
    def send(self, records: list[Record], stop: threading.Event) -> int:
        """Queue records in order, and wait while too many are in flight.

        Returns:
            How many records were accepted: all of them, unless ``stop`` was set meanwhile.

        Raises:
            UserError: the client has failed and cannot continue.
        """

    def mark(self, on_end: Callable[[bool], None]) -> Mark:
        """A mark for one record. Store it in the record as ``callback``, and remove it after ``send``."""
        return Mark(on_end, None)

    def poll(self, wait_s: float = 0) -> None:  # noqa: B027  # some clients have nothing to do
        """Let the client report acknowledgements and failures. Call this regularly while not sending.

        A client that has its own thread for reports returns at once. Another waits at most ``wait_s`` for a report.
        """

    @abstractmethod
    def flush(self, timeout_s: float) -> int:
        """Wait until nothing is in flight; returns how many records still are."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and threads. Records still in flight count as failed."""

    def _fail(self, why: str) -> None:
        with self._lock:
            self.failed += 1
            self.last_error = why


def make_sender(
    client: str, kafka: Kafka, topic: str, max_in_flight: int = DEFAULT_MAX_IN_FLIGHT, **tuning: Any
) -> Sender:
    """Create a sender that uses the named client.

    Args:
        client: one of ``CLIENTS``.
        max_in_flight: maximum number of unacknowledged records.
        tuning: settings of the client, in its own spelling.

    Raises:
        UserError: the configuration is invalid, the topic does not exist, or no broker answers.
    """
    made = KafkaPythonSender if client == "kafka-python" else ConfluentSender
    return made(kafka, topic, max_in_flight, **tuning)


class KafkaPythonSender(Sender):
    client = "kafka-python"

    def __init__(self, kafka: Kafka, topic: str, max_in_flight: int, **tuning: Any) -> None:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        quiet_kafka_python()
        super().__init__(topic, max_in_flight)
        self._acknowledged = 0
        self._nothing_in_flight = threading.Condition(self._lock)
        settings = {
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 5,
            "batch_size": 65_536,
            "delivery_timeout_ms": NEVER_MS,
            "reconnect_backoff_max_ms": RECONNECT_MS,
            "bootstrap_timeout_ms": int(START_S * 1000),
            # How long one attempt to find the topic takes.
            "max_block_ms": 1_000,
            "allow_auto_create_topics": False,
        }
        try:
            self._producer = KafkaProducer(**kafka_python_config(kafka) | settings | tuning)
            self._find(topic)
        except KafkaError as error:
            why = advertised.outage(kafka) or reason(error)
            raise UserError(f"cannot send to {topic} at {kafka.bootstrap_servers}: {why}") from error

    def _find(self, topic: str) -> None:
        """Fetch the topic's partitions, so that the first send does not wait for them."""
        from kafka.errors import KafkaTimeoutError

        deadline_s = time.monotonic() + START_S
        while True:
            try:
                self._producer.partitions_for(topic)
                return
            except KafkaTimeoutError:
                if time.monotonic() > deadline_s:
                    raise

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    def send(self, records: list[Record], stop: threading.Event) -> int:
        sent = 0
        while sent < len(records):
            with self._lock:
                part = records[sent : sent + max(0, self._max_in_flight - self.in_flight)]
                # Count records before they are sent, so that "in flight" is never negative.
                self.accepted += len(part)
            queued = self._queue(part, stop)
            sent += queued
            if queued < len(part):
                with self._lock:
                    self.accepted -= len(part) - queued
                break
            if sent < len(records) and stop.wait(ROOM_S):
                break
        return sent

    def _queue(self, records: list[Record], stop: threading.Event) -> int:
        """Hand records to the client, and retry while the topic is missing.

        Returns:
            How many records were queued or refused: all of them, unless ``stop`` was set meanwhile.
        """
        from kafka.errors import KafkaError, KafkaTimeoutError

        for number, record in enumerate(records):
            while True:
                try:
                    future = self._producer.send(self._topic, record["value"], record["key"])
                    future.add_callback(self._on_acknowledged)
                    future.add_errback(self._on_failed)
                    if mark := cast(MarkedRecord, record).get("callback"):
                        future.add_callback(partial(mark, None))
                        future.add_errback(partial(mark, about=None))
                    break
                except KafkaTimeoutError:
                    if stop.is_set():
                        return number
                except KafkaError as error:
                    self._on_failed(error)
                    if mark := cast(MarkedRecord, record).get("callback"):
                        mark.end(False)
                    break
        return len(records)

    def _on_acknowledged(self, _: object) -> None:
        with self._lock:
            self._acknowledged += 1
            if not self.in_flight:
                self._nothing_in_flight.notify_all()

    def _on_failed(self, error: BaseException) -> None:
        self._fail(reason(error).removesuffix(": None"))
        with self._lock:
            if not self.in_flight:
                self._nothing_in_flight.notify_all()

    def flush(self, timeout_s: float) -> int:
        # The client's own flush applies the timeout to each batch.
        with self._lock:
            self._nothing_in_flight.wait_for(lambda: not self.in_flight, timeout_s)
            return self.in_flight

    def close(self) -> None:
        if self.in_flight:
            # Otherwise close() waits for records that are never acknowledged, and fails.
            self._producer._sender.force_close()
        self._producer.close(timeout=5)


class ConfluentSender(Sender):
    client = "confluent-kafka"

    def __init__(self, kafka: Kafka, topic: str, max_in_flight: int, **tuning: Any) -> None:
        from confluent_kafka import KafkaException, Producer

        super().__init__(topic, max_in_flight)
        self._fatal = ""
        settings = {
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "batch.size": 262_144,
            "message.timeout.ms": 0,
            "reconnect.backoff.max.ms": RECONNECT_MS,
            # ``max_in_flight`` is the bound: a queue that refuses part of a batch would change the order of readings.
            "queue.buffering.max.messages": 10_000_000,
            "queue.buffering.max.kbytes": 2_097_151,
            # Acknowledged = accepted - failed - still queued: exact, and ten times cheaper than a callback for each.
            "delivery.report.only.error": True,
            "logger": logging.getLogger("confluent_kafka.silent"),
        }
        logging.getLogger("confluent_kafka.silent").disabled = True
        try:
            self._producer = Producer(confluent_config(kafka) | settings | tuning)
            # Fetch the topic's partitions here, so that the first send does not wait for them.
            found = self._producer.list_topics(topic, START_S).topics[topic]
        except KafkaException as error:
            why = advertised.outage(kafka) or error.args[0].str()
            raise UserError(f"cannot send to {topic} at {kafka.bootstrap_servers}: {why}") from error
        if found.error:
            raise UserError(f"cannot send to {topic} at {kafka.bootstrap_servers}: {found.error.str()}")

    @property
    def acknowledged(self) -> int:
        with self._lock:
            return self.accepted - self.failed - len(self._producer)

    def send(self, records: list[Record], stop: threading.Event) -> int:
        sent = 0
        while sent < len(records):
            with self._lock:
                part = cast(
                    "list[dict[str, Any]]", records[sent : sent + max(0, self._max_in_flight - len(self._producer))]
                )
                queued = self._producer.produce_batch(self._topic, part, on_delivery=self._on_delivery)
                self.accepted += len(part)
                # Refused records are not in the client's queue.
                self.failed += len(part) - queued
            sent += len(part)
            if queued < len(part):
                refused = [record for record in part if "_error" in record]
                self.last_error = refused[0]["_error"].str()
                for record in refused:
                    del record["_error"]
                    if mark := record.get("callback"):
                        mark.end(False)
            self.poll()
            if self._fatal:
                raise UserError(f"confluent-kafka cannot continue: {self._fatal}; start again")
            if sent < len(records) and stop.wait(ROOM_S):
                break
        return sent

    def mark(self, on_end: Callable[[bool], None]) -> Mark:
        return Mark(on_end, self._on_delivery)

    def poll(self, wait_s: float = 0) -> None:
        from confluent_kafka import KafkaException

        try:
            self._producer.poll(wait_s)
        except KafkaException as error:
            # After a fatal error nothing will be acknowledged.
            self._fatal = error.args[0].str()
            self._producer.purge()

    def _on_delivery(self, error: Any, _: Any) -> None:
        if error is not None:
            self._fail(error.str())

    def flush(self, timeout_s: float) -> int:
        # After a fatal error the client's own flush runs callbacks while an exception is pending.
        deadline_s = time.monotonic() + timeout_s
        while (left := len(self._producer)) and time.monotonic() < deadline_s:
            self.poll(0.01)
        return left

    def close(self) -> None:
        if len(self._producer):
            self._producer.purge()
        self.flush(1)
