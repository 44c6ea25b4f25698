"""What the pipeline measures about itself: durations, delays and sizes. The heartbeat passes them on to the page.

Each batch adds a few values to histograms, whatever its number of readings. A thread of its own looks up sizes, because
a file system of a network may not answer, and the heartbeat must not wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from iot.alerts import Delivered
from iot.batches import BatchReport
from iot.histograms import Histogram
from iot.readings import Rejected, parse_timestamp
from iot.results.model import Timings
from iot.results.store import Store
from iot.settings import UserError
from iot.spark.checkpoints import size_bytes
from iot.spark.remote_path import AnyPath

# How often to look up the sizes, once they are known; until then more often.
SIZES_EVERY_S = 30.0
UNKNOWN_EVERY_S = 2.0

# Upper bounds of the histograms.
DURATIONS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DELAYS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0)


class Measurements:
    """Histograms and sizes since the start. ``start`` begins to look up sizes, ``close`` ends that."""

    def __init__(
        self, store: Store, checkpoints: Mapping[str, AnyPath], clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            checkpoints: the folders of the queries' checkpoints, by the name of the query.
            clock: returns seconds since the epoch.
        """
        self._store, self._checkpoints, self._clock = store, checkpoints, clock
        self.timings = Timings(
            batch=Histogram.of(DURATIONS_S),
            write=Histogram.of(DURATIONS_S),
            windows=Histogram.of(DELAYS_S),
            alerts=Histogram.of(DELAYS_S),
        )
        self.database_bytes: int | None = None
        """None while the database does not say."""
        self.checkpoint_bytes: dict[str, int] = {}
        """By the name of the query; without those that cannot be read."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sizes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; one that waits for a file system is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(1)

    def add_batch(self, seconds: float) -> None:
        """Count the duration of a batch of windows."""
        self.timings.batch.add(seconds)

    def add_written(self, report: BatchReport, seconds: float) -> None:
        """Count that a batch was written to the database: how long that took, and the delay of its first message."""
        self.timings.write.add(seconds)
        if report.first_ms is not None and report.first_ms >= 0:
            self.timings.windows.add(self._clock() - report.first_ms / 1_000)

    def add_alerts(self, delivered: Sequence[Delivered]) -> None:
        """Count the delay of the first of some alerts that were written to the database."""
        if delivered:
            with suppress(Rejected):
                measured_us = parse_timestamp(delivered[0].alert.timestamp)
                self.timings.alerts.add(self._clock() - measured_us / 1_000_000)

    def look_up_sizes(self) -> bool:
        """Look up the sizes; returns whether all are known."""
        try:
            self.database_bytes = self._store.size_bytes()
        except UserError:
            self.database_bytes = None
        found = {}
        for name, folder in self._checkpoints.items():
            with suppress(OSError):
                found[name] = size_bytes(folder)
        self.checkpoint_bytes = found
        return self.database_bytes is not None and len(found) == len(self._checkpoints)

    def _run(self) -> None:
        while not self._stop.wait(SIZES_EVERY_S if self.look_up_sizes() else UNKNOWN_EVERY_S):
            pass
