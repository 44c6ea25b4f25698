"""How far a consumer is behind the end of its topic, and whether Kafka answers at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from iot.settings import reason

# How often to ask for the end offsets.
REFRESH_EVERY_S = 1.0
# How long to wait for the answer.
TIMEOUT_MS = 4_000


class LagMonitor:
    """Asks for the topic's end offsets once a second, and notices when Kafka stops answering.

    ``lag`` is the number of messages not yet processed for each assigned partition, None where it is not known.
    ``unreachable`` is True from the first failure until Kafka answers again.
    """

    def __init__(self, consumer: KafkaConsumer, address: str, topic: str, why: Callable[[], str] = str) -> None:
        """``why`` finds out which address fails, when an outage begins; an empty text if it cannot."""
        self._consumer = consumer
        self._address = address
        self._topic = topic
        self._why = why
        self._due_s = 0.0
        self.unreachable = False
        self.lag: dict[int, int | None] = {}

    def refresh_if_due(self, now_s: float) -> list[str]:
        """Refresh ``lag`` if the last refresh is at least ``REFRESH_EVERY_S`` ago; returns lines as ``refresh``."""
        return self.refresh() if now_s >= self._due_s else []

    def refresh(self) -> list[str]:
        """Refresh ``lag``. Returns a line if Kafka became unreachable, or answers again, since the last call."""
        try:
            known = self._consumer.partitions_for_topic(self._topic)
            ends = self._consumer.end_offsets(
                [TopicPartition(self._topic, number) for number in known], timeout_ms=TIMEOUT_MS
            )
        except KafkaError as error:
            return self.report_unreachable(error)
        finally:
            self._due_s = time.monotonic() + REFRESH_EVERY_S
        self.lag = {}
        for partition in sorted(self._consumer.assignment()):
            position = None
            # The group may have revoked the partition in the meantime.
            with suppress(KafkaError):
                position = self._consumer.position(partition, timeout_ms=0)
            end = ends.get(partition)
            self.lag[partition.partition] = None if position is None or end is None else max(0, end - position)
        if self.unreachable:
            self.unreachable = False
            return [f"Kafka at {self._address} is back"]
        return []

    def report_unreachable(self, error: KafkaError) -> list[str]:
        """Record a failure. Returns a line about it if it is the first since Kafka last answered."""
        self.lag = dict.fromkeys(self.lag)
        if self.unreachable:
            return []
        self.unreachable = True
        why = self._why() or ("" if isinstance(error, KafkaTimeoutError) else reason(error))
        return [f"Kafka at {self._address} does not answer{f' ({why})' if why else ''}; retrying until it does"]


def lag_text(lag: Mapping[int, int | None]) -> str:
    """Return the total lag and the lag by partition, with a question mark where it is not known."""
    if not lag:
        return "? (no partitions assigned)"
    counts = [count for count in lag.values() if count is not None]
    total = f"{sum(counts):,}" if len(counts) == len(lag) else "?"
    by_partition = ", ".join(f"{number}: {'?' if count is None else f'{count:,}'}" for number, count in lag.items())
    return f"{total} ({by_partition})"
