"""Event streams over socket pairs: what clients receive, and how slow clients are handled."""

from __future__ import annotations

import socket
from typing import Any

import msgspec
import pytest

from iot.alarms.model import Alarm
from iot.alerts import Alert, Delivered, encode
from iot.web import events
from iot.web.events import EventStreams
from tests.support.stored_alarms import an_alarm


class Client:
    """The other end of a stream."""

    def __init__(self, streams: EventStreams, last_event_id: str = "") -> None:
        theirs, self.sock = socket.socketpair()
        self.sock.settimeout(10)
        self.received = b""
        streams.add(theirs, last_event_id)

    def events(self, count: int) -> list[bytes]:
        """The next ``count`` events, without the empty line after each."""
        while self.received.count(b"\n\n") < count:
            part = self.sock.recv(1 << 16)
            assert part, f"closed after {self.received[-200:]!r}"
            self.received += part
        *events, self.received = self.received.split(b"\n\n", count)
        return events

    def is_closed(self) -> bool:
        """Read what has arrived, and return whether the stream has ended."""
        try:
            while part := self.sock.recv(1 << 16):
                self.received += part
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


@pytest.fixture
def streams(clock):
    streams = EventStreams(clock)
    streams.start()
    yield streams
    streams.close()


def delivered(number: int, value: float = 31.0, text: str = "building_a") -> Delivered:
    alert = Alert(
        f"iot-sensors-0-{number}", "HIGH_TEMPERATURE", "s", "temperature", text, value, "celsius", 30.0,
        "2026-11-24T02:15:07.123456+00:00",
    )  # fmt: skip
    return Delivered(alert, 1)


def event(one: Delivered) -> bytes:
    return b"event: alert\nid: %b\ndata: %b" % (one.alert.alert_id.encode(), encode(one.alert))


def change(number: int, **fields: Any) -> tuple[str, Alarm]:
    """A changed alarm as the topic of alarms has it at this offset."""
    return f"iot-alarms-0-{number}", an_alarm(1, **fields)


def alarm_event(one: tuple[str, Alarm]) -> bytes:
    return b"event: alarm\nid: %b\ndata: %b" % (one[0].encode(), msgspec.json.encode(one[1]))


def test_figures_come_first_and_then_alerts_as_they_happen(streams):
    streams.publish_metrics(b'{"total":1}')
    client = Client(streams)
    assert client.events(2) == [b"retry: 2000", b'event: metrics\ndata: {"total":1}']
    streams.publish_alerts([delivered(1), delivered(2)])
    assert client.events(2) == [event(delivered(1)), event(delivered(2))]


def test_line_breaks_in_an_alert_make_no_new_event(streams):
    client = Client(streams)
    hostile = delivered(1, text="a\n\nevent: metrics\ndata: {}\r\n\r\n")
    streams.publish_alerts([hostile, delivered(2)])
    assert client.events(3)[1:] == [event(hostile), event(delivered(2))]
    assert b"\r" not in event(hostile)


def test_a_repeated_delivery_is_pushed_once_and_a_new_topic_is_not_a_repeat(streams):
    client = Client(streams)
    streams.publish_alerts([delivered(1)])
    streams.publish_alerts([delivered(1), delivered(2)])
    # The topic was deleted and created again, so its offsets begin again.
    streams.publish_alerts([delivered(1, value=99.0)])
    assert client.events(4)[1:] == [event(delivered(1)), event(delivered(2)), event(delivered(1, value=99.0))]


def test_a_stream_that_reconnects_gets_the_alerts_it_missed(streams):
    streams.publish_alerts([delivered(number) for number in range(5)])
    assert Client(streams, "iot-sensors-0-2").events(3)[1:] == [event(delivered(3)), event(delivered(4))]
    stranger = Client(streams, "of another server")
    streams.publish_alerts([delivered(5)])
    assert stranger.events(2)[1] == event(delivered(5))


def test_each_change_of_an_alarm_is_pushed_in_order_and_a_repeated_one_once(streams):
    client = Client(streams)
    changes = [change(1), change(2, peak=35.0), change(3, state="resolved", location="a\n\nevent: metrics")]
    streams.publish_alarms(changes[:2])
    streams.publish_alarms(changes)
    assert client.events(4)[1:] == [alarm_event(one) for one in changes]


