"""The queries on the results database. Each runs in a transaction, which sees one snapshot."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, func, not_, select

from iot.alarms.model import ACTIVE, SENSOR_SILENT
from iot.alerts import Alert
from iot.batches import OTHER, Total
from iot.readings import format_timestamp
from iot.results import timeline
from iot.results.model import AlarmCount, LatestValue, State, Status, Window
from iot.results.tables import (
    SCHEMA_VERSION,
    alarms,
    alerts,
    key_values,
    latest,
    sensors,
    totals,
    windows,
    windows_by_location,
)

# Maximum number of latest readings in a State.
MAX_LATEST = 200
# Maximum number of alerts in a State.
RECENT_ALERTS = 10
# How long a sensor counts as active after it was heard from.
ACTIVE_S = 60
# The rate is an average over this time.
RATE_S = 10


class KeyValues(msgspec.Struct):
    """The small values beside the tables, each stored as JSON under its name."""

    locations: list[str] = []
    """Locations with rows of their own."""
    offsets: dict[int, int] = {}
    """The offset up to which everything has been processed, at least by partition that had messages."""
    alert_offsets: dict[int, int] | None = None
    """The next offsets to read from the topic of alerts."""
    last_change: int = 0
    """The number of the last change of an alarm. Numbers are not used again once their changes are deleted."""
    rejections: dict[str, int] = {}
    """Rejected messages by the kind of their reason."""
    recent: list[tuple[float, int]] = []
    """(time, number of readings) of the batches of the last ``RATE_S`` seconds."""
    status: Status | None = None
    checkpoint_dir: str = ""
    """The folder of the checkpoints that belong to these results; empty in results of an earlier version."""


_decode_key_values = msgspec.json.Decoder(KeyValues).decode


def read_key_values(connection: Connection) -> KeyValues:
    """Return all small values; missing ones have their defaults."""
    rows = connection.execute(select(key_values.c.name, key_values.c.value))
    return _decode_key_values(b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in rows))


def read_totals(connection: Connection) -> dict[str, Total]:
    """Return the totals by sensor type; a sum that overflowed is NaN."""
    columns = (totals.c[name] for name in ("sensor_type", *Total.__struct_fields__))
    return {
        sensor_type: Total(count, math.nan if total is None else total, *rest)
        for sensor_type, count, total, *rest in connection.execute(select(*columns))
    }


def read_state(connection: Connection, summary: Row[Any], now_s: float) -> State:
    """Return all results except windows and older alerts.

    Args:
        summary: The row of ``iot_results``.
        now_s: Decides which sensors are active and which steps of the histories are over.
    """
    stored = read_key_values(connection)
    of_types = read_totals(connection)
    has_alarms = summary.schema_version == SCHEMA_VERSION
    active_ms = int((now_s - ACTIVE_S) * 1_000)
    count = func.count().select()
    # The appended "" keeps SQLite from reading the whole table in the order of its key, as 3.51 does.
    sensor_in_alert = (latest.c.sensor_id + "").distinct()
    count_in_alert = select(func.count(sensor_in_alert)).where(_in_alert(active_ms))
    return State(
        version=summary.version,
        messages=summary.messages,
        rejected=summary.rejected,
        rejections=stored.rejections,
        late=summary.late,
        total_alerts=summary.total_alerts,
        totals=of_types,
        sensors=connection.scalar(count.select_from(sensors)) or 0,
        active_sensors=connection.scalar(count.select_from(sensors).where(sensors.c.heard_ms >= active_ms)) or 0,
        active_alerts=connection.scalar(count_in_alert) or 0,
        latest=_read_latest(connection, active_ms),
        rate_10s=sum(readings for at_s, readings in stored.recent if now_s - RATE_S < at_s <= now_s) / RATE_S,
        rate_history=timeline.read_rates(connection, now_s),
        alert_history=timeline.read_alert_counts(connection, now_s),
        recent_alerts=read_alerts(connection, summary, RECENT_ALERTS),
        sensor_types=[name for name in of_types if name != OTHER],
        locations=stored.locations,
        offsets=stored.offsets,
        processed_s=summary.processed_s,
        retention_s=summary.retention_s,
        alarms=_count_alarms(connection) if has_alarms else [],
        silent_sensors=_count_silent_sensors(connection) if has_alarms else 0,
        status=stored.status,
    )


def _count_alarms(connection: Connection) -> list[AlarmCount]:
    groups = (alarms.c.state, alarms.c.severity, alarms.c.sensor_type)
    query = select(*groups, func.count()).where(alarms.c.state.in_(ACTIVE)).group_by(*groups).order_by(*groups)
    return [AlarmCount(*row) for row in connection.execute(query)]


def _count_silent_sensors(connection: Connection) -> int:
    silent = (alarms.c.state == "firing") & (alarms.c.rule == SENSOR_SILENT)
    return connection.scalar(select(func.count(alarms.c.sensor_id.distinct())).where(silent)) or 0


def _in_alert(active_ms: int) -> ColumnElement[bool]:
    # The same condition as in the partial index latest_in_alert, so that the index is used.
    return latest.c.alert.is_(True) & (latest.c.heard_ms >= active_ms)


def _read_latest(connection: Connection, active_ms: int) -> list[LatestValue]:
    columns = [latest.c[name] for name in LatestValue._fields]
    in_alert = _in_alert(active_ms)
    first = connection.execute(
        select(*columns).where(in_alert).order_by(latest.c.heard_ms.desc()).limit(MAX_LATEST)
    ).all()
    others = (
        select(*columns)
        .select_from(sensors.join(latest, latest.c.sensor_id == sensors.c.sensor_id))
        .where(not_(in_alert))
        .order_by(sensors.c.heard_ms.desc())
        .limit(MAX_LATEST - len(first))
    )
    return [LatestValue(*row) for row in (*first, *connection.execute(others))]


def read_alerts(
    connection: Connection,
    summary: Row[Any],
    limit: int,
    *,
    sensor_type: str | None = None,
    sensor_id: str | None = None,
    since_us: int | None = None,
) -> list[Alert]:
    """Return at most ``limit`` alerts from ``since_us`` on, newest first by event time."""
    names = [name for name in Alert.__struct_fields__ if name != "timestamp"]
    query = select(*(alerts.c[name] for name in names), alerts.c.time_us)
    query = query.where(alerts.c.raised_ms >= summary.alerts_from_ms)
    if sensor_type is not None:
        query = query.where(alerts.c.sensor_type == sensor_type)
    if sensor_id is not None:
        query = query.where(alerts.c.sensor_id == sensor_id)
    if since_us is not None:
        query = query.where(alerts.c.time_us >= since_us)
    query = query.order_by(alerts.c.time_us.desc(), alerts.c.number.desc()).limit(limit)
    return [
        Alert(**dict(zip(names, fields, strict=True)), timestamp=format_timestamp(time_us))
        for *fields, time_us in connection.execute(query)
    ]


def read_windows(
    connection: Connection,
    *,
    since_s: float | None = None,
    until_s: float | None = None,
    sensor_type: str | None = None,
    location: str | None = None,
    limit: int | None = None,
) -> list[Window]:
    """Return windows that end within these bounds, of one location or over all locations; oldest first."""
    table = windows if location is None else windows_by_location
    columns = (table.c[name] for name in ("end_s", "sensor_type", "unit", "count", "total", "min", "max"))
    query = select(*columns)
    if since_s is not None:
        query = query.where(table.c.end_s >= math.ceil(since_s))
    if until_s is not None:
        query = query.where(table.c.end_s <= math.floor(until_s))
    if location is not None:
        query = query.where(table.c.location == location)
    if sensor_type is not None:
        query = query.where(table.c.sensor_type == sensor_type)
    rows = connection.execute(query.order_by(table.c.end_s, table.c.sensor_type).limit(limit))
    return [
        Window(end_s, name, unit, count, None if total is None else total / count, low, high)
        for end_s, name, unit, count, total, low, high in rows
    ]
