"""The HTTP server of the dashboard: cheroot, extended for many open pages.

An event stream is handed over to the code that serves it, which frees the thread of the request. A connection gets a
thread only once it has sent something, and every request has a deadline. Bodies are read by a part of the threads, so
that slow ones delay no reader.
"""

from __future__ import annotations

import io
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from cheroot.errors import MaxSizeExceeded
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.wsgi import Gateway_10
from cheroot.wsgi import Server as CherootServer

from iot.web.listening import BACKLOG

THREADS = 32
# Maximum number of connections that wait for a request.
MAX_IDLE = 1_000
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
# Maximum number of bodies that are read at the same time. The other threads stay free for requests without one.
BODIES = 8
# How long a connection may be idle, and how long a single read or write may take.
IDLE_S = 10
# How long the head of a request may take, and how long the client may take to read the answer.
HEAD_S = 10.0
ANSWER_S = 60.0
# How long the body of a request may take.
BODY_S = 5.0
# How long, and how much, is still read of a body that was refused, so that its sender sees the answer.
LINGER_S = 1.0
LINGER_BYTES = 1024 * 1024
# How long requests may still run after the server is stopped.
STOP_S = 1.0
# How often deadlines are checked.
CHECK_EVERY_S = 0.25
# Each connection is an open file, and the usual limit is 1,024 or less.
OPEN_FILES = 4_096

HAND_OVER = "iot.hand_over"
"""The key in a WSGI environment under which an endpoint finds ``hand_over(take)``.

After ``hand_over``, the server sends the head of the answer and then calls ``take`` with the connection's socket, which
``take`` owns from then on.
"""


class _Request(HTTPRequest):
    def simple_response(self, status: str, msg: str = "") -> None:
        """Refuse a request that never reaches the application, in the form that the API has for errors."""
        self.close_connection = True
        body = msgspec.json.encode({"error": msg or status.partition(" ")[2]})
        head = f"{self.server.protocol} {status}\r\nContent-Type: application/json\r\n"
        if status.startswith("503"):
            head += "Retry-After: 1\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with suppress(OSError):
            self.conn.wfile.write(head.encode() + body)
        if status.startswith("413"):
            self.conn.linger_for_body()


class Connection(HTTPConnection):
    RequestHandlerClass = _Request
    is_new = True
    handed_over = False

    def communicate(self) -> bool:
        self.server.limit(self, HEAD_S)
        try:
            return bool(super().communicate())  # type: ignore[no-untyped-call]
        finally:
            self.server.limit(self, None)

    def close(self) -> None:
        if not self.handed_over:
            super().close()

    def linger_for_body(self) -> None:
        """Read on for a moment: the kernel would reset a connection with unread data, and the answer would be lost."""
        if not self.server.lingering.acquire(blocking=False):
            return
        try:
            self.server.limit(self, LINGER_S)
            self.socket.shutdown(socket.SHUT_WR)
            unread = LINGER_BYTES
            while unread > 0 and (part := self.socket.recv(1 << 16)):
                unread -= len(part)
        except OSError:
            pass
        finally:
            self.server.lingering.release()


