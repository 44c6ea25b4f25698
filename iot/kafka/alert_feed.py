"""Follow a topic in a thread, through outages of the broker: ``Feed`` any topic, ``AlertFeed`` that of alerts."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from kafka import TopicPartition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from iot.alerts import Alert, Delivered
from iot.batches import Offsets
from iot.kafka import advertised
from iot.kafka.offsets import make_reader, partitions_of
from iot.settings import ALERTS_TOPIC, Kafka, reason

# How long one poll waits for records, and a broker before it answers that there are none.
POLL_WAIT_MS, BROKER_WAIT_MS = 500, 2_000
# How long to wait before the next attempt after an error.
RETRY_S = 1.0
# Maximum number of records in one poll.
MAX_POLL = 10_000
# A poll with this many records is followed by the next one at once.
BUSY = 1_000

T = TypeVar("T")

OnAlerts = Callable[[list[Delivered], Offsets], None]

_decode = msgspec.json.Decoder(Alert).decode


class Feed(Generic[T]):
    """A thread that reads a topic.

    ``outage`` says why nothing can be read now; None while the feed is connected. ``failure`` is the error that ended
    the thread.
    """

    def __init__(
        self,
        kafka: Kafka,
        topic: str,
        decode: Callable[[Any], T | None],
        on_items: Callable[[list[T], Offsets], None],
        gather_s: float = 0.0,
    ) -> None:
        """
        Args:
            decode: makes an item of a record of kafka-python; None for a record to skip.
            on_items: called in the feed's thread, with items in the order of each partition, and the offsets at which
                to continue once these items are kept. An error that it raises ends the feed.
            gather_s: how long to collect items between two calls, for an ``on_items`` that is expensive to call.
        """
        self._kafka = kafka
        self._topic = topic
        self._decode = decode
        self._on_items = on_items
        self._gather_s = gather_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feed of {topic}", daemon=True)
        self._offsets: Offsets | None = None
        self.outage: str | None = None
        self.failure: BaseException | None = None

    def start(self, offsets: Mapping[int, int] | None = None) -> None:
        """Start at these offsets; without offsets, at the end of the topic when Kafka is first reached."""
        self._offsets = None if offsets is None else dict(offsets)
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread. During an outage it may still run after ``timeout_s``."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._follow()
                except KafkaError as error:
                    self.outage = advertised.outage(self._kafka) or reason(error)
                    self._stop.wait(RETRY_S)
        except BaseException as error:
            self.failure = error

    def _follow(self) -> None:
        consumer = make_reader(self._kafka, BROKER_WAIT_MS)
        try:
            partitions = partitions_of(consumer, self._topic)
            if not partitions:
                raise UnknownTopicOrPartitionError(f"there is no topic {self._topic}")
            consumer.assign(partitions)
            first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            if self._offsets is None:
                self._offsets = {partition.partition: end[partition] for partition in partitions}
            for partition in partitions:
                # The offset may be out of range: its records expired, or the topic was deleted and made again.
                wanted = self._offsets.get(partition.partition, 0)
                consumer.seek(partition, min(max(wanted, first[partition]), end[partition]))
            self.outage = None
            while not self._stop.is_set():
                batches = consumer.poll(POLL_WAIT_MS, max_records=MAX_POLL)
                if batches:
                    self._deliver(batches, self._offsets)
                    if sum(map(len, batches.values())) < BUSY:
                        self._stop.wait(self._gather_s)
        finally:
            consumer.close(autocommit=False, timeout_ms=2_000)

    def _deliver(self, batches: Mapping[TopicPartition, list[Any]], offsets: Offsets) -> None:
        items = []
        for partition, records in batches.items():
            offsets[partition.partition] = records[-1].offset + 1
            items += [item for item in map(self._decode, records) if item is not None]
        self._on_items(items, dict(offsets))


class AlertFeed(Feed[Delivered]):
    """A thread that reads the alerts about one source topic."""

    def __init__(
        self, kafka: Kafka, source_topic: str, on_alerts: OnAlerts, topic: str = ALERTS_TOPIC, gather_s: float = 0.0
    ) -> None:
        """
        Args:
            source_topic: alerts about readings of other topics are skipped.
        """
        # The form that ``iot.alerts.alert_id`` writes. Anything else in the topic is not ours.
        is_about_source = re.compile(rf"{re.escape(source_topic)}-[0-9]+-[0-9]+", re.ASCII).fullmatch

        def decode(record: Any) -> Delivered | None:
            try:
                alert = _decode(record.value or b"")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None
            return Delivered(alert, record.timestamp) if is_about_source(alert.alert_id) else None

        super().__init__(kafka, topic, decode, on_alerts, gather_s)
