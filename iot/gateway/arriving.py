"""The HTTP server of the gateway: it gives a request to a thread only once all of it has arrived.

The server of the dashboard reads bodies in its threads, of which slow clients could take all. Devices with a bad
connection are slow. Here one thread receives from all of them at once, in bounded memory.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

import msgspec

from iot.gateway.app import MAX_BODY_BYTES, MAX_WAITING
from iot.gateway.direct import Direct
from iot.terminal import printable
from iot.web.server import MAX_HEAD_BYTES, STOP_S, Connection, Server

# Threads for requests that have arrived. Some stay free while others wait for Kafka.
THREADS = MAX_WAITING + 24
# How long a request may take to arrive.
ARRIVE_S = 20.0
# Maximum number and size of requests that are arriving.
MAX_ARRIVING = 1_000
MAX_ARRIVING_BYTES = 64 << 20
# How often to look for requests that take too long.
LOOK_S = 0.5
CHUNK = 1 << 16
# What a chunked body may take besides its content.
CHUNKED_BYTES = MAX_BODY_BYTES + (64 << 10)

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
_LAST_CHUNK = re.compile(rb"\r\n0+(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*\r\n\Z")


class Request:
    """The bytes of a request that have arrived so far."""

    def __init__(self, data: bytes, deadline_s: float) -> None:
        self.data = bytearray(data)
        self.deadline_s = deadline_s
        self.is_invited = False
        self.head_end = -1
        self._length: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is exactly one request, and its length is known."""
        return self._length is not None and len(self.data) == self.head_end + self._length

    def is_whole(self) -> bool:
        """Whether nothing more is needed: the request is complete, or will be refused anyway."""
        if self.head_end < 0:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return len(self.data) > MAX_HEAD_BYTES
            self.head_end = end + 4
            head = bytes(self.data[: end + 2])
            if not _CHUNKED.search(head):
                found = _LENGTH.search(head)
                self._length = int(found[1]) if found else 0
        if self._length is not None:
            return self._length > MAX_BODY_BYTES or len(self.data) >= self.head_end + self._length
        body = len(self.data) - self.head_end
        if body > CHUNKED_BYTES:
            return True
        # The line break before the first chunk is the end of the head.
        return bool(_LAST_CHUNK.search(self.data, max(self.head_end - 2, len(self.data) - MAX_HEAD_BYTES)))

    def expects_an_invitation(self) -> bool:
        """Whether the client waits to be told that it may send the body; True only once."""
        if self.head_end < 0 or self.is_invited:
            return False
        self.is_invited = True
        return bool(_EXPECTS.search(bytes(self.data[: self.head_end])))


class _Connection(Connection):
    def answer(self, data: bytes) -> None:
        """Send an answer that fits into the send buffer, and wait for the next request. Any thread may call this."""
        try:
            # Not through the socket's methods: a socket with a timeout waits in them.
            if os.write(self.socket.fileno(), data) == len(data):
                self.server.put_conn(self)
                return
        except (OSError, ValueError):
            # The client has gone, or the server stops.
            pass
        self.close()


