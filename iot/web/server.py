"""The HTTP server of the dashboard: cheroot, with what it lacks for a page that many watch.

An event stream is handed over to whoever serves it, and the thread that took the request is free again. A connection
gets a thread only once it has sent something, and no request may take for ever.
"""

from __future__ import annotations

import errno
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cheroot.server import HTTPConnection
from cheroot.wsgi import Gateway_10
from cheroot.wsgi import Server as CherootServer

from iot.settings import UserError, reason

THREADS = 32
MAX_IDLE = 1_000
BACKLOG = 256
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
# A connection may be idle for so long, and no single read or write may take longer.
IDLE_S = 10
# From its first byte, the head of a request has to be there, and the answer taken, within these.
HEAD_S = 10.0
ANSWER_S = 60.0
# So much is left to requests that run when the server is stopped.
STOP_S = 1.0
LOOK_EVERY_S = 0.25
# Each connection is an open file, and the usual limit is 1,024 or less.
OPEN_FILES = 4_096

HAND_OVER = "iot.hand_over"
"""In the environment of a request: a function that takes a function.

Called while the request is answered, it has the server send the head of the answer and then give the connection to
that function: a socket, which from then on is its own.
"""


class _Connection(HTTPConnection):
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


class _Gateway(Gateway_10):
    def __init__(self, req: Any) -> None:
        super().__init__(req)
        self._hand_to: Callable[[socket.socket], None] | None = None
        self.env[HAND_OVER] = self._hand_over
        req.server.limit(req.conn, ANSWER_S)

    def _hand_over(self, hand_to: Callable[[socket.socket], None]) -> None:
        # So it sends no chunks: the end of the connection is the end of the answer.
        self.req.response_protocol = "HTTP/1.0"
        self._hand_to = hand_to

    def respond(self) -> None:
        super().respond()
        if self._hand_to:
            self.req.close_connection = True
            self.req.conn.handed_over = True
            self._hand_to(socket.socket(fileno=self.req.conn.socket.detach()))


class Server(CherootServer):
    """Serves a WSGI application in threads of its own: ``start``, then ``stop``."""

    ConnectionClass = _Connection
    expiration_interval = LOOK_EVERY_S
    keep_alive_conn_limit = MAX_IDLE
    max_request_header_size = MAX_HEAD_BYTES
    max_request_body_size = MAX_BODY_BYTES

    def __init__(self, host: str, port: int, application: Any) -> None:
        super().__init__(
            (host, port), application, THREADS, server_name="iot", request_queue_size=BACKLOG, timeout=IDLE_S
        )
        self.gateway = _Gateway
        self._deadlines_s: dict[_Connection, float] = {}
        self._stopping_s = float("inf")
        self._stopped = threading.Event()
        self._serving = threading.Thread(target=self.serve, name="http", daemon=True)

    def start(self) -> None:
        """Listen, and serve from now on.

        Raises:
            UserError: the address cannot be listened at.
        """
        _allow_open_files()
        try:
            self.prepare()
        except OSError as error:
            host, port = self.bind_addr
            raise UserError(f"cannot serve at {host} port {port}: {self._why(error)}") from error
        self._serving.start()
        threading.Thread(target=self._cut_late, name="http-limits", daemon=True).start()

    def stop(self) -> None:
        """Take no more requests, and end within about two seconds; those that run have half of it."""
        self._stopping_s = time.monotonic() + STOP_S
        super().stop()
        self._stopped.set()

    def limit(self, connection: _Connection, seconds: float | None) -> None:
        """What a connection does has to be done in so many seconds from now; None: it is done."""
        if seconds is None:
            self._deadlines_s.pop(connection, None)
        else:
            self._deadlines_s[connection] = time.monotonic() + seconds

    def process_conn(self, conn: _Connection) -> None:
        """Have a thread read from a connection, a new one only once there is something to read."""
        if not conn.is_new:
            super().process_conn(conn)
            return
        conn.is_new = False
        if self.can_add_keepalive_connection:
            self.put_conn(conn)
        else:
            conn.close()

    def bind(self, *args: Any) -> Any:
        try:
            return super().bind(*args)
        except OSError as error:
            # What is raised in the end says it in no words of its own.
            self._bind_error = error
            raise

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Only what should not happen is worth a line; clients may come and go."""
        if level >= 40:
            print(f"error: web server: {msg}", file=sys.stderr, flush=True)

    def _why(self, error: OSError) -> str:
        error = getattr(self, "_bind_error", error)
        if error.errno == errno.EADDRINUSE:
            return "the port is in use; choose another with --port"
        return f"{reason(error)}; choose another with --host or --port"

    def _cut_late(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
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
