"""What is deleted from the results database, and when: so little at a time that batches get in between."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, select

from iot.results.queries import Notes
from iot.results.tables import alerts, windows, windows_by_location
from iot.settings import LATENESS_S

MAX_WINDOW_ROWS = 1_000_000
MAX_ALERTS = 1_000_000
# So much longer than the newest an alert is remembered at least, so that a repeat is known: several times as long as a
# batch of the alerts query, which is what comes again after a failure.
REPEATS_MS = 300_000
AT_ONCE = 2_000


def delete_alerts(connection: Connection, kept: Row[Any]) -> bool:
    """Delete some of the alerts that are too many or too old; returns whether there may be more."""
    newest_ms = connection.scalar(select(func.max(alerts.c.raised_ms))) or 0
    oldest_ms = min(kept.alerts_from_ms, newest_ms - REPEATS_MS)
    for condition in (alerts.c.number <= kept.total_alerts - MAX_ALERTS, alerts.c.raised_ms < oldest_ms):
        some = select(alerts.c.number).where(condition).limit(AT_ONCE)
        if connection.execute(delete(alerts).where(alerts.c.number.in_(some))).rowcount == AT_ONCE:
            return True
    return False


def delete_windows(connection: Connection, known: Notes, written_before_s: float) -> bool:
    """Delete some of the windows that are too many or were last written too long ago; whether there may be more.

    A window that is still open stays, unless there are too many: Spark will only say which of its locations change.
    """
    newest_us = max((context.newest_us for context in known.contexts.values()), default=0)
    closed_s = newest_us / 1_000_000 - LATENESS_S
    rows = connection.scalar(select(func.count(windows.c.end_s) + func.coalesce(func.sum(windows.c.locations), 0))) or 0
    excess = rows - MAX_WINDOW_ROWS
    oldest = select(windows).order_by(windows.c.written_s, windows.c.end_s).limit(AT_ONCE)
    old = []
    for window in connection.execute(oldest):
        if excess > 0 or (window.written_s < written_before_s and window.end_s <= closed_s):
            old.append({"end": window.end_s, "type": window.sensor_type})
            excess -= window.locations + 1
    for table in (windows, windows_by_location):
        if old:
            is_old = (table.c.end_s == bindparam("end")) & (table.c.sensor_type == bindparam("type"))
            connection.execute(delete(table).where(is_old), old)
    return len(old) == AT_ONCE