class GatewayServer(Server):
    """Serves the gateway's application: ``start``, then ``stop``."""

    ConnectionClass = _Connection
    threads = THREADS
    bodies_at_once = THREADS
    max_request_body_size = MAX_BODY_BYTES

    def __init__(self, listening: socket.socket, application: Any, direct: Direct | None = None) -> None:
        """
        Args:
            direct: what serves some requests in place of the application.
        """
        super().__init__(listening, application)
        self._direct = direct
        self._new: deque[tuple[Any, Request]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._requests: dict[Any, Request] = {}
        self._bytes = 0
        self._is_stopping = False
        self._receiving = threading.Thread(target=self._receive, name="http-arriving", daemon=True)

    def start(self) -> None:
        self._receiving.start()
        super().start()

    def stop(self) -> None:
        self._is_stopping = True
        self._wake.send(b"\0")
        super().stop()
        if self._direct:
            self._direct.finish(STOP_S)

    def process_conn(self, conn: Any) -> None:
        """Give a connection to a thread if its request has arrived; otherwise wait for the rest."""
        if conn.is_new:
            super().process_conn(conn)
            return
        reader = conn.rfile
        request = Request(bytes(reader._read_buf[reader._read_pos :]), time.monotonic() + ARRIVE_S)
        if self._take(conn, request) is False:
            if len(self._requests) + len(self._new) >= MAX_ARRIVING or self._bytes > MAX_ARRIVING_BYTES:
                self._refuse(conn, "503 Service Unavailable", "too many requests arrive at once: try again")
                return
            self._new.append((conn, request))
            self._wake.send(b"\0")

    def _take(self, conn: Any, request: Request) -> bool | None:
        """Receive what is there without waiting.

        Returns:
            False if more must come. True if the connection was given to a thread, None if it has ended.
        """
        try:
            while not request.is_whole():
                # Not through the socket's methods: a socket with a timeout waits in them.
                if request.expects_an_invitation():
                    os.write(conn.socket.fileno(), b"HTTP/1.1 100 Continue\r\n\r\n")
                part = os.read(conn.socket.fileno(), CHUNK)
                if not part:
                    conn.close()
                    return None
                request.data += part
        except BlockingIOError:
            return False
        except OSError:
            conn.close()
            return None
        if self._direct and request.is_complete and self.can_add_keepalive_connection:
            conn.rfile._read_buf, conn.rfile._read_pos = b"", 0
            try:
                if self._direct.serve(conn, bytes(request.data), request.head_end):
                    return True
            except Exception as error:
                # It must not end the thread that receives from everyone.
                self.error_log(f"{type(error).__name__}: {printable(str(error))}", level=40)
                conn.close()
                return None
        # The server's own reader takes the bytes from here.
        conn.rfile._read_buf, conn.rfile._read_pos = bytes(request.data), 0
        super().process_conn(conn)
        return True

    def _receive(self) -> None:
        """Receive the rest of requests that come slowly."""
        selector = selectors.DefaultSelector()
        selector.register(self._woken, selectors.EVENT_READ)
        look_s = 0.0
        while not self._is_stopping:
            for key, _ in selector.select(LOOK_S):
                if key.data is None:
                    with suppress(BlockingIOError):
                        self._woken.recv(CHUNK)
                    continue
                self._receive_more(selector, key.data)
            while self._new:
                conn, request = self._new.popleft()
                self._requests[conn] = request
                self._bytes += len(request.data)
                selector.register(conn.socket, selectors.EVENT_READ, conn)
            now_s = time.monotonic()
            if now_s >= look_s:
                look_s = now_s + LOOK_S
                if self._direct:
                    self._direct.look_after()
                late = [conn for conn, request in self._requests.items() if now_s > request.deadline_s]
                for conn in late:
                    self._forget(selector, conn)
                    self._refuse(conn, "408 Request Timeout", f"the request took longer than {ARRIVE_S:.0f} s")
        for conn in self._requests:
            conn.close()
        selector.close()

    def _receive_more(self, selector: selectors.BaseSelector, conn: Any) -> None:
        request = self._requests[conn]
        before = len(request.data)
        selector.unregister(conn.socket)
        del self._requests[conn]
        self._bytes -= before
        if self._take(conn, request) is False:
            self._requests[conn] = request
            self._bytes += len(request.data)
            selector.register(conn.socket, selectors.EVENT_READ, conn)

    def _forget(self, selector: selectors.BaseSelector, conn: Any) -> None:
        selector.unregister(conn.socket)
        self._bytes -= len(self._requests.pop(conn).data)

    def _refuse(self, conn: Any, status: str, text: str) -> None:
        """Answer without a thread, and close the connection. What does not fit into the send buffer is not sent."""
        conn.socket.setblocking(False)
        with suppress(OSError):
            conn.socket.send(refusal(status, text))
            conn.socket.shutdown(socket.SHUT_WR)
        conn.close()


def refusal(status: str, text: str) -> bytes:
    """Return an answer in the form that the API has for errors."""
    body = msgspec.json.encode({"error": text})
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n".encode() + body
