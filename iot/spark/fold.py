"""Validates the messages of one partition and folds the readings: the first Python step of a batch.

Readings that share a slot of ten seconds, a sensor type, a location, a unit and Kafka's timestamp become one partial.
The order within the partition is known here, so lateness against the own partition is judged here, reading by
reading. ``iot.spark.lateness`` does the rest, with the partials of all partitions. Nothing here imports pyspark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa

from iot.batches import MAX_LOCATIONS, MAX_TYPES, OTHER, Latest, Offsets, forget_oldest, keep_latest
from iot.readings import Reading, Rejected, decode_batch
from iot.rejections import kind_of
from iot.settings import SLIDE_S, WATERMARK_S, WINDOW_S
from iot.spark.candidate_columns import CandidateColumns
from iot.spark.candidates import Selection, Sides
from iot.spark.columns import Array, Columns, stable_order, starts
from iot.spark.contexts import Context, Progress, Watched

SLOT_US = SLIDE_S * 1_000_000
SLOTS_PER_WINDOW = WINDOW_S // SLIDE_S
# The newest event time before the first reading. Spark's first watermark is the epoch: no window ends before it.
FIRST_NEWEST_S = WATERMARK_S

PARTIALS = pa.schema(
    [
        # Kafka's timestamp of all messages in this partial.
        ("arrived_ms", pa.int64()),
        # How many of its windows, earliest first, it is too late for, as far as its own partition tells.
        ("missed", pa.int64()),
        ("sensor_type", pa.string()),
        ("location", pa.string()),
        ("unit", pa.string()),
        ("count", pa.int64()),
        ("total", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("oldest_us", pa.int64()),
        ("newest_us", pa.int64()),
        # How many whole seconds the oldest reading was behind the newest before it in its partition.
        ("behind_s", pa.int64()),
    ]
)

FOLDED = pa.schema(
    [
        ("partition", pa.int32()),
        # A record batch of PARTIALS as Arrow IPC, so that it crosses the JVM as it is. Null in the last row.
        ("partials", pa.binary()),
        # The PartitionReport as msgpack, in the last row only.
        ("report", pa.binary()),
    ]
)

OnRejected = Callable[[pa.RecordBatch, list[tuple[int, str]]], None]
"""Called with a batch and its rejected rows, each with the reason."""


class PartitionReport(msgspec.Struct):
    """What the messages of one partition come to, besides the partials."""

    messages: int = 0
    rejected: int = 0
    rejections: dict[str, int] = {}
    """By the kind of the reason."""
    first_ms: int | None = None
    """Kafka's timestamp of the first message."""
    next_offsets: Offsets = {}
    progress: dict[int, Progress] = {}
    """By partition: how its newest event time rose in this batch."""
    latest: list[Latest] = []
    candidates: CandidateColumns = msgspec.field(default_factory=CandidateColumns)
    new_types: dict[str, int] = {}
    """New sensor types, those that arrived first, with Kafka's timestamp of their first message in ms."""
    new_locations: dict[str, int] = {}


encode_report = msgspec.msgpack.Encoder().encode
decode_report = msgspec.msgpack.Decoder(PartitionReport).decode


