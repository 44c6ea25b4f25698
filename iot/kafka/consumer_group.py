"""One member of a consumer group: it joins, polls, and commits offsets after their messages are processed.

A crash therefore repeats messages and never loses any. Every method runs in the thread that polls.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.base import MemberState
from kafka.errors import AuthorizationError, InconsistentGroupProtocolError, KafkaError

from iot.kafka.client_config import kafka_python_config, quiet_kafka_python
from iot.settings import Kafka, UserError, reason

# Maximum number of messages in one poll.
MAX_POLL_RECORDS = 10_000
# How long a poll waits for messages.
POLL_WAIT_MS = 200
# How often to commit offsets.
COMMIT_EVERY_S = 2.0
# How long to wait for a broker's answer.
BROKER_TIMEOUT_MS = 4_000
# How long to wait when leaving the group.
CLOSE_TIMEOUT_MS = 2_000
# How long the group waits for a member that was killed, before others get its partitions.
SESSION_TIMEOUT_MS = 10_000
# How long joining may take before the member tries again.
STUCK_S = 15.0


def make_consumer(kafka: Kafka, group: str) -> KafkaConsumer:
    """Return a connected consumer that has not joined its group yet.

    Raises:
        KafkaError: Kafka does not answer.
    """
    quiet_kafka_python()
    return KafkaConsumer(
        **kafka_python_config(kafka),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        max_poll_records=MAX_POLL_RECORDS,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        reconnect_backoff_max_ms=1_000,
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=BROKER_TIMEOUT_MS,
    )


class GroupMember(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """A member of a consumer group that reads one topic.

    The caller processes everything that ``poll`` returns before it calls another method.
    """

    def __init__(self, consumer: KafkaConsumer, topic: str, from_beginning: bool) -> None:
        """``from_beginning`` starts each partition at its first message, whatever the group committed."""
        self.consumer = consumer
        self._topic = topic
        self._from_beginning = from_beginning
        self._ever_assigned: set[TopicPartition] = set()
        self._assignment_changed = False
        self._joining_since_s: float | None = None
        self._has_uncommitted = False
        self._commit_due_s = 0.0
        self._closing = False

    def join(self) -> None:
        """Join the group, or leave it and join again."""
        self.consumer.unsubscribe()
        self.consumer.subscribe([self._topic], listener=self)
        # Fetch the partitions now: if they become known while the group is joined, the member joins a second time.
        self.consumer.partitions_for_topic(self._topic)

    def rejoin_if_stuck(self, now_s: float) -> None:
        """Join again if joining takes longer than ``STUCK_S``.

        kafka-python 3.0.12 forgets that it is joining if it started to because partitions changed, and ``poll``
        returned before it was complete.
        """
        with suppress(KafkaError):
            if self.consumer.group_metadata().state is MemberState.STABLE:
                self._joining_since_s = None
            elif self._joining_since_s is None:
                self._joining_since_s = now_s
            elif now_s - self._joining_since_s > STUCK_S:
                self._joining_since_s = None
                self.join()

    def poll(self, limit: float) -> list[Sequence[Any]]:
        """Wait up to ``POLL_WAIT_MS`` for messages, and return at most ``limit`` records, a list for each partition.

        Raises:
            UserError: Kafka does not let this client read.
            KafkaError: Kafka does not answer.
        """
        try:
            batches = self.consumer.poll(POLL_WAIT_MS, max_records=int(min(MAX_POLL_RECORDS, limit)))
        except (AuthorizationError, InconsistentGroupProtocolError) as error:
            is_other = isinstance(error, InconsistentGroupProtocolError)
            fix = "choose another group with --group" if is_other else "check what its user may read"
            raise UserError(f"Kafka does not let this client read {self._topic}: {reason(error)}; {fix}") from error
        if batches:
            self._has_uncommitted = True
        return list(batches.values())

    def commit(self) -> bool:
        """Commit everything that was polled. If it returns False, the group may receive these messages again."""
        if self._has_uncommitted:
            self._has_uncommitted = not self._commit_positions()
        return not self._has_uncommitted

    def commit_if_due(self, now_s: float) -> None:
        """Commit if the last attempt is at least ``COMMIT_EVERY_S`` ago."""
        if self._has_uncommitted and now_s >= self._commit_due_s:
            self.commit()
            self._commit_due_s = now_s + COMMIT_EVERY_S

    def commit_assignment(self) -> list[str]:
        """Commit the start positions after the assigned partitions changed, and return a line that names them.

        Without this commit, a member that crashes before its first message would lose what arrives until it restarts.
        The list is empty if nothing changed, or if positions are not known yet: the next call tries again.
        """
        if not self._assignment_changed:
            return []
        try:
            partitions = sorted(self.consumer.assignment())
            if any(self.consumer.position(partition, timeout_ms=0) is None for partition in partitions):
                return []
        except KafkaError:
            return []
        if not self._commit_positions():
            return []
        self._assignment_changed = False
        if not partitions:
            return ["no partitions assigned: other members of the group have them all"]
        return [f"assigned partitions {', '.join(str(partition.partition) for partition in partitions)}"]

    def close(self) -> None:
        """Leave the group without a commit."""
        self._closing = True
        with suppress(KafkaError):
            self.consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)

    def _commit_positions(self) -> bool:
        try:
            self.consumer.commit(timeout_ms=BROKER_TIMEOUT_MS)
        except KafkaError:
            return False
        return True

    # kafka-python calls the following methods during poll(), so everything from earlier polls is processed by then.
    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Commit before other members get these partitions."""
        if revoked and not self._closing:
            with suppress(KafkaError):
                await self.consumer.commit_async()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Seek to the beginning of partitions that this member gets for the first time, if it was asked to."""
        new = assigned - self._ever_assigned
        if self._from_beginning and new:
            self.consumer.seek_to_beginning(*new)
        self._ever_assigned |= new
        self._assignment_changed = True

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        """Commit nothing: other members have these partitions already."""
