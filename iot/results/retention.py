"""Deletes old rows from the results database, a few in each transaction so that batches need not wait."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, select

from iot.results.tables import alerts, totals, windows, windows_by_location
from iot.settings import WATERMARK_S

# Maximum number of rows in the tables of windows together, and of alerts.
MAX_WINDOW_ROWS = 1_000_000
MAX_ALERTS = 1_000_000
# How long alerts are remembered to recognise a repeated delivery, counted from the newest alert. After a failure Spark
# repeats at most a batch of the alerts query; this is several times as long.
REPEATS_MS = 300_000
# Maximum number of windows or alerts that one call deletes.
MAX_DELETED = 2_000


def delete_alerts(connection: Connection, summary: Row[Any]) -> bool:
    """Delete some alerts that are too old or exceed ``MAX_ALERTS``; returns whether more may be left."""
    newest_ms = connection.scalar(select(func.max(alerts.c.raised_ms))) or 0
    oldest_ms = min(summary.alerts_from_ms, newest_ms - REPEATS_MS)
    for condition in (alerts.c.number <= summary.total_alerts - MAX_ALERTS, alerts.c.raised_ms < oldest_ms):
        some = select(alerts.c.number).where(condition).limit(MAX_DELETED)
        if connection.execute(delete(alerts).where(alerts.c.number.in_(some))).rowcount == MAX_DELETED:
            return True
    return False


def delete_windows(connection: Connection, written_before_s: float) -> bool:
    """Delete some windows last written before ``written_before_s`` or in excess; returns whether more may be left.

    An open window stays, unless there are too many: Spark reports only the locations that change, so the others would
    be missing from it.
    """
    newest_us = connection.scalar(select(func.max(totals.c.newest_us))) or 0
    closed_s = newest_us / 1_000_000 - WATERMARK_S
    rows = connection.scalar(select(func.count(windows.c.end_s) + func.coalesce(func.sum(windows.c.locations), 0))) or 0
    excess = rows - MAX_WINDOW_ROWS
    oldest = select(windows).order_by(windows.c.written_s, windows.c.end_s).limit(MAX_DELETED)
    old = []
    for window in connection.execute(oldest):
        if excess > 0 or (window.written_s < written_before_s and window.end_s <= closed_s):
            old.append({"end": window.end_s, "type": window.sensor_type})
            excess -= window.locations + 1
    for table in (windows, windows_by_location):
        if old:
            is_old = (table.c.end_s == bindparam("end")) & (table.c.sensor_type == bindparam("type"))
            connection.execute(delete(table).where(is_old), old)
    return len(old) == MAX_DELETED