def fold(
    batches: Iterable[pa.RecordBatch],
    context: Context,
    on_rejected: OnRejected | None = None,
    sensors: bool = False,
    alarm_sides: Sides | None = None,
    watched: Watched | None = None,
) -> Iterator[pa.RecordBatch]:
    """Validate and fold the messages of one partition, in the order of their offsets.

    Args:
        batches: with the columns ``value`` (binary), ``partition``, ``offset`` and ``timestamp_ms`` (Kafka's).
        context: of this batch.
        on_rejected: called for each batch with rejected messages.
        sensors: whether the report names the latest reading of each sensor.
        alarm_sides: what the rules for alarms look at. The report has candidates only with these and with ``sensors``.
        watched: the sensors that had an active alarm before this batch.

    Returns:
        Batches of ``FOLDED``, one row each: partials, and last the report.
    """
    report = PartitionReport()
    latest: dict[tuple[str, str], Latest] = {}
    types, locations = _NewNames(context.sensor_types, MAX_TYPES), _NewNames(context.locations, MAX_LOCATIONS)
    partition, newest_s = 0, FIRST_NEWEST_S
    progress: Progress = []
    selection: Selection | None = None
    for batch in batches:
        if not batch.num_rows:
            continue
        if not report.next_offsets:
            partition = batch.column("partition")[0].as_py()
            newest_s = newest_of(context.progress.get(partition))
            report.first_ms = batch.column("timestamp_ms")[0].as_py()
            if sensors and alarm_sides:
                selection = Selection(alarm_sides, partition, watched or {})
        report.next_offsets[partition] = batch.column("offset")[-1].as_py() + 1
        readings, rows, rejected = _validate(batch)
        report.rejected += len(rejected)
        for _, why in rejected:
            kind = kind_of(why)
            report.rejections[kind] = report.rejections.get(kind, 0) + 1
        if rejected and on_rejected:
            on_rejected(batch, rejected)
        if not readings:
            continue
        report.messages += len(readings)
        columns = _Folded(batch, readings, rows, newest_s)
        newest_s = columns.newest_s
        progress += columns.progress()
        partials = columns.partials()
        types.add(partials.column("sensor_type"), partials.column("arrived_ms"))
        locations.add(partials.column("location"), partials.column("arrived_ms"))
        yield _row(partition, partials.serialize().to_pybytes(), None)
        if selection:
            selection.add(columns, latest)
        if sensors:
            for entry in columns.latest(partition):
                keep_latest(latest, entry)
            forget_oldest(latest, 2)
    forget_oldest(latest)
    report.latest = list(latest.values())
    if selection:
        report.candidates = selection.columns()
    report.progress = {partition: progress} if progress else {}
    report.new_types, report.new_locations = types.first_ms, locations.first_ms
    yield _row(partition, None, encode_report(report))


def newest_of(progress: Progress | None) -> int:
    """The newest event time of a partition in whole seconds."""
    return progress[-1][1] if progress else FIRST_NEWEST_S


def windows_missed(slot: Array, newest_s: Array) -> Array:
    """How many windows of a reading in ``slot`` are closed, earliest first, once ``newest_s`` is the newest event time.

    A slot is ten seconds long and counted from the epoch. Its windows end 10, 20 and 30 s after it begins. A window is
    closed when it ends ``WATERMARK_S`` or more before the newest reading. All of these are whole seconds, so whole
    seconds of ``newest_s`` suffice.
    """
    missed: Array = np.clip((newest_s - WATERMARK_S - slot * SLIDE_S) // SLIDE_S, 0, SLOTS_PER_WINDOW)
    return missed


def rises(arrived_ms: Array, newest_s: Array) -> Progress:
    """The progress that messages make in any order: the running maximum by Kafka's timestamp, where it rises."""
    order = np.lexsort((-newest_s, arrived_ms))
    running = np.maximum.accumulate(newest_s[order])
    first = np.flatnonzero(np.concatenate(([True], running[1:] > running[:-1]))) if len(order) else order
    return list(zip(arrived_ms[order][first].tolist(), running[first].tolist(), strict=True))


class _NewNames:
    """Names that the batches before did not have, with the time of their first message; bounded."""

    def __init__(self, known: list[str], most: int) -> None:
        # A name equal to that of the overflow row shares this row.
        self._known = {*known, OTHER}
        self._most = most - len(known)
        self.first_ms: dict[str, int] = {}

    def add(self, names: pa.Array, arrived_ms: pa.Array) -> None:
        if self._most <= 0:
            return
        encoded = names.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        if self._known.issuperset(distinct):
            return
        first_ms = np.full(len(distinct), np.iinfo(np.int64).max)
        np.minimum.at(first_ms, encoded.indices.to_numpy(), arrived_ms.to_numpy())
        for name, at_ms in zip(distinct, first_ms.tolist(), strict=True):
            if name not in self._known:
                self.first_ms[name] = min(at_ms, self.first_ms.get(name, at_ms))
        self.first_ms = {name: self.first_ms[name] for name in first_names(self.first_ms)[: self._most]}


def first_names(first_ms: dict[str, int]) -> list[str]:
    """Names in the order of admission: by first message, then by name."""
    return sorted(first_ms, key=lambda name: (first_ms[name], name))


def _row(partition: int, partials: bytes | None, report: bytes | None) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([value], field.type) for value, field in zip((partition, partials, report), FOLDED, strict=True)],
        schema=FOLDED,
    )