class _Gateway(Gateway_10):
    def __init__(self, req: Any) -> None:
        super().__init__(req)
        self._hand_to: Callable[[socket.socket], None] | None = None
        self.env[HAND_OVER] = self._hand_over
        req.server.limit(req.conn, ANSWER_S)

    def _hand_over(self, hand_to: Callable[[socket.socket], None]) -> None:
        # HTTP/1.0 has no chunks: the answer ends when the connection does.
        self.req.response_protocol = "HTTP/1.0"
        self._hand_to = hand_to

    def _take_body(self) -> bool:
        """Read the whole body for the application; where that is not possible, refuse the request and return False."""
        request, server = self.req, self.req.server
        length = 0 if request.chunked_read else request.rfile.remaining
        if not request.chunked_read and length <= 0:
            return True
        if not server.bodies.acquire(blocking=False):
            request.simple_response("503 Service Unavailable", "too many requests with a body at once: try again")
            return False
        try:
            server.limit(request.conn, BODY_S)
            body = request.rfile.read()
        except MaxSizeExceeded:
            body = None
        except ValueError:
            request.simple_response("400 Bad Request", "the body is not chunked as its header says")
            return False
        except OSError as error:
            # This is how a chunk that is too large is reported.
            if error.errno is not None or isinstance(error, TimeoutError):
                raise
            body = None
        finally:
            server.bodies.release()
            server.limit(request.conn, ANSWER_S)
        if body is None:
            text = f"the body is larger than {server.max_request_body_size} bytes"
            request.simple_response("413 Request Entity Too Large", text)
            return False
        if len(body) < length:
            # The client has gone, or was too slow and was cut off.
            request.close_connection = True
            return False
        self.env["wsgi.input"] = io.BytesIO(body)
        self.env["CONTENT_LENGTH"] = str(len(body))
        return True

    def respond(self) -> None:
        if not self._take_body():
            # Nothing more is to be sent.
            self.req.ready = False
            return
        super().respond()
        if self._hand_to:
            self.req.close_connection = True
            self.req.conn.handed_over = True
            self._hand_to(socket.socket(fileno=self.req.conn.socket.detach()))


class Server(CherootServer):
    """Serves a WSGI application in its own threads: ``start``, then ``stop``."""

    threads = THREADS
    bodies_at_once = BODIES
    ConnectionClass = Connection
    expiration_interval = CHECK_EVERY_S
    keep_alive_conn_limit = MAX_IDLE
    max_request_header_size = MAX_HEAD_BYTES
    max_request_body_size = MAX_BODY_BYTES

    def __init__(self, listening: socket.socket, application: Any) -> None:
        """
        Args:
            listening: a socket that listens, as ``listening.listen`` returns it. The server closes it.
        """
        address = listening.getsockname()[:2]
        super().__init__(
            address, application, self.threads, server_name="iot", request_queue_size=BACKLOG, timeout=IDLE_S
        )
        self._listening = listening
        self.bodies = threading.BoundedSemaphore(self.bodies_at_once)
        self.lingering = threading.BoundedSemaphore(BODIES)
        self.gateway = _Gateway
        self._deadlines_s: dict[Connection, float] = {}
        self._stopping_s = float("inf")
        self._stopped = threading.Event()
        self._serving = threading.Thread(target=self.serve, name="http", daemon=True)

    def start(self) -> None:
        """Serve in the background."""
        _allow_open_files()
        # cheroot would take the socket that systemd passes to a service.
        os.environ.pop("LISTEN_PID", None)
        self.prepare()
        self._serving.start()
        threading.Thread(target=self._cut_late, name="http-limits", daemon=True).start()

    def stop(self) -> None:
        """Refuse new requests and end within two seconds; running requests have one second."""
        self._stopping_s = time.monotonic() + STOP_S
        super().stop()
        self._stopped.set()

    def limit(self, connection: Connection, seconds: float | None) -> None:
        """Set the deadline of a connection to ``seconds`` from now, or remove it (None)."""
        if seconds is None:
            self._deadlines_s.pop(connection, None)
        else:
            self._deadlines_s[connection] = time.monotonic() + seconds

    def process_conn(self, conn: Connection) -> None:
        """Give a connection to a thread; wait with a new one until there is something to read."""
        if not conn.is_new:
            super().process_conn(conn)
            return
        conn.is_new = False
        if self.can_add_keepalive_connection:
            self.put_conn(conn)
        else:
            conn.close()

    def bind(self, *_: Any) -> socket.socket:
        """Use the socket that was given."""
        self.socket = self._listening
        return self._listening

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Report only errors: clients may come and go."""
        if level >= 40:
            print(f"error: web server: {msg}", file=sys.stderr, flush=True)

    def _cut_late(self) -> None:
        while not self._stopped.wait(CHECK_EVERY_S):
            now_s = time.monotonic()
            for connection, deadline_s in self._deadlines_s.copy().items():
                if now_s > min(deadline_s, self._stopping_s):
                    with suppress(OSError):
                        connection.socket.shutdown(socket.SHUT_RDWR)


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
