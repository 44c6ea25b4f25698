"""Whether a topic that is read is still the one that results are about: made anew, it shares only the name."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from kafka.errors import KafkaError

from iot.batches import Identity
from iot.kafka.topics import make_admin, say
from iot.settings import Kafka, UserError


class TopicReplaced(UserError):  # noqa: N818  # it stays so
    """The topic was deleted and made again: what is read of it now has nothing to do with what was read before."""


class TopicGuard:
    """Asks Kafka for the id of a topic, always on the same connection; threads may share it."""

    def __init__(self, kafka: Kafka, identity: Identity, cure: str) -> None:
        """
        Args:
            identity: the topic as it has to be.
            cure: a command, for when it is another.
        """
        self._kafka = kafka
        self._identity = identity
        self._cure = cure
        self._lock = threading.Lock()
        self._admin: Any = None

    def require_same(self) -> None:
        """Return if the topic is the same as ever; what was read of it before this was asked is of that topic too.

        Raises:
            TopicReplaced: it is another of the same name.
            UserError: there is no such topic now, or Kafka does not answer.
        """
        topic, where = self._identity.topic, self._kafka.bootstrap_servers
        with self._lock:
            try:
                self._admin = self._admin or make_admin(self._kafka)
                told = self._admin.describe_topics([topic])[0]
            except KafkaError as error:
                self._disconnect()
                raise UserError(f"Kafka at {where} does not answer ({say(error)})") from error
        if told["error_code"]:
            raise UserError(f"Kafka at {where} has no topic {topic} any more")
        if str(told["topic_id"]) != self._identity.topic_id:
            raise TopicReplaced(f"the topic {topic} was deleted and made again while it was read; {self._cure}")

    def require_unless_away(self) -> None:
        """Raises ``TopicReplaced`` as ``require_same``; where Kafka has no answer nothing new can have been read."""
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
