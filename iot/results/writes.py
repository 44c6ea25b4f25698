"""The statements that write batches and alerts. Each runs in a transaction that has locked the summary row."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pyarrow as pa
from sqlalchemy import Connection, Row, case, delete, func, select, tuple_, update

from iot.alerts import Alert, Delivered, Rules, broken_bound
from iot.batches import MAX_SENSORS, Latest, Total
from iot.readings import STANDARD_UNITS, Rejected, parse_timestamp
from iot.results import timeline
from iot.results.queries import read_totals
from iot.results.tables import alerts, key_values, latest, sensors, summary, totals, windows, windows_by_location
from iot.results.upsert import upsert

WINDOW_COLUMNS = ("sensor_type", "location", "unit", "count", "total", "min", "max")
# Maximum numbers of values in the IN clause of one statement.
MAX_ENDS = 500
MAX_ALERT_IDS = 5_000


def update_summary(connection: Connection, current: Row[Any], **values: Any) -> None:
    """Set columns of the summary row; its version grows by one."""
    connection.execute(update(summary).values(version=current.version + 1, **values))


def put_key_values(connection: Connection, **values: Any) -> None:
    """Store values as JSON; the names are the fields of ``KeyValues``."""
    upsert(connection, key_values, [(name, msgspec.json.encode(value)) for name, value in values.items()])


def add_totals(connection: Connection, new: Mapping[str, Total]) -> dict[str, str]:
    """Add the totals of a batch; returns the units of all sensor types, by type."""
    current = read_totals(connection)
    for sensor_type, total in new.items():
        current[sensor_type] = _add(current.get(sensor_type), total)
    changed = ((sensor_type, current[sensor_type]) for sensor_type in new)
    upsert(
        connection,
        totals,
        [(name, of.count, _finite(of.total), of.min, of.max, of.newest_us, of.unit) for name, of in changed],
    )
    return {sensor_type: total.unit for sensor_type, total in current.items()}


def _add(old: Total | None, new: Total) -> Total:
    if old is None:
        return new
    newest = new if new.newest_us >= old.newest_us else old
    return Total(
        old.count + new.count,
        old.total + new.total,
        min(old.min, new.min),
        max(old.max, new.max),
        newest.newest_us,
        newest.unit,
    )


def upsert_windows(connection: Connection, changed: pa.Table, units: Mapping[str, str], now_s: float) -> None:
    """Write the windows that a batch changed, by location and over all locations.

    Args:
        changed: See ``Batch.windows``.
        units: By sensor type.
    """
    ends_s = (changed.column("end").cast(pa.int64()).to_numpy() // 1_000_000).tolist()
    names, locations, *columns = (changed.column(name).to_pylist() for name in WINDOW_COLUMNS)
    upsert(
        connection,
        windows_by_location,
        [
            (location, end_s, name, STANDARD_UNITS.get(name, unit), count, _finite(total), low, high)
            for location, end_s, name, unit, count, total, low, high in zip(
                locations, ends_s, names, *columns, strict=True
            )
        ],
    )
    keys = set(zip(ends_s, names, strict=True))
    ends = sorted(set(ends_s))
    for at in range(0, len(ends), MAX_ENDS):
        _sum_locations(connection, ends[at : at + MAX_ENDS], keys, units, now_s)


def _sum_locations(
    connection: Connection, ends_s: list[int], keys: set[tuple[int, str]], units: Mapping[str, str], now_s: float
) -> None:
    """Write the windows over all locations that have these ends and keys, from their rows by location."""
    columns = (windows_by_location.c[name] for name in ("end_s", "sensor_type", "unit", "count", "total", "min", "max"))
    rows_of: dict[tuple[int, str], list[Any]] = defaultdict(list)
    for end_s, name, *row in connection.execute(select(*columns).where(windows_by_location.c.end_s.in_(ends_s))):
        if (end_s, name) in keys:
            rows_of[end_s, name].append(row)
    summed = []
    for (end_s, name), rows in rows_of.items():
        row_units, counts, sums, lows, highs = zip(*rows, strict=True)
        unit = STANDARD_UNITS.get(name) or units.get(name) or row_units[-1]
        summed.append((end_s, name, unit, sum(counts), _finite_sum(sums), min(lows), max(highs), len(rows), now_s))
    upsert(connection, windows, summed)


def upsert_latest(connection: Connection, new: Iterable[Latest], rules: Rules) -> set[tuple[str, str]]:
    """Write the latest readings; only the ``MAX_SENSORS`` heard from most recently remain.

    Returns:
        Sensor id and type of those that were deleted.
    """
    heard_ms: dict[str, int] = {}
    rows = []
    for entry in new:
        # Latest has all fields of a reading that the rules look at.
        alert = broken_bound(entry, rules) is not None  # type: ignore[arg-type]
        *columns, _ = msgspec.structs.astuple(entry)
        rows.append((*columns, alert))
        heard_ms[entry.sensor_id] = max(entry.heard_ms, heard_ms.get(entry.sensor_id, entry.heard_ms))
    upsert(connection, latest, rows, _later)
    upsert(connection, sensors, heard_ms.items(), _heard_last)
    forgotten: set[tuple[str, str]] = set()
    for table in (latest, sensors):
        excess = (connection.scalar(select(func.count()).select_from(table)) or 0) - MAX_SENSORS
        if excess > 0:
            key = tuple_(*table.primary_key)
            longest_ago = select(*table.primary_key).order_by(table.c.heard_ms, *table.primary_key).limit(excess)
            if table is latest:
                forgotten = {(row.sensor_id, row.sensor_type) for row in connection.execute(longest_ago)}
            connection.execute(delete(table).where(key.in_(longest_ago)))
    return forgotten


def _later(old: Any, new: Any) -> dict[str, Any]:
    """The reading with the greater event time, then offset; and the last time that either was heard."""
    order = ("time_us", "offset", "partition")
    is_later = tuple_(*(new[name] for name in order)) > tuple_(*(old[name] for name in order))
    names = (*order, "location", "value", "unit", "alert")
    return {name: case((is_later, new[name]), else_=old[name]) for name in names} | _heard_last(old, new)


def _heard_last(old: Any, new: Any) -> dict[str, Any]:
    return {"heard_ms": case((new.heard_ms > old.heard_ms, new.heard_ms), else_=old.heard_ms)}


def insert_alerts(
    connection: Connection, delivered: Iterable[Delivered], topic_id: str, total_alerts: int
) -> list[Alert]:
    """Insert the alerts that are not in the database yet, and count them in the timeline.

    Args:
        topic_id: Kafka's id of the topic of readings.
        total_alerts: Number of alerts inserted so far.

    Returns:
        The inserted alerts.
    """
    delivered = list(delivered)
    repeated = _existing_ids(connection, [one.alert.alert_id for one in delivered], topic_id)
    new: dict[str, Alert] = {}
    rows = []
    counts: Counter[tuple[str, int]] = Counter()
    for alert, raised_ms in delivered:
        if alert.alert_id in repeated or alert.alert_id in new:
            continue
        time_us = _time_us(alert)
        if time_us is None:
            continue
        new[alert.alert_id] = alert
        *fields, _ = msgspec.structs.astuple(alert)
        rows.append((total_alerts + len(new), topic_id, raised_ms, time_us, *fields))
        if time_us // 1_000 > raised_ms - timeline.DAY_S * 1_000:
            counts[alert.type, time_us // 1_000_000] += 1
    upsert(connection, alerts, rows)
    timeline.count_alerts(connection, counts)
    return list(new.values())


def _existing_ids(connection: Connection, alert_ids: list[str], topic_id: str) -> set[str]:
    existing: set[str] = set()
    for at in range(0, len(alert_ids), MAX_ALERT_IDS):
        some = alerts.c.alert_id.in_(alert_ids[at : at + MAX_ALERT_IDS])
        existing.update(connection.scalars(select(alerts.c.alert_id).where(some, alerts.c.topic_id == topic_id)))
    return existing


def _time_us(alert: Alert) -> int | None:
    """The event time of an alert; None if it is malformed, which only another program's alert is."""
    try:
        return parse_timestamp(alert.timestamp)
    except Rejected:
        return None


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _finite_sum(numbers: Iterable[float | None]) -> float | None:
    """None if one of them is None, or if the sum overflows."""
    try:
        return _finite(math.fsum(math.nan if number is None else number for number in numbers))
    except OverflowError:
        return None
