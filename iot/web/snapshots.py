"""What the page and the API show: read from the database by one thread, encoded once, served to all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from iot.results.model import State
from iot.results.store import Store
from iot.settings import UserError
from iot.web.figures import health, metrics
from iot.web.responses import Body

LOOK_EVERY_S = 0.1
# Rates and ages change without a write.
READ_EVERY_S = 1.0
# Reading takes at most this part of the time, however slow the database is.
READING_SHARE = 0.2
# One who reads is stuck when nothing new has come for this long.
STUCK_S = 15.0
# Long, and slow to change: whoever follows the stream reads them from /api/metrics now and then.
NOT_PUSHED = ("latest", "rate_history", "alert_history", "locations", "sensor_types")

Clock = Callable[[], float]


class Snapshot(NamedTuple):
    """The database at one moment."""

    taken_s: float
    version: int
    state: State
    metrics: dict[str, Any]
    healthy: bool
    reason: str | None
    """Why not healthy."""
    body: Body
    """``metrics`` as the answer of /api/metrics."""
    pushed: bytes
    """``metrics`` without the long lists, as JSON."""


class Snapshots:
    """Keeps a snapshot: ``start`` has a thread renew it, ``latest`` has it at once; ``close`` ends the thread."""

    def __init__(self, store: Store, clock: Clock, on_change: Callable[[bytes], None]) -> None:
        """
        Args:
            on_change: called with what is to be pushed whenever a new snapshot was taken.
        """
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._latest: Snapshot | None = None
        self._state: State | None = None
        self._version: int | None = None
        self._trouble: str | None = None
        self.write_failure: str | None = None
        """Why the database is not written, from who writes it; in the database itself it would not be found."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            # It may wait for a lock on the database, and nothing waits for it.
            self._thread.join(1)

    def latest(self) -> Snapshot:
        """The latest snapshot; taken now if there is none, or nothing else renews it.

        Raises:
            UserError: the database could never be read so far.
        """
        return self._latest if self._latest and self._thread.is_alive() else self.refresh()

    def problem(self) -> str | None:
        """Why what is shown cannot be relied on, None when it can."""
        try:
            latest = self.latest()
        except UserError as error:
            return str(error)
        if self._clock() - latest.taken_s > STUCK_S:
            return "the database has not answered for a while"
        return None if latest.healthy else latest.reason

    def refresh(self) -> Snapshot:
        """Take a snapshot if the database has changed or the last is a second old. Raises as ``latest``."""
        with self._lock:
            now_s = self._clock()
            latest = self._latest
            try:
                version = self._store.version()
                same = version == self._version and not self._trouble
                if latest and same and 0 <= now_s - latest.taken_s < READ_EVERY_S:
                    return latest
                self._state = self._store.read(now_s)
                self._version = version
                self._trouble = None
            except UserError as error:
                if self._state is None:
                    raise
                # What was read before goes on being shown, and why there is nothing newer.
                self._trouble = str(error)
            self._latest = _snapshot(self._state, self._version or 0, now_s, self._trouble or self.write_failure)
        self._on_change(self._latest.pushed)
        return self._latest

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            begun_s = time.monotonic()
            with suppress(UserError):
                self.refresh()
            took_s = time.monotonic() - begun_s
            pause_s = max(LOOK_EVERY_S - took_s, took_s * (1 / READING_SHARE - 1))


def _snapshot(state: State, version: int, now_s: float, trouble: str | None) -> Snapshot:
    shown = metrics(state, now_s)
    healthy, reason = health(state, now_s)
    if trouble:
        healthy, reason = False, trouble
        shown |= {"system_health": "Critical", "health_reasons": [trouble, *(shown.get("health_reasons") or [])]}
        shown |= {"state": "failed", "state_reason": trouble}
    pushed = {name: value for name, value in shown.items() if name not in NOT_PUSHED}
    body = Body(msgspec.json.encode(shown), "application/json")
    return Snapshot(now_s, version, state, shown, healthy, reason, body, msgspec.json.encode(pushed))
