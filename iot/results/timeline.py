"""Counts over the last day, coarser the longer ago: of readings processed, and of alerts by type.

Each count is kept in every step at once, and each step only as long as it is read, so nothing has to be merged later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select

from iot.results.database import upsert
from iot.results.tables import history

# Length of a step and how long it is read, in seconds; each length divides the next.
RATE_STEPS = {10: 900, 60: 3_600, 300: 6 * 3_600, 900: 24 * 3_600}
ALERT_STEPS = {60: 3_600, 300: 6 * 3_600, 900: 24 * 3_600}
DAY_S = 24 * 3_600
# The series of readings processed, by the clock; alerts have a series for each type, by event time.
READINGS = ""


def count_readings(connection: Connection, now_s: float, count: int) -> None:
    """Add readings processed; adding none still tells a step in which nothing came from one that nobody watched."""
    _add(connection, {(READINGS, int(now_s)): count}, RATE_STEPS)


def count_alerts(connection: Connection, counts: Mapping[tuple[str, int], int]) -> None:
    """Add alerts by (type, second of event time)."""
    _add(connection, counts, ALERT_STEPS)


def rates(connection: Connection, now_s: float) -> list[tuple[int, float]]:
    """(end of a step in seconds, readings per second in it), oldest first; the steps that are over."""
    rows = connection.execute(
        select(history.c.at_s, history.c.step_s, history.c.count)
        .where(history.c.series == READINGS, history.c.at_s + history.c.step_s <= now_s, _shown(now_s, RATE_STEPS))
        .order_by(history.c.at_s)
    )
    return [(at_s + step_s, count / step_s) for at_s, step_s, count in rows]


def alert_counts(connection: Connection, now_s: float) -> list[tuple[int, str, int]]:
    """(start of a step in seconds, type of alert, count), oldest first."""
    rows = connection.execute(
        select(history.c.at_s, history.c.series, history.c.count)
        .where(history.c.series != READINGS, _shown(now_s, ALERT_STEPS))
        .order_by(history.c.at_s, history.c.series)
    )
    return [(at_s, series, count) for at_s, series, count in rows]


def forget(connection: Connection, now_s: float) -> None:
    """Delete what is not read any more."""
    for step_s, kept_s in RATE_STEPS.items():
        # As much again, for whoever reads with a clock that is behind.
        old = and_(history.c.step_s == step_s, history.c.at_s < now_s - 2 * kept_s)
        connection.execute(delete(history).where(old))


def _add(connection: Connection, counts: Mapping[tuple[str, int], int], steps: Iterable[int]) -> None:
    rows: dict[tuple[str, int, int], int] = {}
    for (series, second), count in counts.items():
        for step_s in steps:
            key = (series, step_s, second // step_s * step_s)
            rows[key] = rows.get(key, 0) + count
    upsert(connection, history, [(*key, count) for key, count in rows.items()], _added)


def _added(old: Any, new: Any) -> dict[str, Any]:
    return {"count": old.count + new.count}


def _shown(now_s: float, steps: Mapping[int, int]) -> ColumnElement[bool]:
    """Of each moment the finest step that is kept so long: they meet where a step of the coarser one begins."""
    lengths = list(steps)
    conditions = []
    until_s = None
    for length_s, coarser_s in zip(lengths, [*lengths[1:], lengths[-1]], strict=True):
        since_s = int(now_s - steps[length_s]) // coarser_s * coarser_s
        condition = and_(history.c.step_s == length_s, history.c.at_s >= since_s)
        conditions.append(condition if until_s is None else and_(condition, history.c.at_s < until_s))
        until_s = since_s
    return or_(*conditions)
