"""Ports at which something other than Kafka listens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress


@contextmanager
def other_listener(kind: str) -> Iterator[int]:
    """Occupy a port of 127.0.0.1, and yield it.

    Args:
        kind: ``http`` answers everything with a status line, ``hangs up`` closes each connection, ``silent`` never
            answers, ``full`` accepts no connection, as behind a firewall that drops packets, ``closed`` refuses
            connections, and nothing else can use the port meanwhile.
    """
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        if kind != "closed":
            server.listen(0 if kind == "full" else 64)
        if kind == "full":
            _fill(server.getsockname(), stack)
        elif kind in ("http", "hangs up"):
            # The callback ends the thread.
            threading.Thread(target=_serve, args=(server, kind), daemon=True).start()
            stack.callback(server.shutdown, socket.SHUT_RDWR)
        yield server.getsockname()[1]


def _fill(place: tuple[str, int], stack: ExitStack) -> None:
    """Open connections until the queue is full."""
    while True:
        waiting = stack.enter_context(socket.socket())
        waiting.settimeout(0.3)
        try:
            waiting.connect(place)
        except TimeoutError:
            return


def _serve(server: socket.socket, kind: str) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                if kind == "http":
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
