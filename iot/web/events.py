"""Server-sent events: pushes alerts and alarms as they happen and figures as they change, to all open streams.

One thread writes to all streams and never waits for one. What a slow stream cannot take is queued up to a limit, and of
the figures only the newest are kept for it. A stream that takes too little is closed: the browser opens it again and
then reads what it missed.
"""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

import msgspec

from iot.alarms.model import Alarm
from iot.alerts import Alert, Delivered
from iot.batches import Offsets

# Maximum number of open streams.
MAX_STREAMS = 400
# Maximum size of the queue of one stream.
MAX_WAITING_BYTES = 1024 * 1024
# Maximum size of the kernel's send buffer of one stream.
SEND_BUFFER_BYTES = 128 * 1024
# How long a stream may take nothing before it is closed.
STUCK_S = 10.0
HEARTBEAT_S = 15.0
# How often figures are pushed at most.
METRICS_EVERY_S = 0.5
# How long a browser waits before it opens a stream again.
RETRY_MS = 2_000
# Maximum number of alerts, and of changes of alarms, that are remembered: for streams that reconnect and to recognise
# repeated deliveries. Many alerts do not push out the alarms.
RECENT = 1_000

HEARTBEAT = b":\n\n"


class _Stream:
    """One open stream: its queue, the figures to send after it, and the figures that were queued last."""

    def __init__(self, sock: socket.socket, now_s: float) -> None:
        self.sock = sock
        self.waiting: deque[memoryview] = deque()
        self.waiting_bytes = 0
        self.metrics: bytes | None = None
        self.shown: bytes | None = None
        self.moved_s = now_s
        self.watched = selectors.EVENT_READ


class _Recent:
    """The newest events of one kind by their ids, oldest first."""

    def __init__(self, kind: bytes) -> None:
        self._kind = kind
        self._events: dict[str, tuple[int, Alert | Alarm, bytes]] = {}

    def add(self, number: int, event_id: str, content: Alert | Alarm) -> bytes | None:
        """Return the event with this content; None if it is known.

        Args:
            number: counts all events, of every kind.
        """
        known = self._events.get(event_id)
        if known and known[1] == content:
            return None
        event = b"event: %b\nid: %b\ndata: %b\n\n" % (self._kind, event_id.encode(), msgspec.json.encode(content))
        # An id that comes again, with another content, is the newest.
        self._events.pop(event_id, None)
        self._events[event_id] = (number, content, event)
        if len(self._events) > RECENT:
            del self._events[next(iter(self._events))]
        return event

    def number(self, event_id: str) -> int | None:
        """The number of the event with this id; None if it is not remembered."""
        known = self._events.get(event_id)
        return known[0] if known else None

    def after(self, number: int) -> Iterator[tuple[int, bytes]]:
        """The events after this number, each with its own."""
        return ((at, event) for at, _, event in self._events.values() if at > number)


