"""The two Kafka clients behind one seam: a ``Sender`` that counts every acknowledgement.

kafka-python is the client of the course, confluent-kafka (librdkafka) the fast one. Both send with ``acks=all``,
idempotent, and partition by murmur2 of the key, so a sensor is in the same partition with both. Both keep trying for as
long as a broker is away; what waits is bounded by ``max_in_flight``.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, cast

from iot.kafka.client_config import START_S, confluent_config, kafka_python_config, quiet_kafka_python
from iot.kafka.marks import Mark
from iot.settings import Kafka, UserError, reason

CLIENTS = ("kafka-python", "confluent-kafka")
DEFAULT_MAX_IN_FLIGHT = 100_000
NEVER_MS = 2**31 - 1
# A broker that comes back is found within this.
RECONNECT_MS = 1_000
# How often a sender that is full looks for room.
ROOM_S = 0.005


class Record(TypedDict):
    """A record to send; a dict because that is what librdkafka's batch call takes as it is."""

    key: bytes
    value: bytes


class MarkedRecord(Record, total=False):
    """A record whose end is followed: ``callback`` is what the sender's ``mark`` made, for this record alone."""

    callback: Mark


class Sender(ABC):
    """Sends records and keeps the account: accepted = acknowledged + failed + in flight. Threads may share it."""

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
        """How many are neither acknowledged nor failed."""
        return self.accepted - self.acknowledged - self.failed

    @abstractmethod
    def send(self, records: list[Record], stop: threading.Event) -> int:
        """Queue records in order, waiting while too many are in flight; returns how many were accepted.

        Fewer than given are accepted only when ``stop`` is set while waiting.

        Raises:
            UserError: the client cannot go on.
        """

    def mark(self, on_end: Callable[[bool], None]) -> Mark:
        """What follows one record: put it into the record as ``callback``, and let go of it after ``send``."""
        return Mark(on_end, None)

    def poll(self, wait_s: float = 0) -> None:  # noqa: B027  # a client may have nothing to do here
        """Let the client report what was acknowledged or failed; call this now and then while not sending.

        A client that has a thread of its own for that returns at once, another waits at most so long for something.
        """

    @abstractmethod
    def flush(self, timeout_s: float) -> int:
        """Wait until nothing is in flight; returns how many still are."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and threads; what is in flight is given up and counts as failed."""

    def _fail(self, why: str) -> None:
        with self._lock:
            self.failed += 1
            self.last_error = why


def make_sender(
    client: str, kafka: Kafka, topic: str, max_in_flight: int = DEFAULT_MAX_IN_FLIGHT, **tuning: Any
) -> Sender:
    """A sender on the client of that name.

    Args:
        client: one of ``CLIENTS``.
        max_in_flight: how many unacknowledged records may wait.
        tuning: settings of the client itself, in the client's own spelling.

    Raises:
        UserError: the client cannot be made with this configuration, or no broker answers.
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
            # How long one look for a topic that is gone takes; then it looks again.
            "max_block_ms": 1_000,
            "allow_auto_create_topics": False,
        }
        try:
            self._producer = KafkaProducer(**kafka_python_config(kafka) | settings | tuning)
            self._find(topic)
        except KafkaError as error:
            raise UserError(f"cannot send to {topic} at {kafka.bootstrap_servers}: {reason(error)}") from error

    def _find(self, topic: str) -> None:
        """Ask for the partitions of the topic, so that the first send does not wait for them."""
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
                # Counted before they are sent, so that in flight is never negative.
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
        """Returns how many were queued, or refused by the client, before ``stop`` was set while the topic was gone."""
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
        # The client's own flush waits this long for each batch.
        with self._lock:
            self._nothing_in_flight.wait_for(lambda: not self.in_flight, timeout_s)
            return self.in_flight

    def close(self) -> None:
        if self.in_flight:
            # Without this close() waits for what never comes, and fails.
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
            # The bound is ours: a queue that refuses part of a batch would break the order of readings.
            "queue.buffering.max.messages": 10_000_000,
            "queue.buffering.max.kbytes": 2_097_151,
            # Acknowledged = accepted - failed - still queued: exact, and a tenth of the cost of a callback for each.
            "delivery.report.only.error": True,
            "logger": logging.getLogger("confluent_kafka.silent"),
        }
        logging.getLogger("confluent_kafka.silent").disabled = True
        try:
            self._producer = Producer(confluent_config(kafka) | settings | tuning)
            # Asked for here, so that the first send does not wait for it.
            found = self._producer.list_topics(topic, START_S).topics[topic]
        except KafkaException as error:
            raise UserError(f"cannot send to {topic} at {kafka.bootstrap_servers}: {error.args[0].str()}") from error
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
                # What the client refuses is not in its queue.
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
                raise UserError(f"confluent-kafka cannot go on: {self._fatal}")
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
            # A fatal error: nothing will be acknowledged any more.
            self._fatal = error.args[0].str()
            self._producer.purge()

    def _on_delivery(self, error: Any, _: Any) -> None:
        if error is not None:
            self._fail(error.str())

    def flush(self, timeout_s: float) -> int:
        # The client's own flush calls back with an exception pending when there is a fatal error.
        deadline_s = time.monotonic() + timeout_s
        while (left := len(self._producer)) and time.monotonic() < deadline_s:
            self.poll(0.01)
        return left

    def close(self) -> None:
        if len(self._producer):
            self._producer.purge()
        self.flush(1)
