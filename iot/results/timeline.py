"""Counts over the last day, of readings processed and of alerts by type; older counts are coarser.

Every count is added to a step of each length, and a length is stored only as long as it is shown. So counts need not be
merged later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select

from iot.results.tables import history
from iot.results.upsert import upsert

# How long steps of each length are shown, by length; in seconds. Each length divides the next.
RATE_STEPS = {10: 900, 60: 3_600, 300: 6 * 3_600, 900: 24 * 3_600}
ALERT_STEPS = {60: 3_600, 300: 6 * 3_600, 900: 24 * 3_600}
DAY_S = 24 * 3_600
# The series of readings processed, by the clock. Each alert type has a series of its own, by event time.
READINGS = ""


def count_readings(connection: Connection, now_s: float, count: int) -> None:
    """Add readings processed. A count of 0 distinguishes a step without readings from one without a measurement."""
    _add(connection, {(READINGS, int(now_s)): count}, RATE_STEPS)


def count_alerts(connection: Connection, counts: Mapping[tuple[str, int], int]) -> None:
    """Add alerts by (type, second of event time)."""
    _add(connection, counts, ALERT_STEPS)


def read_rates(connection: Connection, now_s: float) -> list[tuple[int, float]]:
    """Return (end of a step in seconds, readings per second in it) for all steps that are over, oldest first."""
    rows = connection.execute(
        select(history.c.at_s, history.c.step_s, history.c.count)
        .where(history.c.series == READINGS, history.c.at_s + history.c.step_s <= now_s, _shown(now_s, RATE_STEPS))
        .order_by(history.c.at_s)
    )
    return [(at_s + step_s, count / step_s) for at_s, step_s, count in rows]


def read_alert_counts(connection: Connection, now_s: float) -> list[tuple[int, str, int]]:
    """Return (start of a step in seconds, alert type, count), oldest first."""
    rows = connection.execute(
        select(history.c.at_s, history.c.series, history.c.count)
        .where(history.c.series != READINGS, _shown(now_s, ALERT_STEPS))
        .order_by(history.c.at_s, history.c.series)
    )
    return [(at_s, series, count) for at_s, series, count in rows]


def delete_old_steps(connection: Connection, now_s: float) -> None:
    """Delete steps that are not shown any more; each is stored twice as long, for readers whose clock is behind."""
    for step_s, shown_s in RATE_STEPS.items():
        old = and_(history.c.step_s == step_s, history.c.at_s < now_s - 2 * shown_s)
        connection.execute(delete(history).where(old))


def _add(connection: Connection, counts: Mapping[tuple[str, int], int], steps: Iterable[int]) -> None:
    rows: dict[tuple[str, int, int], int] = {}
    for (series, second), count in counts.items():
        for step_s in steps:
            key = (series, step_s, second // step_s * step_s)
            rows[key] = rows.get(key, 0) + count
    upsert(connection, history, [(*key, count) for key, count in rows.items()], _sum)


def _sum(old: Any, new: Any) -> dict[str, Any]:
    return {"count": old.count + new.count}


def _shown(now_s: float, steps: Mapping[int, int]) -> ColumnElement[bool]:
    """Select the finest step that covers each moment; two lengths meet where a step of the coarser one begins."""
    lengths = list(steps)
    conditions = []
    until_s = None
    for length_s, coarser_s in zip(lengths, [*lengths[1:], lengths[-1]], strict=True):
        since_s = int(now_s - steps[length_s]) // coarser_s * coarser_s
        condition = and_(history.c.step_s == length_s, history.c.at_s >= since_s)
        conditions.append(condition if until_s is None else and_(condition, history.c.at_s < until_s))
        until_s = since_s
    return or_(*conditions)
