"""The short way of usual requests, over real sockets: its answers are those of the application."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from iot.broker.broker import find_free_port
from iot.gateway import direct
from iot.gateway.app import Services, create_app
from iot.gateway.arriving import GatewayServer
from iot.gateway.direct import MAX_DIRECT_BYTES, Direct, parse
from iot.gateway.intake import Intake
from iot.gateway.tokens import Clients, Tokens
from iot.gateway.writer import Full, Unavailable
from iot.gateway.writes import Write
from iot.web.listening import listen
from tests.support.gateway import PATH, head, reading, slow_client
from tests.support.gateway_writer import FakeWriter
from tests.support.waiting import wait_for

BODY = json.dumps([reading("a", 1), reading("a", 2)]).encode()
TELEMETRY = "/api/v1/d1/telemetry"


class SlowWriter(FakeWriter):
    """Kafka acknowledges when ``release`` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged = None
        self.writes: list[Write] = []

    def write(self, messages, refusals=()):
        self.writes.append(super().write(messages, refusals))
        return self.writes[-1]

    def release(self, acknowledged=True):
        for write in self.writes:
            write.end_part(acknowledged)
        self.writes.clear()


class Counting(Direct):
    """Notes which requests it served."""

    def __init__(self, *args):
        super().__init__(*args)
        self.served: list[bool] = []

    def serve(self, connection, data, head_end):
        self.served.append(super().serve(connection, data, head_end))
        return self.served[-1]


@contextmanager
def serving(writer, clients=None, way=Counting):
    """A server with a writer; yields its port and the short way."""
    services = Services(Intake(lambda text: None), writer, clients or Clients())
    port = find_free_port()
    direct = way(services) if way else None
    server = GatewayServer(listen("127.0.0.1", port), create_app(services), direct)
    server.start()
    try:
        yield port, direct
    finally:
        server.stop()


