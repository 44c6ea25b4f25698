"""The feed of alerts against a real broker: where it begins, what it hands on, and what stops it not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager

import msgspec
import pytest

from iot.alerts import Delivered, encode
from iot.broker.broker import Broker
from iot.kafka.alert_feed import AlertFeed
from iot.kafka.sender import make_sender
from iot.kafka.topics import ensure_topics
from tests.support.results import an_alert

pytestmark = pytest.mark.integration

SOURCE = "readings-1"


def send(broker: Broker, topic: str, *values: bytes) -> None:
    sender = make_sender("confluent-kafka", broker.kafka, topic)
    sender.send([{"key": b"s", "value": value} for value in values], threading.Event())
    assert sender.flush(30) == 0
    sender.close()


@contextmanager
def feed(broker: Broker, topic: str, offsets: dict[int, int] | None, on_alerts: Callable | None = None):  # type: ignore[type-arg]
    """The ids of the alerts that a feed has handed on, and the feed."""
    ids: list[str] = []

    def keep(delivered: list[Delivered], _: object) -> None:
        ids.extend(one.alert.alert_id for one in delivered)

    followed = AlertFeed(broker.kafka, SOURCE, on_alerts or keep, topic)
    followed.start(offsets)
    try:
        yield ids, followed
    finally:
        followed.close()


def test_only_alerts_about_the_source_get_further(broker, topic, eventually):
    good = [an_alert(0, alert_id=f"{SOURCE}-0-7"), an_alert(0, alert_id=f"{SOURCE}-12-123456789")]
    send(
        broker,
        topic,
        encode(good[0]),
        b"",
        b"\xff{",
        b"[" * 200_000,
        b'{"more":' * 100_000,
        b'{"alert_id":"readings-1-0-8"}',
        msgspec.json.encode(msgspec.structs.asdict(good[0]) | {"value": None}),
        encode(an_alert(0, alert_id="readings-0-1")),
        encode(an_alert(0, alert_id=f"other-{SOURCE}-0-1")),
        encode(an_alert(0, alert_id=f"{SOURCE}-0-1\n\nevent: metrics")),
        encode(an_alert(0, alert_id=f"{SOURCE}-0-")),
        encode(an_alert(0, alert_id=f"{SOURCE}-0-٣")),
        encode(good[1]),
    )
    with feed(broker, topic, {}) as (ids, followed):
        eventually(lambda: len(ids) >= 2)
        assert ids == [alert.alert_id for alert in good]
        assert followed.failure is None


def test_it_begins_at_the_end_or_where_it_is_told(broker, topic, eventually):
    send(broker, topic, *(encode(an_alert(0, alert_id=f"{SOURCE}-0-{number}")) for number in range(3)))
    with feed(broker, topic, None) as (from_end, _), feed(broker, topic, {}) as (from_beginning, _):
        eventually(lambda: len(from_beginning) == 3)

        def a_new_one_has_come() -> bool:
            send(broker, topic, encode(an_alert(0, alert_id=f"{SOURCE}-0-3")))
            return bool(from_end)

        eventually(a_new_one_has_come)
        assert set(from_end) == {f"{SOURCE}-0-3"}


def test_a_topic_that_is_not_there_is_waited_for(broker, eventually):
    with feed(broker, "not-yet", None) as (ids, followed):
        eventually(lambda: followed.away is not None)
        assert "not-yet" in followed.away
        ensure_topics(broker.kafka, ["not-yet"])
        eventually(lambda: followed.away is None)

        def one_has_come() -> bool:
            send(broker, "not-yet", encode(an_alert(0, alert_id=f"{SOURCE}-0-1")))
            return bool(ids)

        eventually(one_has_come)


def test_what_cannot_be_handed_on_ends_it(broker, topic, eventually):
    send(broker, topic, encode(an_alert(0, alert_id=f"{SOURCE}-0-1")))

    def fails(*_: object) -> None:
        raise OSError("no room")

    with feed(broker, topic, {}, fails) as (_, followed):
        eventually(lambda: followed.failure is not None)
        assert str(followed.failure) == "no room"


def test_alerts_gather_where_each_call_costs(broker, topic, eventually):
    calls: list[list[str]] = []

    def keep(delivered: list[Delivered], _: object) -> None:
        calls.append([one.alert.alert_id for one in delivered])

    followed = AlertFeed(broker.kafka, SOURCE, keep, topic, gather_s=3600)
    send(broker, topic, encode(an_alert(0, alert_id=f"{SOURCE}-0-0")))
    followed.start({})
    try:
        eventually(lambda: calls == [[f"{SOURCE}-0-0"]])
        send(broker, topic, encode(an_alert(0, alert_id=f"{SOURCE}-0-1")))
    finally:
        followed.close()
    assert not followed._thread.is_alive()
    assert len(calls) == 1
