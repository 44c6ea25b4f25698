"""What the page and the API show: one thread reads the database and encodes the answer, for all who ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from iot.results.model import State
from iot.results.store import Store
from iot.settings import UserError
from iot.web.figures import health, metrics
from iot.web.responses import Body, json_body
from iot.web.schemas import Metrics

# How often to check whether the database has changed.
CHECK_EVERY_S = 0.1
# How often to read it even if it has not: rates and ages change without a write.
READ_EVERY_S = 1.0
# Maximum share of the time that is spent reading, however slow the database is.
READING_SHARE = 0.2
# How long a read may take before /healthz reports it.
STUCK_S = 15.0
# Long lists change slowly: pages that follow the stream read them from /api/metrics every few seconds.
NOT_PUSHED = {"latest", "rate_history", "alert_history", "locations", "sensor_types"}
PUSHED = [name for name in Metrics.__struct_fields__ if name not in NOT_PUSHED]

Clock = Callable[[], float]


class Snapshot(NamedTuple):
    """The results database at one moment."""

    taken_s: float
    version: int
    state: State
    metrics: Metrics
    healthy: bool
    reason: str | None
    """Why not healthy."""
    body: Body
    """``metrics`` as the answer of /api/metrics."""
    database_failure: str | None
    """Why the database cannot be read, or the processing cannot write to it."""
    pushed: bytes
    """``metrics`` without the long lists, as JSON."""


class Snapshots:
    """Keeps the latest snapshot. ``start`` begins to refresh it in a thread, ``close`` ends that."""

    def __init__(self, store: Store, clock: Clock, on_change: Callable[[bytes], None]) -> None:
        """
        Args:
            clock: returns seconds since the epoch.
            on_change: called with ``Snapshot.pushed`` of every new snapshot.
        """
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._latest: Snapshot | None = None
        self._state: State | None = None
        self._version: int | None = None
        self._read_failure: str | None = None
        self.write_failure: str | None = None
        """Why the processing cannot write to the database, told directly because the database cannot tell it."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            # The thread may be waiting for a lock on the database; it is not worth waiting longer.
            self._thread.join(1)

    def latest(self) -> Snapshot:
        """The latest snapshot, taken now if there is none or if the thread does not run.

        Raises:
            UserError: the database could never be read.
        """
        return self._latest if self._latest and self._thread.is_alive() else self.refresh()

    def problem(self) -> str | None:
        """Why the figures cannot be relied on; None if they can."""
        try:
            latest = self.latest()
        except UserError as error:
            return str(error)
        if self._clock() - latest.taken_s > STUCK_S:
            return "the database has not answered for a while"
        return None if latest.healthy else latest.reason

    def refresh(self) -> Snapshot:
        """Take a snapshot if the database has changed or the last one is a second old.

        Raises:
            UserError: the database could never be read.
        """
        with self._lock:
            now_s = self._clock()
            latest = self._latest
            try:
                version = self._store.version()
                same = version == self._version and not self._read_failure
                if latest and same and 0 <= now_s - latest.taken_s < READ_EVERY_S:
                    return latest
                self._state = self._store.read(now_s)
                self._version = version
                self._read_failure = None
            except UserError as error:
                if self._state is None:
                    raise
                # Keep showing what was read before, and say why there is nothing newer.
                self._read_failure = str(error)
            self._latest = _snapshot(self._state, self._version or 0, now_s, self._read_failure or self.write_failure)
        self._on_change(self._latest.pushed)
        return self._latest

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            begun_s = time.monotonic()
            with suppress(UserError):
                self.refresh()
            took_s = time.monotonic() - begun_s
            pause_s = max(CHECK_EVERY_S - took_s, took_s * (1 / READING_SHARE - 1))


def _snapshot(state: State, version: int, now_s: float, failure: str | None) -> Snapshot:
    shown = metrics(state, now_s)
    healthy, reason = health(state, now_s)
    if failure:
        healthy, reason = False, failure
        shown.system_health, shown.health_reasons = "Critical", [failure, *shown.health_reasons]
        shown.state, shown.state_reason = "failed", failure
    body = json_body(shown)
    pushed = msgspec.json.encode({name: getattr(shown, name) for name in PUSHED})
    return Snapshot(now_s, version, state, shown, healthy, reason, body, failure, pushed)