def _validate(batch: pa.RecordBatch) -> tuple[list[Reading], Array | None, list[tuple[int, str]]]:
    """The valid readings, their rows (None: all rows), and the rejected rows with reasons."""
    verdicts = decode_batch(batch.column("value").to_pylist(), batch.column("timestamp_ms").to_pylist())
    rejected = [(row, str(verdict)) for row, verdict in enumerate(verdicts) if isinstance(verdict, Rejected)]
    if not rejected:
        return cast("list[Reading]", verdicts), None, rejected
    rows = np.ones(len(verdicts), bool)
    rows[[row for row, _ in rejected]] = False
    return [verdict for verdict in verdicts if isinstance(verdict, Reading)], np.flatnonzero(rows), rejected


class _Folded(Columns):
    """The readings of one Arrow batch, folded."""

    def __init__(self, batch: pa.RecordBatch, readings: list[Reading], rows: Array | None, newest_s: int) -> None:
        super().__init__(batch, readings, rows)
        self._slot = self.time_us // SLOT_US
        time_s = self.time_us // 1_000_000
        newest = np.maximum.accumulate(np.concatenate(([newest_s], time_s)))
        self.newest_s = int(newest[-1])
        self._missed = windows_missed(self._slot, newest[:-1])
        self._behind_s = newest[:-1] - time_s

    def progress(self) -> Progress:
        """How the newest event time rose among these readings alone."""
        return rises(self.arrived_ms, self.time_us // 1_000_000)

    def partials(self) -> pa.RecordBatch:
        """One row for each slot, sensor type, location, unit, Kafka timestamp and number of windows missed."""
        places: dict[tuple[str, Any, Any], int] = {}
        place_of_sensor = np.array([places.setdefault(sensor[1:], len(places)) for sensor in self.sensors])
        place = place_of_sensor[self.sensor]
        moments, arrival = np.unique(self.arrived_ms, return_inverse=True)
        # Slots can span 9,998 years, so they are numbered before they become part of a key.
        _, slots = np.unique(self._slot, return_inverse=True)
        key = ((slots * len(moments) + arrival) * (SLOTS_PER_WINDOW + 1) + self._missed) * len(places) + place
        order = np.argsort(key, kind="stable")
        first = starts(key[order])
        one_of_each = order[first]
        names = list(places)
        of_place = [names[number] for number in place[one_of_each].tolist()]
        value, time_us = self.value[order], self.time_us[order]
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduceat(value, first)
        columns = [
            self.arrived_ms[one_of_each],
            self._missed[one_of_each],
            [name[0] for name in of_place],
            [name[1] for name in of_place],
            [name[2] for name in of_place],
            np.diff(np.append(first, len(order))),
            total,
            np.minimum.reduceat(value, first),
            np.maximum.reduceat(value, first),
            np.minimum.reduceat(time_us, first),
            np.maximum.reduceat(time_us, first),
            np.maximum.reduceat(self._behind_s[order], first),
        ]
        return pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, PARTIALS, strict=True)], schema=PARTIALS
        )

    def latest(self, partition: int) -> Iterator[Latest]:
        """The latest reading of each sensor in this batch."""
        # Both sorts are stable: of equal times the greater offset comes last.
        order = np.argsort(self.time_us, kind="stable")
        order = order[stable_order(self.sensor[order], len(self.sensors))]
        first = starts(self.sensor[order])
        last = order[np.append(first[1:], len(order)) - 1]
        arrived_ms = self.arrived_ms[order]
        heard_ms = (np.maximum.reduceat(arrived_ms, first), np.minimum.reduceat(arrived_ms, first))
        columns = (self.time_us[last], self.offset[last], self.sensor[last], self.value[last], *heard_ms)
        for time_us, offset, number, value, *heard in zip(*(column.tolist() for column in columns), strict=True):
            sensor_id, sensor_type, location, unit = self.sensors[number]
            yield Latest(time_us, offset, partition, sensor_id, sensor_type, location, value, unit, *heard)
