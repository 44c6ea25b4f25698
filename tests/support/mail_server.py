"""A mail server that takes every message, and keeps it."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage


@contextmanager
def mail_server() -> Iterator[tuple[int, list[EmailMessage]]]:
    """Run a server on loopback until the end of the block; yield its port and the messages."""
    messages: list[EmailMessage] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 mail\r\n")
            while command := self.rfile.readline()[:4].upper():
                if command == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    content = b""
                    while (line := self.rfile.readline()) not in (b".\r\n", b""):
                        content += line.removeprefix(b".")
                    messages.append(message_from_bytes(content, EmailMessage, policy=policy.default))
                self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")
                if command == b"QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1], messages
        finally:
            server.shutdown()
            thread.join()
