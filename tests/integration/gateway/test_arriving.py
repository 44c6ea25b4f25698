"""The server over real sockets: clients that are slow, send too much or garbage disturb nobody."""

from __future__ import annotations

import http.client
import json
import time

import pytest

from iot.broker.broker import find_free_port
from iot.gateway import arriving
from iot.gateway.app import MAX_BODY_BYTES
from iot.gateway.arriving import THREADS, GatewayServer, Request
from iot.web.listening import listen
from tests.support.gateway import PATH, head, post, slow_client
from tests.support.waiting import wait_for


class Application:
    """Keeps the bodies that arrive."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, environ, start_response):
        self.bodies.append(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
        return [b"{}"]


@pytest.fixture
def application():
    return Application()


@pytest.fixture
def port(application):
    port = find_free_port()
    server = GatewayServer(listen("127.0.0.1", port), application)
    server.start()
    yield port
    server.stop()


def test_many_slow_clients_delay_nobody(port, application):
    slow = [slow_client(port, head(100) + b"x") for _ in range(2 * THREADS)]
    slow += [slow_client(port, b"POST / HTTP/1.1\r\nHost: loc") for _ in range(2 * THREADS)]
    begun_s = time.monotonic()
    for _ in range(20):
        assert post(port, b"quick")[0] == 200
    assert time.monotonic() - begun_s < 5
    assert application.bodies == [b"quick"] * 20
    # The slow ones are served as soon as they have sent everything.
    slow[0].sendall(b"x" * 99)
    assert slow[0].recv(12) == b"HTTP/1.1 200"
    assert application.bodies[-1] == b"x" * 100
    for client in slow:
        client.close()


def test_a_request_that_never_ends_is_refused(port, application, monkeypatch):
    monkeypatch.setattr(arriving, "ARRIVE_S", 0.2)
    client = slow_client(port, head(100) + b"x")
    answer = client.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"Retry-After" in answer
    assert client.recv(1) == b""
    assert application.bodies == []


def test_one_connection_serves_many_requests(port, application):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in range(5):
        connection.request("POST", PATH, f"body {number}")
        assert connection.getresponse().read() == b"{}"
    assert application.bodies == [f"body {number}".encode() for number in range(5)]


def test_requests_may_arrive_together_or_in_pieces(port, application):
    data = (head(3) + b"one") + (head(3) + b"two")
    together = slow_client(port, data)
    wait_for(lambda: len(application.bodies) == 2)
    in_pieces = slow_client(port, data[:5])
    for at in range(5, len(data), 7):
        in_pieces.sendall(data[at : at + 7])
        time.sleep(0.001)
    wait_for(lambda: len(application.bodies) == 4)
    assert application.bodies == [b"one", b"two"] * 2
    together.close()
    in_pieces.close()


@pytest.mark.parametrize("size", [MAX_BODY_BYTES, MAX_BODY_BYTES + 1])
def test_the_size_of_a_body_is_bounded(port, application, size):
    client = slow_client(port, head(size))
    try:
        client.sendall(b"x" * size)
    except OSError:
        assert size > MAX_BODY_BYTES
    assert client.recv(12) == (b"HTTP/1.1 200" if size <= MAX_BODY_BYTES else b"HTTP/1.1 413")
    assert [len(body) for body in application.bodies] == [size] * (size <= MAX_BODY_BYTES)


def test_a_chunked_body(port, application):
    head_of = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = slow_client(port, head_of + b"4\r\nfour\r\n")
    time.sleep(0.01)
    client.sendall(b"3\r\nand\r\n0\r\n\r\n")
    assert client.recv(12) == b"HTTP/1.1 200"
    assert application.bodies == [b"fourand"]


def test_a_client_that_waits_to_be_asked_for_its_body(port, application):
    client = slow_client(port, head(4, more={"Expect": "100-continue"}))
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.sendall(b"body")
    wait_for(lambda: application.bodies == [b"body"])


@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"x" * 100_000])
def test_garbage_is_refused(port, application, data):
    client = slow_client(port, b"")
    try:
        client.sendall(data)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 4")
    except ConnectionResetError:
        # The answer is lost where the server did not read everything.
        assert len(data) > 10_000
    assert application.bodies == []
    assert post(port, b"quick")[0] == 200


def test_too_many_requests_that_arrive_are_refused(port, monkeypatch):
    monkeypatch.setattr(arriving, "MAX_ARRIVING", 1)
    clients = [slow_client(port, head(10)) for _ in range(5)]
    answers = []
    for client in clients:
        client.settimeout(1)
        try:
            answers.append(client.recv(1 << 16))
        except TimeoutError:
            answers.append(b"")
    assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) >= 3
    assert json.loads(max(answers).split(b"\r\n\r\n")[1])["error"]


@pytest.mark.parametrize(
    ("data", "is_whole"),
    [
        (b"", False),
        (b"POST / HTTP/1.1\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab", False),
        (b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", False),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n", True),
        (b"x" * 20_000, True),
    ],
)
def test_when_a_request_is_whole(data, is_whole):
    assert Request(data, 0).is_whole() == is_whole
