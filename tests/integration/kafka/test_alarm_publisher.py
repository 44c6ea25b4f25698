"""Changes of alarms reach their topic in order, through outages, and are deleted only then."""

from __future__ import annotations

import threading
from typing import NamedTuple

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.kafka import alarm_publisher
from iot.kafka.alarm_publisher import AlarmPublisher
from iot.kafka.topics import ensure_topics
from iot.owner import LeaseLost
from iot.settings import ALARMS_TOPIC, Kafka, UserError
from tests.support.topics import read_back


class Change(NamedTuple):
    number: int
    alarm_id: str
    body: bytes | None


class Outbox:
    """Changes in memory; ``error`` is raised by every call."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: list[Change] = []
        self.count = 0
        self.error: Exception | None = None
        self.deleting_fails = False

    def add(self, *bodies: tuple[str, bytes | None]) -> None:
        with self.lock:
            for body in bodies:
                self.count += 1
                self.waiting.append(Change(self.count, *body))

    def changes(self) -> list[Change]:
        with self.lock:
            if self.error:
                raise self.error
            return self.waiting[:3]

    def delete(self, until: int) -> None:
        with self.lock:
            if self.error or self.deleting_fails:
                raise self.error or UserError("locked")
            self.waiting = [change for change in self.waiting if change.number > until]


def in_topic(kafka: Kafka, topic: str) -> dict[bytes, list[bytes | None]]:
    """The values of each key, in order."""
    found: dict[bytes, list[bytes | None]] = {}
    for records in read_back(kafka.bootstrap_servers, topic).values():
        for key, value in records:
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


def test_changes_arrive_in_order_and_forgotten_alarms_without_a_value(broker, topic, outbox, eventually):
    outbox.add(*(("a", str(number).encode()) for number in range(20)), ("ä", b"x"), ("ä", None))
    publisher = AlarmPublisher(broker.kafka, outbox.changes, outbox.delete, topic)
    publisher.start()
    eventually(lambda: not outbox.waiting)
    outbox.add(("a", None))
    eventually(lambda: not outbox.waiting)
    assert publisher.outage is None
    outbox.add(("a", b"last"))
    # What waits is sent before the end.
    publisher.close()
    assert in_topic(broker.kafka, topic) == {
        b"a": [*(str(number).encode() for number in range(20)), None, b"last"],
        "ä".encode(): [b"x", None],
    }


def test_nothing_is_sent_twice_while_the_database_is_locked(broker, topic, outbox, eventually, monkeypatch):
    monkeypatch.setattr(alarm_publisher, "RETRY_S", 0.05)
    outbox.deleting_fails = True
    outbox.add(("a", b"1"), ("a", b"2"))
    publisher = AlarmPublisher(broker.kafka, outbox.changes, outbox.delete, topic)
    publisher.start()
    eventually(lambda: publisher.outage == "locked")
    outbox.add(("a", b"3"))
    outbox.deleting_fails = False
    eventually(lambda: not outbox.waiting)
    eventually(lambda: publisher.outage is None)
    publisher.close()
    assert in_topic(broker.kafka, topic) == {b"a": [b"1", b"2", b"3"]}


def test_an_unexpected_error_is_said_and_ends_nothing(broker, topic, outbox, eventually):
    publisher = AlarmPublisher(broker.kafka, outbox.changes, outbox.delete, topic)
    outbox.error = RuntimeError("odd")
    outbox.add(("a", b"1"))
    publisher.start()
    eventually(lambda: publisher.outage == "odd")
    outbox.error = None
    eventually(lambda: not outbox.waiting)
    assert publisher.outage is None
    publisher.close()


def test_another_owner_of_the_database_ends_it(broker, topic, outbox, eventually):
    publisher = AlarmPublisher(broker.kafka, outbox.changes, outbox.delete, topic)
    outbox.error = LeaseLost("taken over")
    publisher.start()
    eventually(lambda: not publisher._thread.is_alive())


def test_it_waits_for_kafka_and_stops_also_during_an_outage(outbox, eventually, tmp_path):
    port = find_free_port()
    kafka = Kafka(f"localhost:{port}")
    outbox.add(("a", b"1"))
    publisher = AlarmPublisher(kafka, outbox.changes, outbox.delete)
    publisher.start()
    eventually(lambda: publisher.outage)
    with Broker(port, tmp_path / "broker") as broker:
        ensure_topics(broker.kafka)
        eventually(lambda: not outbox.waiting, 60)
        eventually(lambda: publisher.outage is None)
        broker.stop()
        outbox.add(("a", b"2"))
        publisher.close()
        assert not publisher._thread.is_alive()
        assert len(outbox.waiting) == 1
        broker.start()
        # The next run sends what was left.
        publisher = AlarmPublisher(kafka, outbox.changes, outbox.delete)
        publisher.start()
        eventually(lambda: not outbox.waiting, 60)
        publisher.close()
        assert in_topic(kafka, ALARMS_TOPIC)[b"a"] == [b"1", b"2"]
