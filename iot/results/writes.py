"""How a batch is merged into the tables of the results database: functions of a transaction that writes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pyarrow as pa
from sqlalchemy import Connection, case, delete, func, select, tuple_

from iot.alerts import Rules, broken_bound
from iot.batches import MAX_SENSORS, Latest, Total
from iot.readings import STANDARD_UNITS
from iot.results.database import upsert
from iot.results.queries import read_totals
from iot.results.tables import latest, sensors, totals, windows, windows_by_location

WINDOW_COLUMNS = ("sensor_type", "location", "unit", "count", "total", "min", "max")
# How many moments are looked up in one statement.
ENDS_AT_ONCE = 500


def merge_totals(connection: Connection, new: Mapping[str, Total]) -> dict[str, str]:
    """Add the totals of a batch; returns the units by sensor type, of all that are known."""
    known = read_totals(connection)
    for sensor_type, total in new.items():
        known[sensor_type] = _sum_of(known.get(sensor_type), total)
    changed = ((sensor_type, known[sensor_type]) for sensor_type in new)
    upsert(
        connection,
        totals,
        [(name, of.count, _finite(of.total), of.min, of.max, of.newest_us, of.unit) for name, of in changed],
    )
    return {sensor_type: total.unit for sensor_type, total in known.items()}


def _sum_of(old: Total | None, new: Total) -> Total:
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


def merge_windows(connection: Connection, changed: pa.Table, units: Mapping[str, str], now_s: float) -> None:
    """Write the windows that changed, by location and over all locations.

    Args:
        changed: see ``Store.keep_batch``.
        units: by sensor type.
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
    for at in range(0, len(ends), ENDS_AT_ONCE):
        _merge_locations(connection, ends[at : at + ENDS_AT_ONCE], keys, units, now_s)


def _merge_locations(
    connection: Connection, ends_s: list[int], keys: set[tuple[int, str]], units: Mapping[str, str], now_s: float
) -> None:
    """Write the windows with these keys that end at these moments over all locations."""
    columns = (windows_by_location.c[name] for name in ("end_s", "sensor_type", "unit", "count", "total", "min", "max"))
    rows_of: dict[tuple[int, str], list[Any]] = defaultdict(list)
    for end_s, name, *row in connection.execute(select(*columns).where(windows_by_location.c.end_s.in_(ends_s))):
        if (end_s, name) in keys:
            rows_of[end_s, name].append(row)
    merged = []
    for (end_s, name), rows in rows_of.items():
        of_units, counts, sums, lows, highs = zip(*rows, strict=True)
        unit = STANDARD_UNITS.get(name) or units.get(name) or of_units[-1]
        merged.append((end_s, name, unit, sum(counts), _finite_sum(sums), min(lows), max(highs), len(rows), now_s))
    upsert(connection, windows, merged)


def merge_latest(connection: Connection, new: Iterable[Latest], rules: Rules) -> None:
    """Keep the latest readings, of the sensors that were heard from most recently."""
    heard_ms: dict[str, int] = {}
    rows = []
    for entry in new:
        # It has what is looked at of a reading.
        alert = broken_bound(entry, rules) is not None  # type: ignore[arg-type]
        rows.append((*msgspec.structs.astuple(entry), alert))
        heard_ms[entry.sensor_id] = max(entry.heard_ms, heard_ms.get(entry.sensor_id, entry.heard_ms))
    upsert(connection, latest, rows, _later)
    upsert(connection, sensors, heard_ms.items(), _heard_last)
    for table in (latest, sensors):
        excess = (connection.scalar(select(func.count()).select_from(table)) or 0) - MAX_SENSORS
        if excess > 0:
            key = tuple_(*table.primary_key)
            longest_ago = select(*table.primary_key).order_by(table.c.heard_ms).limit(excess)
            connection.execute(delete(table).where(key.in_(longest_ago)))


def _later(old: Any, new: Any) -> dict[str, Any]:
    """The reading of greater event time, then offset; the time that either was heard at last."""
    order = ("time_us", "offset", "partition")
    is_later = tuple_(*(new[name] for name in order)) > tuple_(*(old[name] for name in order))
    names = (*order, "location", "value", "unit", "alert")
    return {name: case((is_later, new[name]), else_=old[name]) for name in names} | _heard_last(old, new)


def _heard_last(old: Any, new: Any) -> dict[str, Any]:
    return {"heard_ms": case((new.heard_ms > old.heard_ms, new.heard_ms), else_=old.heard_ms)}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _finite_sum(numbers: Iterable[float | None]) -> float | None:
    """None where one of them is, or where the sum overflows."""
    try:
        return _finite(math.fsum(math.nan if number is None else number for number in numbers))
    except OverflowError:
        return None
