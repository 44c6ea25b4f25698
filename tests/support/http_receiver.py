"""An HTTP server that takes notifications, and answers what a test asks for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HttpReceiver:
    """What a server was sent. ``answers`` are the statuses of the next answers; after them all is 200."""

    def __init__(self) -> None:
        self.port = 0
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.taken: list[Any] = []
        # While this is not set, no request is answered.
        self.answering = threading.Event()
        self.answering.set()

    def url(self, path: str = "/hook", credentials: str = "") -> str:
        return f"http://{credentials}127.0.0.1:{self.port}{path}"


@contextmanager
def http_receiver() -> Iterator[HttpReceiver]:
    """Run a server on a free port of loopback until the end of the block."""
    state = HttpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append((self.path, dict(self.headers.items()), body))
            state.answering.wait(60)
            status = state.answers.pop(0) if state.answers else 200
            if status == 200:
                state.taken.append(body)
            self.send_response(status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        state.answering.set()
        server.shutdown()
        thread.join()
        server.server_close()
