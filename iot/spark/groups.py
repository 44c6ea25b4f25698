"""Groups of readings that fall into the same windows, as columns of numbers, and how they merge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iot.batches import Total
from iot.spark.columns import Array


class Groups(NamedTuple):
    """Columns of equal length, a row per group."""

    slot: Array
    """Slots of ten seconds since the epoch."""
    missed: Array
    """How many of the windows, earliest first, the readings are too late for."""
    sensor_type: Array
    """Positions in a list of names; so are ``location`` and ``unit``."""
    location: Array
    newest_us: Array
    unit: Array
    readings: Array
    total: Array
    low: Array
    high: Array


def merge(groups: Groups) -> Groups:
    """Rows of equal slot, missed windows, sensor type and location become one."""
    order, first = _grouped(groups.location, groups.sensor_type, groups.missed, groups.slot)
    last = _newest_of_each(order, first, groups.newest_us)
    with np.errstate(over="ignore", invalid="ignore"):
        return Groups(
            groups.slot[last],
            groups.missed[last],
            groups.sensor_type[last],
            groups.location[last],
            groups.newest_us[last],
            groups.unit[last],
            np.add.reduceat(groups.readings[order], first),
            np.add.reduceat(groups.total[order], first),
            np.minimum.reduceat(groups.low[order], first),
            np.maximum.reduceat(groups.high[order], first),
        )


def totals_by_type(groups: Groups, names: list[str], units: list[str]) -> dict[str, Total]:
    """Totals by sensor type, of late readings too."""
    if not len(groups.slot):
        return {}
    order, first = _grouped(groups.sensor_type)
    last = _newest_of_each(order, first, groups.newest_us)
    with np.errstate(over="ignore", invalid="ignore"):
        columns = (
            np.add.reduceat(groups.readings[order], first),
            np.add.reduceat(groups.total[order], first),
            np.minimum.reduceat(groups.low[order], first),
            np.maximum.reduceat(groups.high[order], first),
            groups.newest_us[last],
        )
    rows = zip(groups.sensor_type[last], groups.unit[last], *(column.tolist() for column in columns), strict=True)
    return {names[number]: Total(*values, units[unit]) for number, unit, *values in rows}  # type: ignore[call-arg]


def _grouped(*keys: Array) -> tuple[Array, Array]:
    """An order in which rows of equal keys are neighbours, and where in it each group begins."""
    order = np.lexsort(keys)
    if not len(order):
        return order, order
    changes = np.zeros(len(order), bool)
    changes[0] = True
    for key in keys:
        ordered = key[order]
        changes[1:] |= ordered[1:] != ordered[:-1]
    return order, np.flatnonzero(changes)


def _newest_of_each(order: Array, first: Array, newest_us: Array) -> Array:
    """The row of the newest reading of each group."""
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(order))))
    by_time = np.lexsort((newest_us[order], group))
    last: Array = order[by_time[np.append(first[1:], len(order)) - 1]]
    return last
