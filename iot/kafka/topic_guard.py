"""Detect that a topic was deleted and made again: the new topic has the same name, but not the same data."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from kafka.errors import KafkaError

from iot.batches import Identity
from iot.kafka.topics import make_admin, why
from iot.settings import Kafka, UserError


class TopicReplaced(UserError):  # noqa: N818  # a state, not only an error
    """The topic was deleted and made again, so its messages have nothing to do with those read before."""


class TopicGuard:
    """Checks the id of a topic, always over the same connection. Threads may share it."""

    def __init__(self, kafka: Kafka, identity: Identity, fix: str) -> None:
        """
        Args:
            identity: the topic that results are about.
            fix: the command to run if the topic was replaced; it ends the error message.
        """
        self._kafka = kafka
        self._identity = identity
        self._fix = fix
        self._lock = threading.Lock()
        self._admin: Any = None

    def require_same(self) -> None:
        """Return if the topic is still the same; then everything read before this call is of that topic too.

        Raises:
            TopicReplaced: another topic has the name now.
            UserError: the topic does not exist, or Kafka does not answer.
        """
        topic, address = self._identity.topic, self._kafka.bootstrap_servers
        with self._lock:
            try:
                self._admin = self._admin or make_admin(self._kafka)
                described = self._admin.describe_topics([topic])[0]
            except KafkaError as error:
                self._disconnect()
                raise UserError(f"Kafka at {address} does not answer ({why(self._kafka, error)})") from error
        if described["error_code"]:
            raise UserError(f"Kafka at {address} has no topic {topic} any more")
        if str(described["topic_id"]) != self._identity.topic_id:
            raise TopicReplaced(f"the topic {topic} was deleted and made again while it was read; {self._fix}")

    def require_not_replaced(self) -> None:
        """Return unless another topic has the name now. No answer is no error: nothing new can have been read.

        Raises:
            TopicReplaced: another topic has the name now.
        """
        try:
            self.require_same()
        except TopicReplaced:
            raise
        except UserError:
            return

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._admin:
            with suppress(KafkaError):
                self._admin.close()
        self._admin = None
