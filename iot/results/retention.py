"""Deletes old rows from the results database, a few in each transaction so that batches need not wait."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, select

from iot.results import timeline
from iot.results.alarm_writes import delete_alarms, put_changes
from iot.results.database import Database
from iot.results.tables import alarms, alerts, silences, totals, windows, windows_by_location
from iot.results.transactions import Transactions
from iot.results.writes import update_summary
from iot.settings import WATERMARK_S

# How long one call of ``prune`` deletes; the next call deletes the rest.
PRUNE_S = 5.0

# Maximum number of rows in the tables of windows together, and of alerts.
MAX_WINDOW_ROWS = 1_000_000
MAX_ALERTS = 1_000_000
# Maximum number of alarms that are resolved.
MAX_ENDED = 100_000
# How long alerts are remembered to recognise a repeated delivery, counted from the newest alert. After a failure Spark
# repeats at most a batch of the alerts query; this is several times as long.
REPEATS_MS = 300_000
# Maximum number of windows or alerts that one call deletes.
MAX_DELETED = 2_000


def prune(transactions: Transactions, database: Database, now_s: float, retention_s: float) -> None:
    """As ``Store.prune``."""
    with transactions.writing() as (connection, current):
        timeline.delete_old_steps(connection, now_s)
        alerts_from_ms = int((now_s - retention_s) * 1_000)
        update_summary(connection, current, retention_s=retention_s, alerts_from_ms=alerts_from_ms)

    def some_alerts() -> bool:
        with transactions.writing() as (connection, current):
            update_summary(connection, current)
            return delete_alerts(connection, current)

    def some_ended() -> bool:
        with transactions.writing() as (connection, current):
            update_summary(connection, current)
            return delete_ended(connection, alerts_from_ms)

    def some_windows() -> bool:
        with transactions.writing() as (connection, current):
            update_summary(connection, current)
            return delete_windows(connection, now_s - retention_s)

    until_s = time.monotonic() + PRUNE_S
    for step in (some_alerts, some_ended, some_windows, database.shrink):
        while step() and time.monotonic() < until_s:
            pass


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


def delete_ended(connection: Connection, ended_before_ms: int) -> bool:
    """Delete some alarms and silences that ended too long ago; returns whether more may be left.

    Alarms in excess of ``MAX_ENDED`` are deleted too. Each is also deleted from the topic of alarms.
    """
    silences_ended = silences.c.ends_us < ended_before_ms * 1_000
    connection.execute(delete(silences).where(silences_ended))
    ended = (connection.scalar(select(func.count()).where(alarms.c.ended_ms.is_not(None)))) or 0
    query = select(alarms.c.alarm_id, alarms.c.ended_ms).where(alarms.c.ended_ms.is_not(None))
    rows = connection.execute(query.order_by(alarms.c.ended_ms, alarms.c.alarm_id).limit(MAX_DELETED)).all()
    excess = ended - MAX_ENDED
    old = [row.alarm_id for number, row in enumerate(rows) if number < excess or row.ended_ms < ended_before_ms]
    delete_alarms(connection, old)
    put_changes(connection, [(alarm_id, None) for alarm_id in old])
    return len(old) == MAX_DELETED
