"""One request or message on its way to Kafka: it ends once all of it is acknowledged, or once a part has failed."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Write:
    """Ends when each of its parts has ended. Threads may share it.

    Attributes:
        readings: how many readings are written.
        repeated: how many readings were left out because they were written before.
        is_done: whether all parts have ended.
        is_acknowledged: whether all of them were acknowledged. It is known once ``is_done``.
    """

    def __init__(self) -> None:
        self.readings = self.repeated = 0
        self.is_done = False
        self.is_acknowledged = True
        self._lock = threading.Lock()
        self._on_end: list[Callable[[Write], None]] = []
        # The first part is the hand-over itself: nothing ends before all parts are known.
        self._parts = 1

    def begin_part(self) -> Callable[[bool], None]:
        """Return what to call once at the end of a new part, with whether it was acknowledged."""
        with self._lock:
            self._parts += 1
        return self.end_part

    def end_part(self, is_acknowledged: bool = True) -> None:
        """End one part; without an argument, the hand-over."""
        with self._lock:
            self.is_acknowledged &= is_acknowledged
            self._parts -= 1
            if self._parts:
                return
            self.is_done = True
            waiting, self._on_end = self._on_end, []
        for on_end in waiting:
            on_end(self)

    def wait_for(self, other: Write) -> None:
        """Let this one end no sooner than another one, and fail with it."""
        part = self.begin_part()
        other.on_end(lambda ended: part(ended.is_acknowledged))

    def on_end(self, call: Callable[[Write], None]) -> None:
        """Call this at the end, or at once if it has ended. The call comes from any thread."""
        with self._lock:
            if not self.is_done:
                self._on_end.append(call)
                return
        call(self)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; returns whether it has come."""
        ended = threading.Event()
        self.on_end(lambda _: ended.set())
        return ended.wait(timeout_s)
