"""What is read from the results database: functions of a transaction, which sees one moment throughout."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, func, not_, select

from iot.alerts import Alert
from iot.batches import Context, Total
from iot.readings import format_timestamp
from iot.results import timeline
from iot.results.model import LatestValue, State, Status, Window
from iot.results.tables import alerts, latest, notes, sensors, totals, windows, windows_by_location

MAX_LATEST = 200
RECENT_ALERTS = 10
ACTIVE_S = 60
RATE_S = 10


class Notes(msgspec.Struct):
    """The small things beside the tables, each kept as JSON by its name."""

    contexts: dict[int, Context] = {}
    """Of the batch that was kept last, and of the one after it."""
    offsets: dict[int, int] = {}
    """The offset after the last message processed, by partition that had any."""
    alert_offsets: dict[int, int] | None = None
    """Where to go on reading alerts."""
    recent: list[tuple[float, int]] = []
    """(when, readings) of the batches of the last ``RATE_S`` seconds."""
    status: Status | None = None


_decode_notes = msgspec.json.Decoder(Notes).decode


def read_notes(connection: Connection) -> Notes:
    rows = connection.execute(select(notes.c.name, notes.c.value))
    return _decode_notes(b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in rows))


def read_totals(connection: Connection) -> dict[str, Total]:
    """By sensor type; a sum that overflowed is NaN."""
    columns = (totals.c[name] for name in ("sensor_type", *Total.__struct_fields__))
    return {
        sensor_type: Total(count, math.nan if total is None else total, *rest)
        for sensor_type, count, total, *rest in connection.execute(select(*columns))
    }


def read_state(connection: Connection, kept: Row[Any], now_s: float) -> State:
    """All that the page needs but windows and the alerts of old; ``kept`` is the row of ``iot_results``."""
    known = read_notes(connection)
    of_types = read_totals(connection)
    last = known.contexts[max(known.contexts)] if known.contexts else Context()
    active_ms = int((now_s - ACTIVE_S) * 1_000)
    count = func.count().select()
    return State(
        version=kept.version,
        messages=kept.messages,
        rejected=kept.rejected,
        late=kept.late,
        total_alerts=kept.total_alerts,
        totals=of_types,
        sensors=connection.scalar(count.select_from(sensors)) or 0,
        active_sensors=connection.scalar(count.select_from(sensors).where(sensors.c.heard_ms >= active_ms)) or 0,
        active_alerts=connection.scalar(select(func.count(latest.c.sensor_id.distinct())).where(_in_alert(active_ms)))
        or 0,
        latest=_latest(connection, active_ms),
        rate_10s=sum(readings for at_s, readings in known.recent if now_s - RATE_S < at_s <= now_s) / RATE_S,
        rate_history=timeline.rates(connection, now_s),
        alert_history=timeline.alert_counts(connection, now_s),
        recent_alerts=read_alerts(connection, kept, RECENT_ALERTS),
        sensor_types=last.sensor_types,
        locations=last.locations,
        offsets=known.offsets,
        processed_s=kept.processed_s,
        retention_s=kept.retention_s,
        status=known.status,
    )


def _in_alert(active_ms: int) -> ColumnElement[bool]:
    # As the index has it.
    return latest.c.alert.is_(True) & (latest.c.heard_ms >= active_ms)


def _latest(connection: Connection, active_ms: int) -> list[LatestValue]:
    columns = [latest.c[name] for name in LatestValue._fields]
    in_alert = _in_alert(active_ms)
    found = connection.execute(
        select(*columns).where(in_alert).order_by(latest.c.heard_ms.desc()).limit(MAX_LATEST)
    ).all()
    others = (
        select(*columns)
        .select_from(sensors.join(latest, latest.c.sensor_id == sensors.c.sensor_id))
        .where(not_(in_alert))
        .order_by(sensors.c.heard_ms.desc())
        .limit(MAX_LATEST - len(found))
    )
    return [LatestValue(*row) for row in (*found, *connection.execute(others))]


def read_alerts(
    connection: Connection,
    kept: Row[Any],
    limit: int,
    sensor_type: str | None = None,
    sensor_id: str | None = None,
    since_us: int | None = None,
) -> list[Alert]:
    """Newest first by event time."""
    names = [name for name in Alert.__struct_fields__ if name != "timestamp"]
    query = select(*(alerts.c[name] for name in names), alerts.c.time_us)
    query = query.where(alerts.c.raised_ms >= kept.alerts_from_ms)
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
    since_s: float | None,
    until_s: float | None,
    sensor_type: str | None,
    location: str | None,
    limit: int | None,
) -> list[Window]:
    """Windows that end within these bounds, oldest first."""
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