def ask(port, path=PATH, body=BODY, **headers):
    """Send a request; returns what matters of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    told = {name: value for name, value in answer.getheaders() if name not in ("Date", "Server")}
    content = json.loads(answer.read())
    connection.close()
    return answer.status, told, content


@pytest.mark.parametrize(
    ("clients", "requests"),
    [
        (
            Clients(),
            [
                (PATH, {}, True),
                (PATH, {"Connection": "keep-alive", "Content_Type": "text/plain"}, True),
                (TELEMETRY, {}, True),
                # What the application must look at.
                (PATH, {"Origin": "http://evil.example"}, False),
                (PATH, {"Sec_Fetch_Site": "cross-site"}, False),
                (PATH, {"Host": "evil.example"}, False),
                (PATH, {"Content_Encoding": "gzip"}, False),
                (PATH, {"Connection": "close"}, False),
                ("/api/v1/unknown", {}, False),
                (PATH + "?a=b", {}, False),
                ("/api/v1/d%31/telemetry", {}, False),
            ],
        ),
        (
            Clients("sesame"),
            [
                (PATH, {"Authorization": "Bearer sesame"}, True),
                (TELEMETRY, {"Authorization": "bearer sesame"}, True),
                (PATH, {"Authorization": "Bearer wrong"}, False),
                (PATH, {}, False),
                (TELEMETRY, {}, False),
            ],
        ),
        (
            Clients(None, Tokens({"d1": "roof"})),
            [
                (TELEMETRY, {}, True),
                (PATH, {"Authorization": "Bearer d1"}, True),
                (PATH, {"Authorization": "Bearer d2"}, False),
                ("/api/v1/d2/telemetry", {}, False),
            ],
        ),
    ],
)
def test_both_ways_give_the_same_answers(clients, requests):
    writers = FakeWriter(), FakeWriter()
    with serving(writers[0], clients) as (port, short), serving(writers[1], clients, None) as (other, _):
        for path, headers, is_direct in requests:
            for body in (BODY, BODY, b'{"temperature": 21.5}', b"garbage", b"[]"):
                short.served.clear()
                assert ask(port, path, body, **headers) == ask(other, path, body, **headers)
                wait_for(lambda: short.served)
                assert short.served == [is_direct and body == BODY], (path, headers, body)
    assert [each.sensor_id for each in writers[0].written] == [each.sensor_id for each in writers[1].written]
    assert writers[0].refused == writers[1].refused


@pytest.mark.parametrize(("error", "status"), [(Full(), 429), (Unavailable("no Kafka"), 503)])
def test_both_ways_refuse_what_cannot_be_written_now(error, status):
    writer = FakeWriter()
    writer.error = error
    with serving(writer) as (port, _), serving(writer, way=None) as (other, _):
        assert ask(port) == ask(other)
        assert ask(port)[0] == status


def test_nothing_is_confirmed_that_kafka_has_not_acknowledged():
    writer = SlowWriter()
    with serving(writer) as (port, _):
        client = slow_client(port, head(len(BODY)) + BODY)
        wait_for(lambda: writer.writes)
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        writer.release()
        client.settimeout(30)
        assert client.recv(12) == b"HTTP/1.1 200"


def test_a_failure_of_kafka_is_said():
    writer = SlowWriter()
    with serving(writer) as (port, _):
        client = slow_client(port, head(len(BODY)) + BODY)
        wait_for(lambda: writer.writes)
        writer.release(False)
        assert b"503 Service Unavailable" in client.recv(1 << 16)


def test_a_request_waits_only_so_long(monkeypatch):
    monkeypatch.setattr(direct, "ACKNOWLEDGED_S", 0.2)
    writer = SlowWriter()
    with serving(writer) as (port, _):
        status, headers, content = ask(port)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "send them again" in content["error"]
        # What comes later is not answered twice.
        writer.release()
        writer.acknowledged = True
        assert ask(port)[2]["repeated"] == 2


def test_the_order_of_a_device_is_kept_and_its_connection_serves_on():
    writer = FakeWriter()
    with serving(writer) as (port, short):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for number in range(50):
            # One in five needs the application.
            path = PATH if number % 5 else f"{PATH}?a=b"
            connection.request("POST", path, json.dumps(reading("a", number)))
            assert json.loads(connection.getresponse().read())["written"] == 1
        connection.close()
        wait_for(lambda: len(short.served) == 50)
        assert short.served.count(True) == 40
    assert [each.sequence for each in writer.written] == list(range(50))


def test_requests_that_arrive_together_or_in_pieces_are_served_in_order():
    writer = FakeWriter()

    def data_of(sensor: str) -> bytes:
        bodies = [json.dumps(reading(sensor, number)).encode() for number in range(4)]
        return b"".join(head(len(body)) + body for body in bodies)

    with serving(writer) as (port, _):
        together = slow_client(port, data_of("a"))
        wait_for(lambda: len(writer.written) == 4)
        in_pieces = slow_client(port, b"")
        data = data_of("b")
        for at in range(0, len(data), 11):
            in_pieces.sendall(data[at : at + 11])
            time.sleep(0.001)
        wait_for(lambda: len(writer.written) == 8)
        together.close()
        in_pieces.close()
    assert [each.sequence for each in writer.written] == [0, 1, 2, 3] * 2


def test_large_bodies_leave_the_short_way_free():
    writer = FakeWriter()
    body = b"[" + b",".join([json.dumps(reading("a", number)).encode() for number in range(1_000)]) + b"]"
    assert len(body) > MAX_DIRECT_BYTES
    with serving(writer) as (port, short):
        assert ask(port, body=body)[2]["written"] == 1_000
        assert short.served == [False]


def test_a_large_head_needs_the_application():
    with serving(FakeWriter()) as (port, short):
        status, _, content = ask(port, filler="x" * 20_000)
        assert status in (413, 431)
        assert content["error"]
        assert True not in short.served


def test_an_error_of_the_gateway_itself_ends_one_connection_only(capsys):
    writer = FakeWriter()
    with serving(writer) as (port, _):
        writer.error = ZeroDivisionError("a bug")
        for pause_s in (0, 0.01):
            client = slow_client(port, head(len(BODY)) + BODY[:10])
            time.sleep(pause_s)
            client.sendall(BODY[10:])
            assert client.recv(1) == b""
        writer.error = None
        assert ask(port)[0] == 200
    assert capsys.readouterr().err.count("error: web server: ZeroDivisionError: a bug\n") == 2


def test_clients_that_have_gone_disturb_nobody():
    writer = SlowWriter()
    with serving(writer) as (port, _):
        for number in range(20):
            body = json.dumps(reading("gone", number)).encode()
            client = slow_client(port, head(len(body)) + body)
            client.shutdown(socket.SHUT_WR)
            client.close()
        wait_for(lambda: len(writer.writes) == 20)
        writer.release()
        writer.acknowledged = True
        assert ask(port)[0] == 200


@pytest.mark.parametrize("is_in_time", [True, False])
def test_a_stop_answers_what_waits(is_in_time):
    writer = SlowWriter()
    with serving(writer) as (port, _):
        client = slow_client(port, head(len(BODY)) + BODY)
        wait_for(lambda: writer.writes)
        if is_in_time:
            threading.Timer(0.2, writer.release).start()
    assert client.recv(12) == (b"HTTP/1.1 200" if is_in_time else b"HTTP/1.1 503")


USUAL = head(2)[:-4]


@pytest.mark.parametrize(
    "wrong",
    [
        USUAL + b"\r\nHost: other",
        USUAL + b"\r\nContent-Length: 3",
        USUAL + b"\r\n folded: line",
        USUAL + b"\r\nno header",
        USUAL + b"\r\nName : space",
        USUAL + b"\r\nNul: a\0b",
        USUAL + b"\r\nLatin: \xe4",
        USUAL + b"\nBare: line feed",
        USUAL + b"\r\nTransfer-Encoding: chunked",
        USUAL.replace(b"HTTP/1.1", b"HTTP/1.0"),
        USUAL.replace(b"Host", b"Most"),
        USUAL.replace(b"POST", b"PUT"),
        b"",
    ],
)
def test_an_unusual_head_needs_the_application(wrong):
    assert parse(USUAL)
    assert parse(wrong) is None
