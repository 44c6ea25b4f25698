"""The short way of a request with readings in our own schema: it needs no thread that waits, and no Flask.

The thread that has received such a request decodes it and hands it to Kafka. The answer is sent once Kafka has
acknowledged it. ``app`` serves everything else: other endpoints and formats, compressed or large bodies, requests of a
browser, and those without a valid token. Both ways give the same answers.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from iot.gateway.answers import ACKNOWLEDGED_S, FULL, LATE, RETRY_AFTER, Answer, of_write
from iot.gateway.app import Services
from iot.gateway.intake import Taken
from iot.gateway.tokens import Unauthorised
from iot.gateway.writer import Full, Unavailable
from iot.gateway.writes import Write
from iot.web import access
from iot.web.server import MAX_HEAD_BYTES

# Maximum size of a body: while it is decoded, no other request is received.
MAX_DIRECT_BYTES = 64 << 10
# How often to look whether all requests have their answers.
LOOK_S = 0.02

_TARGET = re.compile(rb"POST /api/v1/(?:readings|([A-Za-z0-9._~-]+)/telemetry) HTTP/1\.1")
_HEADER = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)[ \t]*")
# Headers that change how a request is read or who may send it.
_SPECIAL = {
    b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"origin", b"sec-fetch-site",
}  # fmt: skip
# Those that must not come twice.
_ONCE = (b"host", b"content-length", b"authorization")
_HEADERS = "".join(
    f"{name}: {value}\r\n"
    for name, value in ({"Content-Type": "application/json", "Cache-Control": "no-store"} | access.HEADERS).items()
)


class Head(NamedTuple):
    """What is used of the head of a request.

    Attributes:
        name: the name or token in the path, if there is one.
    """

    name: str | None
    host: str
    authorization: str


def parse(head: bytes) -> Head | None:
    """Read the head of a request, without the empty line at its end; None if the application must look at it."""
    target, *lines = head.split(b"\r\n")
    found = _TARGET.fullmatch(target)
    if not found:
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if not header:
            return None
        name = header[1].lower()
        is_closing = name == b"connection" and header[2].lower() != b"keep-alive"
        if name in _SPECIAL or is_closing or (name in headers and name in _ONCE):
            return None
        headers[name] = header[2]
    if b"host" not in headers or b"content-length" not in headers:
        return None
    name_in_path = found[1].decode() if found[1] else None
    return Head(name_in_path, headers[b"host"].decode(), headers.get(b"authorization", b"").decode())


class Waiting:
    """A request that waits for Kafka."""

    def __init__(self, connection: Any, taken: Taken) -> None:
        self.connection, self.taken = connection, taken


class Direct:
    """Serves requests the short way. Threads may share it."""

    def __init__(
        self, services: Services, host: str = "127.0.0.1", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            host: the address that the server listens on, as for ``create_app``.
            clock: returns seconds.
        """
        self._services, self._clock = services, clock
        self._is_allowed = access.allowed_hosts(host, services.clients.need_a_token)
        # In the order of their deadlines. Whoever takes one out answers it.
        self._waiting: dict[Waiting, float] = {}
        self._date = (0, "")

    def serve(self, connection: Any, data: bytes, head_end: int) -> bool:
        """Serve a request that has arrived.

        Args:
            connection: of the server, which gets it back when the request is answered.
            data: the request.
            head_end: where its body begins.

        Returns:
            False if the application must serve it. Then nothing has happened.
        """
        if head_end > MAX_HEAD_BYTES or len(data) - head_end > MAX_DIRECT_BYTES:
            return False
        head = parse(data[: head_end - 4])
        if head is None or not self._is_allowed(head.host):
            return False
        try:
            self._services.clients.device(head.authorization, head.name)
        except Unauthorised:
            return False
        messages = self._services.intake.take_own(data[head_end:])
        if messages is None:
            return False
        try:
            write = self._services.writer.write(messages)
        except Unavailable:
            return False
        except Full:
            self._answer(connection, FULL)
            return True
        waiting = Waiting(connection, Taken(messages, records=len(messages)))
        self._waiting[waiting] = self._clock() + ACKNOWLEDGED_S
        write.on_end(lambda ended: self._on_end(waiting, ended))
        return True

    def look_after(self) -> None:
        """Answer the requests that have waited too long. Call this regularly."""
        now_s = self._clock()
        for waiting, deadline_s in self._waiting.copy().items():
            if now_s < deadline_s:
                return
            if self._waiting.pop(waiting, None):
                self._answer(waiting.connection, LATE)

    def finish(self, timeout_s: float) -> None:
        """Wait until all requests have their answers, and give up those that still have none."""
        pause, deadline_s = threading.Event(), time.monotonic() + timeout_s
        while self._waiting and time.monotonic() < deadline_s:
            pause.wait(LOOK_S)
        for waiting in self._waiting.copy():
            if self._waiting.pop(waiting, None):
                self._answer(waiting.connection, LATE)

    def _on_end(self, waiting: Waiting, write: Write) -> None:
        if self._waiting.pop(waiting, None):
            self._answer(waiting.connection, of_write(waiting.taken, write))

    def _answer(self, connection: Any, answer: Answer) -> None:
        connection.answer(self._bytes(answer))

    def _bytes(self, answer: Answer) -> bytes:
        body = msgspec.json.encode(answer.content)
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        retry = "".join(f"{name}: {value}\r\n" for name, value in RETRY_AFTER.items()) if answer.is_temporary else ""
        head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n{_HEADERS}{retry}"
        return f"{head}Content-Length: {len(body)}\r\nDate: {self._date[1]}\r\n\r\n".encode() + body