class EventStreams:
    """The thread that pushes: ``start`` it, ``add`` streams, publish; ``close`` ends it and all streams.

    All methods but ``close`` return at once, and any thread may call them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._streams: set[_Stream] = set()
        self._metrics: bytes | None = None
        self._metrics_due_s: float | None = None
        self._metrics_sent_s = -math.inf
        self._heartbeat_s = clock()
        self._alerts, self._alarms = _Recent(b"alert"), _Recent(b"alarm")
        self._events = 0
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="event-streams", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread and every stream."""
        self._stopping = True
        self._wake()
        self._thread.join(5)

    @property
    def open(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def has_room(self) -> bool:
        """Whether another stream may be added."""
        return len(self._streams) < MAX_STREAMS

    def add(self, sock: socket.socket, last_event_id: str = "") -> None:
        """Push to a connection: first the figures, then the events after ``last_event_id``, then what is published."""
        self._do(lambda: self._open(sock, last_event_id))

    def publish_metrics(self, metrics: bytes) -> None:
        """Push the figures, JSON on one line. Figures that are replaced within half a second are skipped."""
        self._do(lambda: self._take_metrics(b"event: metrics\ndata: %b\n\n" % metrics))

    def publish_alerts(self, delivered: Sequence[Delivered], _: Offsets | None = None) -> None:
        """Push alerts, but none that was pushed before."""
        if delivered:
            self._do(lambda: self._push_new(self._alerts, [(one.alert.alert_id, one.alert) for one in delivered]))

    def publish_alarms(self, changes: Sequence[tuple[str, Alarm]], _: Offsets | None = None) -> None:
        """Push changed alarms, each with an id of the change; but none that was pushed before."""
        if changes:
            self._do(lambda: self._push_new(self._alarms, changes))

    def _do(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        self._wake()

    def _wake(self) -> None:
        # If the socket is full, the thread is awake; if it is closed, the thread has ended.
        with suppress(OSError):
            self._wake_writer.send(b"\0")

    def _run(self) -> None:
        while not self._stopping:
            for key, events in self._selector.select(self._wait_s()):
                stream = key.data
                if stream is None:
                    with suppress(BlockingIOError):
                        self._wake_reader.recv(4096)
                elif events & selectors.EVENT_READ and not self._still_there(stream):
                    self._close(stream)
                elif stream in self._streams:
                    self._send(stream)
            with suppress(Empty):
                while True:
                    self._work.get_nowait()()
            self._do_what_is_due()
        for stream in list(self._streams):
            self._close(stream)
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _wait_s(self) -> float:
        """How long the thread may sleep if nothing is published."""
        now_s = self._clock()
        due_s = self._heartbeat_s + HEARTBEAT_S
        if self._metrics_due_s is not None:
            due_s = min(due_s, self._metrics_due_s)
        if any(stream.waiting for stream in self._streams):
            due_s = min(due_s, now_s + 1)
        return max(0.0, due_s - now_s)

    def _do_what_is_due(self) -> None:
        now_s = self._clock()
        for stream in [stream for stream in self._streams if stream.waiting]:
            if now_s - stream.moved_s > STUCK_S:
                self._close(stream)
        if self._metrics_due_s is not None and self._metrics and now_s >= self._metrics_due_s:
            self._metrics_due_s, self._metrics_sent_s = None, now_s
            for stream in list(self._streams):
                if stream.shown is not self._metrics:
                    stream.shown = self._metrics
                    if stream.waiting:
                        stream.metrics = self._metrics
                    else:
                        self._push(stream, self._metrics)
        if now_s - self._heartbeat_s >= HEARTBEAT_S:
            self._heartbeat_s = now_s
            for stream in list(self._streams):
                self._push(stream, HEARTBEAT)

    def _open(self, sock: socket.socket, last_event_id: str) -> None:
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # Without this, a machine that vanished would be noticed only after minutes.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2_000 * HEARTBEAT_S))
        stream = _Stream(sock, self._clock())
        self._streams.add(stream)
        self._selector.register(sock, stream.watched, stream)
        stream.shown = self._metrics
        events = self._missed(last_event_id)
        self._push(stream, b"".join([b"retry: %d\n\n" % RETRY_MS, self._metrics or b"", *events]))

    def _missed(self, last_event_id: str) -> list[bytes]:
        """The events after the one with this id, oldest first; none if it is not remembered."""
        kinds = (self._alerts, self._alarms)
        last = max(kind.number(last_event_id) or 0 for kind in kinds)
        return [event for _, event in sorted(one for kind in kinds for one in kind.after(last))] if last else []

    def _take_metrics(self, event: bytes) -> None:
        if event != self._metrics:
            self._metrics = event
            if self._metrics_due_s is None:
                self._metrics_due_s = max(self._clock(), self._metrics_sent_s + METRICS_EVERY_S)

    def _push_new(self, kind: _Recent, contents: Iterable[tuple[str, Alert | Alarm]]) -> None:
        events = []
        for event_id, content in contents:
            self._events += 1
            if event := kind.add(self._events, event_id, content):
                events.append(event)
        if events:
            chunk = b"".join(events)
            for stream in list(self._streams):
                self._push(stream, chunk)

    def _push(self, stream: _Stream, chunk: bytes) -> None:
        if stream.waiting and stream.waiting_bytes + len(chunk) > MAX_WAITING_BYTES:
            self._close(stream)
            return
        if not stream.waiting:
            stream.moved_s = self._clock()
        stream.waiting.append(memoryview(chunk))
        stream.waiting_bytes += len(chunk)
        if len(stream.waiting) == 1:
            self._send(stream)

    def _send(self, stream: _Stream) -> None:
        """Send what the connection takes now; if that is not all, wait until it takes more."""
        try:
            while stream.waiting:
                first = stream.waiting[0]
                sent = stream.sock.send(first)
                stream.waiting_bytes -= sent
                stream.moved_s = self._clock()
                if sent < len(first):
                    stream.waiting[0] = first[sent:]
                    break
                stream.waiting.popleft()
                if not stream.waiting and stream.metrics:
                    stream.waiting.append(memoryview(stream.metrics))
                    stream.waiting_bytes = len(stream.metrics)
                    stream.metrics = None
        except BlockingIOError:
            pass
        except OSError:
            self._close(stream)
            return
        watched = selectors.EVENT_READ | (selectors.EVENT_WRITE if stream.waiting else 0)
        if watched != stream.watched:
            stream.watched = watched
            self._selector.modify(stream.sock, watched, stream)

    def _still_there(self, stream: _Stream) -> bool:
        try:
            return bool(stream.sock.recv(4096))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _close(self, stream: _Stream) -> None:
        if stream in self._streams:
            self._streams.discard(stream)
            self._selector.unregister(stream.sock)
            with suppress(OSError):
                stream.sock.shutdown(socket.SHUT_RDWR)
            stream.sock.close()
