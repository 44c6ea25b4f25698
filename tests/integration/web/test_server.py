"""The HTTP server over real sockets, with a small application."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time

import pytest

from iot.broker.broker import find_free_port
from iot.web import server as server_module
from iot.web.listening import listen
from iot.web.server import HAND_OVER, MAX_BODY_BYTES, THREADS, Server


class Application:
    """Answers /, waits in /wait for ``go_on``, hands /stream over to ``handed``, keeps the ``bodies`` of /body."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.handed: list[socket.socket] = []
        self.bodies: list[bytes] = []

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/stream":
            environ[HAND_OVER](self.handed.append)
            start_response("200 OK", [("Content-Type", "text/event-stream"), ("Connection", "close")])
            return []
        if path == "/wait":
            self.go_on.wait(30)
        if path == "/body":
            body = environ["wsgi.input"].read()
            self.bodies.append(body)
            assert environ["CONTENT_LENGTH"] == str(len(body))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]


@pytest.fixture
def application():
    application = Application()
    yield application
    application.go_on.set()


@pytest.fixture
def server(application):
    server = Server(listen("127.0.0.1", find_free_port()), application)
    server.start()
    yield server
    server.stop()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.bind_addr, 10)


def client(server: Server) -> http.client.HTTPConnection:
    host, port = server.bind_addr
    return http.client.HTTPConnection(host, port, timeout=20)


def get(server: Server, path: str = "/") -> http.client.HTTPResponse:
    connection = client(server)
    connection.request("GET", path)
    return connection.getresponse()


def test_a_connection_is_reused_for_more_requests(server):
    connection = client(server)
    for _ in range(3):
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok")
        assert answer.headers["Server"] == "iot"
        assert connection.sock, "the server closed the connection"
    connection.close()


def test_handing_a_stream_over_frees_its_thread(server, application, eventually):
    streams = [connect(server) for _ in range(THREADS + 5)]
    for stream in streams:
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    eventually(lambda: len(application.handed) == len(streams))
    assert get(server).status == 200
    for handed in application.handed:
        handed.sendall(b"data: 1\n\n")
    for stream in streams:
        received = b""
        while not received.endswith(b"\n\n"):
            received += stream.recv(1000)
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert body == b"data: 1\n\n"
        stream.close()
    for handed in application.handed:
        assert handed.recv(1) == b"", "the new owner of the stream sees that the client closed it"
        handed.close()


def test_silent_connections_delay_no_other(server):
    silent = [connect(server) for _ in range(2 * THREADS)]
    assert get(server).status == 200
    for connection in silent:
        connection.close()


def test_a_request_sent_too_slowly_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(server_module, "HEAD_S", 0.3)
    slow = connect(server)
    slow.sendall(b"GET / HTTP/1.1\r\n")

    def drip() -> None:
        for _ in range(1_000):
            slow.sendall(b"X: y\r\n")
            time.sleep(0.02)

    with pytest.raises(ConnectionError):
        drip()
    assert get(server).status == 200


def post(server: Server, head: bytes, *parts: bytes) -> socket.socket:
    connection = connect(server)
    connection.sendall(b"POST /body HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % head)
    for part in parts:
        connection.sendall(part)
    return connection


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


CHUNKED = b"Transfer-Encoding: chunked\r\n"


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n" % size


@pytest.mark.parametrize(
    ("head", "parts", "body"),
    [
        (length(0), [], b""),
        (length(6), [b"{", b"  }", b"\r\n"], b"{  }\r\n"),
        (length(MAX_BODY_BYTES), [b"x" * MAX_BODY_BYTES], b"x" * MAX_BODY_BYTES),
        (CHUNKED, [b"1\r\n{\r\n", b"2\r\n }\r\n", b"0\r\n\r\n"], b"{ }"),
    ],
)
def test_a_body_is_read_before_the_application_is_called(server, application, head, parts, body):
    connection = post(server, head, *parts)
    assert answer_of(connection) == (200, b"ok")
    assert application.bodies == [body]
    # The connection is good for another request.
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer_of(connection) == (200, b"ok")


@pytest.mark.parametrize(
    ("head", "parts", "status"),
    [
        (length(MAX_BODY_BYTES + 1), [b"x" * (MAX_BODY_BYTES + 1)], 413),
        (length(1 << 40), [b"x" * 300_000], 413),
        (CHUNKED, [b"%x\r\n" % (MAX_BODY_BYTES + 1)], 413),
        (CHUNKED, [b"1\r\nx\r\n" * MAX_BODY_BYTES], 413),
        (CHUNKED, [b"x\r\n"], 400),
        (CHUNKED, [b"1\r\nxyz"], 400),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_the_form_of_the_api(server, application, head, parts, status, capfd):
    found, body = answer_of(post(server, head, *parts))
    assert found == status
    assert json.loads(body).keys() == {"error"}
    assert application.bodies == []
    assert get(server).status == 200
    assert capfd.readouterr().err == ""


def test_slow_bodies_disturb_nobody(server, application, eventually):
    slow = [post(server, length(10), b"x") for _ in range(2 * THREADS)]
    eventually(lambda: not server.bodies._value)
    # Those who only read are served.
    for _ in range(3):
        assert get(server).status == 200
    # Another one who writes is told to try again, and is served once the others have ended.
    assert answer_of(post(server, length(2), b"{}"))[0] == 503
    for connection in slow:
        connection.close()
    eventually(lambda: answer_of(post(server, length(2), b"{}"))[0] == 200)
    assert set(application.bodies) == {b"{}"}


def test_a_body_sent_too_slowly_is_cut_off(server, application, monkeypatch):
    monkeypatch.setattr(server_module, "BODY_S", 0.3)
    slow = post(server, length(1_000))

    def drip() -> None:
        for _ in range(1_000):
            slow.sendall(b"x")
            time.sleep(0.02)

    with pytest.raises(ConnectionError):
        drip()
    assert get(server).status == 200
    assert application.bodies == []


def test_a_client_that_does_not_read_its_answer_is_cut_off(monkeypatch):
    monkeypatch.setattr(server_module, "ANSWER_S", 0.3)
    ended = threading.Event()

    def endless(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            while True:
                yield bytes(1 << 16)
        finally:
            ended.set()

    server = Server(listen("127.0.0.1", find_free_port()), endless)
    server.start()
    try:
        deaf = connect(server)
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ended.wait(20)
    finally:
        server.stop()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nX: %b\r\n\r\n" % (b"x" * 100_000),
        b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 100_000),
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused_and_the_server_keeps_working(server, request_bytes, capfd):
    connection = connect(server)
    try:
        connection.sendall(request_bytes)
        received = connection.recv(100)
    except ConnectionError:
        received = b""
    assert not received.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5")) or received.startswith(b"HTTP/1.1 505")
    assert get(server).status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_stop_takes_about_two_seconds_whatever_is_still_open(application):
    server = Server(listen("127.0.0.1", find_free_port()), application)
    server.start()
    idle, slow = connect(server), connect(server)
    slow.sendall(b"GET / HTTP/1.1\r\nHost:")
    asking = connect(server)
    asking.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert asking.recv(100).startswith(b"HTTP/1.1 200")
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()
    for connection in (idle, slow, asking):
        connection.settimeout(10)
        try:
            while connection.recv(1000):
                pass
        except ConnectionError:
            pass
    with pytest.raises(ConnectionRefusedError):
        connect(server)
