"""Selects the few readings of a partition that can begin, change or end an alarm: the *candidates*.

Most readings are clear, that is within the clear bounds of all rules, of sensors without an alarm. They change nothing.
A *record* is a reading that is not older than the newest of its sensor and type before it; others change nothing
either. Of each side of a rule, these records matter: every record that is not clear, and of the clear records that
follow, the first and all up to ``keep_firing_for`` after it. A *watched* sensor has an active alarm from an earlier
batch, so its first records matter as if one that is not clear preceded them.

``iot.alarms.machine`` comes to the same alarms with the candidates as with all readings, however batches are cut. This
needs all readings of a sensor in one partition. Otherwise an alarm may begin or end a batch late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from iot.batches import Latest
from iot.spark.candidate_columns import CandidateColumns
from iot.spark.columns import Array, Columns, stable_order, starts
from iot.spark.contexts import Watched

if TYPE_CHECKING:
    from iot.alerts import Rules

Sensor = tuple[str, str]
"""Sensor id and sensor type."""


class Side(NamedTuple):
    """When a value is clear of one bound: ``sign * value <= limit``."""

    sign: int
    limit: float
    keep_firing_for_us: int


Sides = Mapping[tuple[str, str], list[Side]]
"""By sensor type and unit."""

# The range of clear values without a bound.
ANY = (-np.inf, np.inf)
# A side without a bound: always clear.
NO_SIDE = Side(1, np.inf, 0)
# Since when the records of a side have been clear, if no record matters before the next one that is not clear.
SETTLED = np.iinfo(np.int64).min
# The same, if the next record matters in any case.
UNKNOWN = np.iinfo(np.int64).max


def sides_of(rules: Rules) -> Sides:
    """Return what the tasks must know of the rules; it can be pickled, and needs no other module there."""
    sides: dict[tuple[str, str], list[Side]] = {}
    for rule in rules.rules:
        for sign, bound, clear in ((1, rule.max, rule.clear_max), (-1, rule.min, rule.clear_min)):
            if bound is not None:
                side = Side(sign, sign * (bound if clear is None else clear), round(rule.keep_firing_for_s * 1e6))
                of = sides.setdefault((rule.sensor_type, rule.unit), [])
                if side not in of:
                    of.append(side)
    return sides


class Selection:
    """The candidates of one partition in one batch, selected from one Arrow batch after another."""

    def __init__(self, sides: Sides, partition: int, watched: Watched) -> None:
        self._chosen: list[tuple[Array, ...]] = []
        # Numbers for the sensors of the candidates.
        self._numbers: dict[tuple[str, str, Any, Any], int] = {}
        self._sides = sides
        # A number for each type and unit, and the clear range by this number; 0 for types and units without a rule.
        self._kinds = {key: number for number, key in enumerate(sides, 1)}
        self._low, self._high = np.array([ANY, *map(_clear_range, sides.values())]).T
        self._partition = partition
        self._watched = watched
        self._arrived_ms = 0
        # The sides by these numbers: every kind gets as many as the one with most.
        most = max(map(len, sides.values()))
        padded = [[*of, *[NO_SIDE] * (most - len(of))] for of in ([], *sides.values())]
        self._by_kind = [[np.array(column) for column in zip(*of, strict=True)] for of in zip(*padded, strict=True)]
        self._keeps = np.array([any(side.keep_firing_for_us for side in of) for of in ([], *sides.values())])
        units: dict[str, dict[str, list[int]]] = {}
        for (sensor_type, unit), of in sides.items():
            units.setdefault(sensor_type, {})[unit] = [*[UNKNOWN] * len(of), *[SETTLED] * (most - len(of))]
        # For each sensor that may have an alarm: since when each side has been clear, by unit.
        self._open = {sensor: dict(units[sensor[1]]) for sensor in watched if sensor[1] in units}

    def add(self, columns: Columns, latest: Mapping[Sensor, Latest]) -> None:
        """Select from an Arrow batch.

        Args:
            latest: the latest readings before this Arrow batch, of this batch.
        """
        arrived_ms = np.maximum(np.maximum.accumulate(columns.arrived_ms), self._arrived_ms)
        self._arrived_ms = int(arrived_ms[-1])
        kind = np.array([self._kinds.get((sensor[1], sensor[3]), 0) for sensor in columns.sensors])
        kind_of_row = kind[columns.sensor]
        unclear = (columns.value < self._low[kind_of_row]) | (columns.value > self._high[kind_of_row])
        involved = self._involved(columns, unclear)
        if not involved.any():
            return
        names = _Names(columns.sensors, np.flatnonzero(involved).tolist(), kind)
        rows = np.flatnonzero(involved[columns.sensor])
        rows = rows[stable_order(names.sensor_of[columns.sensor[rows]], len(names.sensors))]
        known_us = np.array([self._known_us(sensor, latest) for sensor in names.sensors])
        rows = rows[_records(names.sensor_of[columns.sensor[rows]], columns.time_us[rows], known_us)]
        chosen = np.zeros(len(columns.value), bool)
        self._select(columns, rows, unclear, names, chosen)
        # The newest record of a sensor with an alarm tells how new its newest reading is.
        number = names.sensor_of[columns.sensor[rows]]
        last = _ends(number)
        may_have_alarm = np.array([sensor in self._open for sensor in names.sensors])
        chosen[rows[last[may_have_alarm[number[last]]]]] = True
        self._append(columns, np.flatnonzero(chosen), arrived_ms)

    def _involved(self, columns: Columns, unclear: Array) -> Array:
        """Which of ``columns.sensors`` have or may get an alarm."""
        found = np.zeros(len(columns.sensors), bool)
        found[columns.sensor[unclear]] = True
        if not self._open and not found.any():
            return found
        hot = {columns.sensors[entry][:2] for entry in np.flatnonzero(found).tolist()}
        return np.array([sensor[:2] in hot or sensor[:2] in self._open for sensor in columns.sensors])

    def _known_us(self, sensor: Sensor, latest: Mapping[Sensor, Latest]) -> int:
        before = self._watched.get(sensor, SETTLED)
        return max(before, latest[sensor].time_us) if sensor in latest else before

    def _select(self, columns: Columns, rows: Array, unclear: Array, names: _Names, chosen: Array) -> None:
        """Mark the rows that matter for some side, and remember the sides that are still open.

        Args:
            rows: of records, by sensor.
            unclear: which rows are not clear of some side.
        """
        track = names.track_of[columns.sensor[rows]]
        rows, track = rows[track >= 0], track[track >= 0]
        if not len(rows):
            return
        order = stable_order(track, len(names.tracks))
        rows, track = rows[order], track[order]
        # Without keep_firing_for, the other clear rows matter for no side.
        near = unclear[rows]
        near[1:] |= near[:-1].copy()
        near[starts(track)] = True
        near |= self._keeps[names.kinds[track]]
        rows, track = rows[near], track[near]
        runs = _Runs(track, columns.time_us[rows], columns.value[rows])
        present = track[runs.last]
        tracks = [names.tracks[number] for number in present.tolist()]
        kind = names.kinds[present]
        since = np.full((len(self._by_kind), len(tracks)), SETTLED)
        was_open = np.zeros(len(tracks), bool)
        for at, (sensor, unit) in enumerate(tracks):
            if sensor in self._open and unit in self._open[sensor]:
                since[:, at] = self._open[sensor][unit]
                was_open[at] = True
        for number, (sign, limit, keep_us) in enumerate(self._by_kind):
            matters, since[number] = runs.of_side(sign[kind], limit[kind], keep_us[kind], since[number])
            chosen[rows[matters]] = True
        is_open = (since != SETTLED).any(axis=0)
        for at in np.flatnonzero(is_open | was_open).tolist():
            sensor, unit = tracks[at]
            if is_open[at]:
                self._open.setdefault(sensor, {})[unit] = since[:, at].tolist()
            else:
                del self._open[sensor][unit]
                if not self._open[sensor]:
                    del self._open[sensor]

    def _append(self, columns: Columns, rows: Array, arrived_ms: Array) -> None:
        number_of = np.zeros(len(columns.sensors), np.int64)
        for entry in np.flatnonzero(np.bincount(columns.sensor[rows], minlength=len(number_of))).tolist():
            number_of[entry] = self._numbers.setdefault(columns.sensors[entry], len(self._numbers))
        partition = np.full(len(rows), self._partition)
        sensor = number_of[columns.sensor[rows]]
        self._chosen.append(
            (arrived_ms[rows], partition, columns.offset[rows], sensor, columns.value[rows], columns.time_us[rows])
        )

    def columns(self) -> CandidateColumns:
        """The candidates, in order."""
        if not self._chosen:
            return CandidateColumns()
        return CandidateColumns.of(list(self._numbers), map(np.concatenate, zip(*self._chosen, strict=True)))


def _clear_range(sides: list[Side]) -> tuple[float, float]:
    """The least and the greatest value that is clear of all sides."""
    lows = (-side.limit for side in sides if side.sign < 0)
    highs = (side.limit for side in sides if side.sign > 0)
    return max([ANY[0], *lows]), min([ANY[1], *highs])


def _records(sensor: Array, time_us: Array, known_us: Array) -> Array:
    """Which readings are not older than the newest of their sensor before them.

    Args:
        sensor: numbers, ascending.
        known_us: the newest event time of each sensor before these readings.
    """
    first = starts(sensor)
    before = np.concatenate((time_us[:1], time_us[:-1]))
    before[first] = known_us[sensor[first]]
    if (time_us >= before).all():
        return np.ones(len(sensor), bool)
    # A running maximum for each sensor: ranks instead of times, and each sensor's ranks above those of the one before.
    _, rank = np.unique(np.concatenate((time_us, known_us)), return_inverse=True)
    of_time, of_known = rank[: len(sensor)], rank[len(sensor) :]
    above = sensor * len(rank)
    before = np.maximum.accumulate(np.concatenate((above[:1], above[:-1] + of_time[:-1])))
    records: Array = above + of_time >= np.maximum(before, above + of_known[sensor])
    return records


class _Names:
    """Numbers for the sensors of an Arrow batch that are involved, and for their *tracks*: a sensor in one unit."""

    def __init__(self, entries: list[tuple[str, str, Any, Any]], involved: list[int], kind: Array) -> None:
        """
        Args:
            entries: as ``Columns.sensors``.
            involved: the numbers of some of them.
            kind: a number of type and unit by number in ``entries``; 0 without a rule for them.
        """
        numbers: dict[Sensor, int] = {}
        tracks: dict[tuple[Sensor, str], int] = {}
        self.sensor_of = np.full(len(entries), -1)
        """The position in ``sensors``, by number in ``entries``."""
        self.track_of = np.full(len(entries), -1)
        """The position in ``tracks``, by number in ``entries``; -1 without a rule for type and unit."""
        has_rule = kind.tolist()
        for entry in involved:
            sensor_id, sensor_type, _, unit = entries[entry]
            sensor = sensor_id, sensor_type
            self.sensor_of[entry] = numbers.setdefault(sensor, len(numbers))
            if has_rule[entry]:
                self.track_of[entry] = tracks.setdefault((sensor, unit), len(tracks))
        self.sensors = list(numbers)
        self.tracks = list(tracks)
        self.kinds = np.zeros(len(tracks), np.int64)
        """``kind`` by position in ``tracks``."""
        self.kinds[self.track_of[self.track_of >= 0]] = kind[self.track_of >= 0]


class _Runs:
    """Records by track. A run of one side is what lies between two records that are not clear."""

    def __init__(self, track: Array, time_us: Array, value: Array) -> None:
        """
        Args:
            track: numbers, so that those of a track follow each other.
        """
        self._time_us, self._value = time_us, value
        self._row = np.arange(len(track))
        self.last = _ends(track)
        """The last row of each track."""
        self._count = np.diff(self.last, prepend=-1)
        self._first = np.repeat(self.last - self._count + 1, self._count)
        self._previous_us = np.concatenate((time_us[:1], time_us[:-1]))

    def of_side(self, sign: Array, limit: Array, keep_us: Array, since: Array) -> tuple[Array, Array]:
        """Return which rows matter for a side, and since when it has been clear after the last row of each track.

        All arguments are by track.

        Args:
            sign, limit, keep_us: the fields of ``Side``.
            since: since when the side has been clear before these rows, or ``SETTLED`` or ``UNKNOWN``.
        """
        sign, limit, keep_us, since = (np.repeat(column, self._count) for column in (sign, limit, keep_us, since))
        is_clear = sign * self._value <= limit
        last_unclear = np.maximum.accumulate(np.where(is_clear, -1, self._row))
        follows = last_unclear >= self._first
        begin = np.where(follows, np.minimum(last_unclear + 1, self._row), self._first)
        since = np.where(follows | (since == UNKNOWN), self._time_us[begin], since)
        is_open = since != SETTLED
        matters = is_open & ((self._row == begin) | (self._previous_us - since < keep_us)) | ~is_clear
        last = self.last
        is_over = ~is_open[last] | (self._time_us[last] - since[last] >= keep_us[last])
        after = np.where(is_clear[last], np.where(is_over, SETTLED, since[last]), UNKNOWN)
        return matters, after


def _ends(ordered: Array) -> Array:
    """Where runs of equal values end."""
    return np.append(starts(ordered)[1:], len(ordered)) - 1 if len(ordered) else ordered
