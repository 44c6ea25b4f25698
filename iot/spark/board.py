"""The board of ``structured_streaming_processor.py``: totals and the newest windows in a table, alerts above it."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from iot import alerts
from iot.alerts import Delivered
from iot.batches import BatchReport, Offsets
from iot.settings import WINDOW_S
from iot.terminal import StatusLine, printable

WindowKey = tuple[datetime, str, str]
"""The end of a window, its sensor type, and its location (empty where windows are over all locations)."""


class Board:
    """Shows what the queries come to. Threads may share it."""

    def __init__(self, status: StatusLine, rows: int, by_location: bool) -> None:
        """
        Args:
            rows: maximum number of windows in the table.
        """
        self._status = status
        self._rows = rows
        self._by_location = by_location
        self._lock = threading.Lock()
        self._windows: dict[WindowKey, dict[str, Any]] = {}
        self._changed = False
        self.batches = self.messages = self.rejected = self.late = self.most_late_s = self.alerts = 0

    def add(self, windows: pa.Table, report: BatchReport) -> None:
        """Add the windows that a batch changed, and its report."""
        with self._lock:
            self.batches += 1
            self.messages += report.messages
            self.rejected += report.rejected
            self.late += report.late
            self.most_late_s = max(self.most_late_s, report.most_late_s)
            for row in windows.to_pylist():
                self._windows[row["end"], row["sensor_type"], row["location"] or ""] = row
            for key in sorted(self._windows, key=newest_first)[self._rows :]:
                del self._windows[key]
            self._changed = True

    def print_alerts(self, delivered: list[Delivered], _: Offsets) -> None:
        """Print alerts, a line each."""
        with self._lock:
            self.alerts += len(delivered)
            self._status.print(*(alerts.line(one.alert) for one in delivered))

    def say(self, *lines: str) -> None:
        """Print lines above the table."""
        with self._lock:
            self._status.print(*lines)

    def show(self) -> None:
        """Show totals and table if a batch changed them."""
        with self._lock:
            if self._changed or self._status.is_live:
                self._status.update(self.text)
                self._changed = False

    def text(self) -> str:
        """Totals, and the table."""
        return "\n".join([self.totals(), *self._table()])

    def totals(self) -> str:
        """One line of totals since the start."""
        late = f" (at most {timedelta(seconds=self.most_late_s)} behind)" if self.late else ""
        return (
            f"{self.messages:,} readings, {self.rejected:,} rejected, {self.late:,} late{late}, {self.alerts:,} alerts"
        )

    def _table(self) -> list[str]:
        if not self._windows:
            return ["no windows yet: python iot_producer.py sends readings"]
        place = f"{'location':<16}" if self._by_location else ""
        lines = [f"{'window':<19} {'sensor type':<16}{place}{'count':>10}{'avg':>12}{'min':>12}{'max':>12}  unit"]
        last_end = None
        for end, sensor_type, location in sorted(self._windows, key=newest_first):
            row = self._windows[end, sensor_type, location]
            begin = end - timedelta(seconds=WINDOW_S)
            label = f"{begin.astimezone():%H:%M:%S}–{end.astimezone():%H:%M:%S}" if end != last_end else ""
            last_end = end
            numbers = "".join(f"{number:>12,.2f}" for number in (row["total"] / row["count"], row["min"], row["max"]))
            place = f"{printable(location)[:15]:<16}" if self._by_location else ""
            lines.append(
                f"{label:<19} {printable(sensor_type)[:15]:<16}{place}{row['count']:>10,}{numbers}"
                f"  {printable(row['unit'])}"
            )
        return lines


def newest_first(key: WindowKey) -> tuple[float, tuple[str, str]]:
    """Sort key: the newest window first, then by name."""
    end, sensor_type, location = key
    return -end.timestamp(), (sensor_type, location)
