"""The alert feed against a real broker: where it starts, what it delivers, and which errors end it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager

import msgspec

from iot.alerts import Delivered, encode
from iot.broker.broker import Broker
from iot.kafka.alert_feed import AlertFeed
from iot.kafka.sender import make_sender
from iot.kafka.topics import ensure_topics
from tests.support.results import an_alert

SOURCE = "readings-1"


def send(broker: Broker, topic: str, *values: bytes) -> None:
    sender = make_sender("confluent-kafka", broker.kafka, topic)
    sender.send([{"key": b"s", "value": value} for value in values], threading.Event())
    assert sender.flush(30) == 0
    sender.close()


@contextmanager
def feed(broker: Broker, topic: str, offsets: dict[int, int] | None, on_alerts: Callable | None = None):  # type: ignore[type-arg]
    """Start a feed; gives the ids of the alerts it has delivered so far, and the feed."""
    ids: list[str] = []

    def keep(delivered: list[Delivered], _: object) -> None:
        ids.extend(one.alert.alert_id for one in delivered)

    followed = AlertFeed(broker.kafka, SOURCE, on_alerts or keep, topic)
    followed.start(offsets)
    try:
        yield ids, followed
    finally:
        followed.close()


def test_only_alerts_about_the_source_topic_are_delivered(broker, topic, eventually):
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
        encode(an_alert(0, alert_id=f"{SOURCE}-0-8", location="here")).replace(b"here", b"\xff"),
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


def test_it_starts_at_the_end_or_at_the_given_offsets(broker, topic, eventually):
    send(broker, topic, *(encode(an_alert(0, alert_id=f"{SOURCE}-0-{number}")) for number in range(3)))
    with feed(broker, topic, None) as (from_end, _), feed(broker, topic, {}) as (from_beginning, _):
        eventually(lambda: len(from_beginning) == 3)

        def a_new_one_arrives() -> bool:
            send(broker, topic, encode(an_alert(0, alert_id=f"{SOURCE}-0-3")))
            return bool(from_end)

        eventually(a_new_one_arrives)
        assert set(from_end) == {f"{SOURCE}-0-3"}


def test_it_waits_for_a_missing_topic(broker, eventually):
    with feed(broker, "not-yet", None) as (ids, followed):
        eventually(lambda: followed.outage is not None)
        assert "not-yet" in followed.outage
        ensure_topics(broker.kafka, ["not-yet"])
        eventually(lambda: followed.outage is None)

        def one_arrives() -> bool:
            send(broker, "not-yet", encode(an_alert(0, alert_id=f"{SOURCE}-0-1")))
            return bool(ids)

        eventually(one_arrives)


def test_an_error_of_the_receiver_ends_it(broker, topic, eventually):
    send(broker, topic, encode(an_alert(0, alert_id=f"{SOURCE}-0-1")))

    def fails(*_: object) -> None:
        raise OSError("no room")

    with feed(broker, topic, {}, fails) as (_, followed):
        eventually(lambda: followed.failure is not None)
        assert str(followed.failure) == "no room"


def test_alerts_are_collected_between_two_calls(broker, topic, eventually):
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
