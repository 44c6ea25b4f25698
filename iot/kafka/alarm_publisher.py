"""Send changes of alarms from where they wait to the topic of alarms, in order, each at least once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from iot.kafka.sender import Record, Sender, make_sender
from iot.owner import LeaseLost
from iot.settings import ALARMS_TOPIC, Kafka, UserError, reason

# How often to look for changes.
POLL_S = 0.25
# How long to wait before the next attempt after an error.
RETRY_S = 1.0
# How long changes may still be sent after a stop. What is left is sent after the next start.
STOP_S = 2.0


class Waiting(Protocol):
    """A change that waits; ``body`` is None once the alarm is forgotten."""

    @property
    def number(self) -> int: ...
    @property
    def alarm_id(self) -> str: ...
    @property
    def body(self) -> bytes | None: ...


class AlarmPublisher:
    """A thread that sends changes, and deletes those that Kafka has acknowledged.

    During an outage of Kafka or of the database it waits. ``outage`` says why nothing can be sent now; None while it
    can.
    """

    def __init__(
        self,
        kafka: Kafka,
        changes: Callable[[], Sequence[Waiting]],
        delete: Callable[[int], None],
        topic: str = ALARMS_TOPIC,
    ) -> None:
        """
        Args:
            changes: returns the oldest changes that wait. It may raise ``UserError``.
            delete: deletes the changes up to a number. It may raise ``UserError``.
        """
        self._kafka, self._topic = kafka, topic
        self._changes, self._delete = changes, delete
        self._stop = threading.Event()
        self._give_up_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="alarm-publisher", daemon=True)
        self._sender: Sender | None = None
        # The last change that Kafka has acknowledged, and that must be deleted.
        self._acknowledged: int | None = None
        self.outage: str | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Send what waits, for at most ``STOP_S``, and end the thread."""
        self._give_up_s = time.monotonic() + STOP_S
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S + 5)

    def _run(self) -> None:
        try:
            while time.monotonic() < self._give_up_s:
                is_last = self._stop.is_set()
                try:
                    sent = self._send_some()
                    self.outage = None
                except LeaseLost:
                    # The changes belong to another process now.
                    return
                except Exception as error:
                    # Also an error of this program must not end the thread: changes would wait for ever, unnoticed.
                    self.outage = reason(error)
                    self._disconnect()
                    if self._stop.wait(RETRY_S):
                        return
                    continue
                if not sent:
                    if is_last:
                        return
                    self._stop.wait(POLL_S)
        finally:
            self._disconnect()

    def _send_some(self) -> bool:
        """Send the oldest changes; returns False if there are none, or if it is time to stop.

        Raises:
            UserError: Kafka or the database does not take part.
        """
        if self._acknowledged is not None:
            self._delete(self._acknowledged)
            self._acknowledged = None
        changes = self._changes()
        if not changes:
            return False
        if self._sender is None:
            self._sender = make_sender("confluent-kafka", self._kafka, self._topic)
        # A record without a value tells Kafka to forget the key.
        records = [cast(Record, {"key": one.alarm_id.encode(), "value": one.body}) for one in changes]
        self._sender.send(records, threading.Event())
        while self._sender.flush(POLL_S):
            if time.monotonic() > self._give_up_s:
                return False
            if self._sender.failed:
                break
        if self._sender.failed:
            raise UserError(f"cannot send to {self._topic}: {self._sender.last_error}")
        self._acknowledged = changes[-1].number
        return True

    def _disconnect(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None
