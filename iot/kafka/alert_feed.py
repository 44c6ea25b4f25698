"""Follows the topic of alerts, and hands on what comes in; a broker that is away only makes it wait."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping

import msgspec
from kafka import TopicPartition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from iot.alerts import Alert, Delivered
from iot.batches import Offsets
from iot.kafka.offsets import make_reader, partitions_of
from iot.settings import ALERTS_TOPIC, Kafka, reason

POLL_WAIT_MS = 500
RETRY_S = 1.0
# So many at once need not gather.
MANY = 1_000


OnAlerts = Callable[[list[Delivered], Offsets], None]

_decode = msgspec.json.Decoder(Alert).decode


class AlertFeed:
    """A thread that reads alerts about one source topic, each with the place to go on from.

    ``start`` begins; ``away`` says why nothing can be read, None while all is well; ``close`` ends it.
    """

    def __init__(
        self, kafka: Kafka, source_topic: str, on_alerts: OnAlerts, topic: str = ALERTS_TOPIC, gather_s: float = 0.0
    ) -> None:
        """
        Args:
            source_topic: alerts about readings of other topics are passed over.
            on_alerts: called in the feed's thread, with alerts in the order of each partition, and the offsets to go
                on from when these are kept. Whatever it raises ends the feed; ``failure`` then has it.
            gather_s: how long alerts gather after some were handed on, where each call costs.
        """
        self._kafka = kafka
        # As ``iot.alerts.alert_id`` writes it: what others wrote into the topic gets no further.
        self._is_about_source = re.compile(rf"{re.escape(source_topic)}-[0-9]+-[0-9]+", re.ASCII).fullmatch
        self._on_alerts = on_alerts
        self._topic = topic
        self._gather_s = gather_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alert-feed", daemon=True)
        self._offsets: Offsets | None = None
        self.away: str | None = None
        self.failure: BaseException | None = None

    def start(self, offsets: Mapping[int, int] | None = None) -> None:
        """Begin at these offsets, see ``offsets.end_offsets``; without, where the topic ends once it is reached."""
        self._offsets = None if offsets is None else dict(offsets)
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """End it, and wait so long for that; a broker that is away may hold it up."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._follow()
                except KafkaError as error:
                    self.away = reason(error)
                    self._stop.wait(RETRY_S)
        except BaseException as error:
            self.failure = error

    def _follow(self) -> None:
        consumer = make_reader(self._kafka)
        try:
            partitions = partitions_of(consumer, self._topic)
            if not partitions:
                raise UnknownTopicOrPartitionError(f"there is no topic {self._topic}")
            consumer.assign(partitions)
            begin, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            if self._offsets is None:
                self._offsets = {partition.partition: end[partition] for partition in partitions}
            for partition in partitions:
                # Expired meanwhile, or the topic was made anew: what is there is what can be had.
                wanted = self._offsets.get(partition.partition, 0)
                consumer.seek(partition, min(max(wanted, begin[partition]), end[partition]))
            self.away = None
            while not self._stop.is_set():
                batches = consumer.poll(POLL_WAIT_MS, max_records=10_000)
                if batches:
                    self._hand_on(batches, self._offsets)
                    if sum(map(len, batches.values())) < MANY:
                        self._stop.wait(self._gather_s)
        finally:
            consumer.close(autocommit=False, timeout_ms=2_000)

    def _hand_on(self, batches: Mapping[TopicPartition, list], offsets: Offsets) -> None:  # type: ignore[type-arg]
        delivered = []
        for partition, records in batches.items():
            offsets[partition.partition] = records[-1].offset + 1
            for record in records:
                try:
                    alert = _decode(record.value or b"")
                except (msgspec.DecodeError, RecursionError):
                    continue
                if self._is_about_source(alert.alert_id):
                    delivered.append(Delivered(alert, record.timestamp))
        self._on_alerts(delivered, dict(offsets))