def test_a_stream_that_reconnects_gets_alerts_and_alarms_in_the_order_of_their_events(streams):
    streams.publish_alerts([delivered(1)])
    streams.publish_alarms([change(1)])
    streams.publish_alerts([delivered(2)])
    streams.publish_alarms([change(2, peak=35.0)])
    after_alert = Client(streams, "iot-sensors-0-1").events(4)[1:]
    assert after_alert == [alarm_event(change(1)), event(delivered(2)), alarm_event(change(2, peak=35.0))]
    assert Client(streams, "iot-alarms-0-1").events(3)[1:] == after_alert[1:]
    streams.publish_alerts([delivered(3)])
    assert Client(streams, "iot-alarms-0-2").events(2)[1:] == [event(delivered(3))]


def test_many_alerts_do_not_push_out_the_alarms_and_the_memory_is_bounded(streams, monkeypatch):
    monkeypatch.setattr(events, "RECENT", 3)
    streams.publish_alarms([change(number, peak=float(number)) for number in range(4)])
    streams.publish_alerts([delivered(number) for number in range(100)])
    # The first change is forgotten, so nothing is known to be missed.
    assert Client(streams, "iot-alarms-0-0").events(1) == [b"retry: 2000"]
    received = Client(streams, "iot-alarms-0-1").events(6)[1:]
    assert received[:2] == [alarm_event(change(number, peak=float(number))) for number in (2, 3)]
    assert received[2:] == [event(delivered(number)) for number in (97, 98, 99)]


def test_figures_come_at_most_twice_a_second_and_only_the_newest(streams, clock):
    client = Client(streams)
    streams.publish_metrics(b"1")
    assert client.events(2)[1] == b"event: metrics\ndata: 1"
    streams.publish_metrics(b"2")
    clock.now_s += 0.4
    streams.publish_metrics(b"3")
    # The alert overtakes the figures, which are not due yet.
    streams.publish_alerts([delivered(1)])
    assert client.events(1) == [event(delivered(1))]
    clock.now_s += 0.2
    streams.publish_alerts([delivered(2)])
    assert client.events(2) == [event(delivered(2)), b"event: metrics\ndata: 3"]
    clock.now_s += 10
    streams.publish_metrics(b"3")
    streams.publish_alerts([delivered(3)])
    assert client.events(1) == [event(delivered(3))], "the same figures are no news"


def test_a_silent_stream_has_a_heartbeat(streams, clock):
    client = Client(streams)
    client.events(1)
    clock.now_s += events.HEARTBEAT_S
    streams.publish_alerts([delivered(1)])
    assert client.events(2) == [event(delivered(1)), b":"]


def test_a_client_that_does_not_read_is_closed_and_delays_no_other(streams, clock, eventually):
    deaf, client = Client(streams), Client(streams)
    client.events(1)
    large = [delivered(number, text="x" * 10_000) for number in range(500)]
    for one in large:
        streams.publish_alerts([one])
        # Read each event as it comes, so that only the other stream piles up.
        assert client.events(1) == [event(one)]
    eventually(lambda: streams.open == 1)
    deaf.sock.settimeout(10)
    assert deaf.is_closed()
    assert len(deaf.received) < 2 * events.MAX_WAITING_BYTES


def test_a_client_that_stops_reading_is_closed_after_a_while(streams, clock, eventually):
    stopped = Client(streams)
    streams.publish_alerts([delivered(1, text="x" * 900_000)])

    def is_closed_later() -> bool:
        clock.now_s += events.STUCK_S + 1
        streams.publish_metrics(b"")
        return bool(streams.open == 0)

    eventually(lambda: streams.open == 1)
    eventually(is_closed_later)
    assert stopped.is_closed()


def test_a_slow_client_gets_the_newest_figures_once_it_reads_again(streams, clock):
    slow = Client(streams)
    large = delivered(1, text="x" * 900_000)
    streams.publish_alerts([large])
    for number in range(5):
        clock.now_s += 1
        streams.publish_metrics(b"%d" % number)
    # Once this client has the newest figures, all were published.
    other = Client(streams)
    assert other.events(2)[1] == b"event: metrics\ndata: 4"
    assert slow.events(3)[1:] == [event(large), b"event: metrics\ndata: 4"]


def test_a_client_that_disconnects_is_noticed_without_sending(streams, eventually):
    client = Client(streams)
    eventually(lambda: streams.open == 1)
    client.sock.close()
    eventually(lambda: streams.open == 0)


def test_close_ends_every_stream(clock):
    streams = EventStreams(clock)
    streams.start()
    clients = [Client(streams) for _ in range(3)]
    for client in clients:
        client.events(1)
    streams.close()
    assert all(client.is_closed() for client in clients)
