"""What happens to a batch of messages before Spark's windows see it: validate, fold, and judge what is late.

Spark moves its watermark between batches only, so of a backlog that comes as one batch nothing would be late. Here
lateness is judged reading by reading, against what was written to the topic before it, in two steps:

``digest`` runs once per Kafka partition, in parallel. It judges each message with the one validator, and folds readings
that share a slot of ten seconds, sensor type, location and moment of arrival into one partial: a few thousand rows
for a million readings. It knows the order within its partition.

``iot.spark.lateness`` runs once per batch, on the partials of all partitions. It knows the order across them by Kafka's
timestamps, says which windows a partial is too late for, and adds a ``Report`` on the batch. The windows themselves,
their watermark and their state are Spark's.

Nothing here imports pyspark, so both can be tested on plain Arrow batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa

from iot.batches import Latest, Report, encode_report, forget_oldest, keep_latest
from iot.readings import Reading, Rejected, decode_batch
from iot.settings import LATENESS_S, SLIDE_S, WINDOW_S

Array = np.ndarray[Any, np.dtype[Any]]

SLOT_US = SLIDE_S * 1_000_000
SLOTS_PER_WINDOW = WINDOW_S // SLIDE_S
LATENESS_US = LATENESS_S * 1_000_000
# Moments of arrival that are told apart in one Arrow batch: more would fold less, fewer would judge more coarsely.
ARRIVALS = 32

# What readings that were folded have in common, and what they come to.
FOLDED = [
    ("sensor_type", pa.string()),
    ("location", pa.string()),
    ("unit", pa.string()),
    ("count", pa.int64()),
    ("total", pa.float64()),
    ("min", pa.float64()),
    ("max", pa.float64()),
]

PARTIALS = pa.schema(
    [
        # Kafka's timestamps of the first and last message that was folded in.
        ("arrived_first_ms", pa.int64()),
        ("arrived_last_ms", pa.int64()),
        # How many of its windows, earliest first, it is too late for.
        ("missed", pa.int64()),
        *FOLDED,
        ("oldest_us", pa.int64()),
        ("newest_us", pa.int64()),
        # How far a reading was behind the newest before it in its partition, at most.
        ("behind_us", pa.int64()),
        # On a row of its own: what the partition has to report, as msgpack.
        ("report", pa.binary()),
    ]
)

OnRejected = Callable[[pa.RecordBatch, list[tuple[int, str]]], None]
"""Called with a batch and the rows of it that were rejected, each with the reason."""


def digest(
    batches: Iterable[pa.RecordBatch], newest_us: int, on_rejected: OnRejected | None = None, sensors: bool = False
) -> Iterator[pa.RecordBatch]:
    """Validate and fold the messages of one partition, in the order of their offsets.

    Args:
        batches: with the columns ``value`` (binary), ``partition``, ``offset`` and ``timestamp_ms`` (Kafka's).
        newest_us: the newest event time of the batches before.
        on_rejected: told of rejected messages, batch by batch.
        sensors: whether the report names the latest reading of each sensor.

    Returns:
        Batches of ``PARTIALS``; the report in the last one.
    """
    report = Report(newest_us=newest_us)
    latest: dict[tuple[str, str], Latest] = {}
    for batch in batches:
        if not batch.num_rows:
            continue
        report.next_offsets[batch.column("partition")[0].as_py()] = batch.column("offset")[-1].as_py() + 1
        readings, rows, rejected = _judge_messages(batch)
        report.rejected += len(rejected)
        if rejected and on_rejected:
            on_rejected(batch, rejected)
        if not readings:
            continue
        report.messages += len(readings)
        folding = _Folding(batch, readings, rows, report.newest_us)
        report.newest_us = folding.newest_us
        yield folding.partials()
        if sensors:
            for entry in folding.latest():
                keep_latest(latest, entry)
            forget_oldest(latest, 2)
    forget_oldest(latest)
    report.latest = list(latest.values())
    empty = [None] * len(PARTIALS)
    yield pa.RecordBatch.from_arrays(
        [
            pa.array([value], field.type)
            for value, field in zip([*empty[:-1], encode_report(report)], PARTIALS, strict=True)
        ],
        schema=PARTIALS,
    )


def _judge_messages(batch: pa.RecordBatch) -> tuple[list[Reading], Array | None, list[tuple[int, str]]]:
    """The valid readings, which rows they are (None: all), and the rejected rows with reasons."""
    verdicts = decode_batch(batch.column("value").to_pylist(), batch.column("timestamp_ms").to_pylist())
    rejected = [(row, str(verdict)) for row, verdict in enumerate(verdicts) if isinstance(verdict, Rejected)]
    if not rejected:
        return cast("list[Reading]", verdicts), None, rejected
    rows = np.ones(len(verdicts), bool)
    rows[[row for row, _ in rejected]] = False
    return [verdict for verdict in verdicts if isinstance(verdict, Reading)], np.flatnonzero(rows), rejected


class _Folding:
    """The readings of one Arrow batch as columns, and how they fold."""

    def __init__(self, batch: pa.RecordBatch, readings: list[Reading], rows: Array | None, newest_us: int) -> None:
        size = len(readings)

        def column(name: str) -> Array:
            values: Array = batch.column(name).to_numpy(zero_copy_only=False)
            return values if rows is None else values[rows]

        self.arrived_ms = column("timestamp_ms")
        self.offset = column("offset")
        self.partition = int(batch.column("partition")[0].as_py())
        self.time_us = np.fromiter([reading.time_us for reading in readings], np.int64, size)
        self.value = np.fromiter([reading.value for reading in readings], np.float64, size)
        # One number per sensor; everything that a sensor does not change is looked up by it.
        numbers: dict[tuple[str, str, Any, Any], int] = {}
        self.sensor = np.fromiter(
            [numbers.setdefault((r.sensor_id, r.sensor_type, r.location, r.unit), len(numbers)) for r in readings],
            np.int64,
            size,
        )
        self.sensors = list(numbers)
        newest = np.maximum.accumulate(np.concatenate(([newest_us], self.time_us)))
        self.newest_us = int(newest[-1])
        self.slot = self.time_us // SLOT_US
        self.missed = windows_missed(self.slot, newest[:-1])
        self.behind_us = newest[:-1] - self.time_us

    def partials(self) -> pa.RecordBatch:
        """One row for each slot, sensor type, location, unit, moment of arrival and number of windows missed."""
        places: dict[tuple[str, Any, Any], int] = {}
        place_of_sensor = np.array([places.setdefault(sensor[1:], len(places)) for sensor in self.sensors])
        place = place_of_sensor[self.sensor]
        moments, arrival = np.unique(self.arrived_ms, return_inverse=True)
        if len(moments) > ARRIVALS:
            arrival = arrival * ARRIVALS // len(moments)
        slots = self.slot - self.slot.min()
        # The span of slots can be 9,998 years, so they are numbered before they are part of a key.
        _, slots = np.unique(slots, return_inverse=True)
        key = ((slots * ARRIVALS + arrival) * (SLOTS_PER_WINDOW + 1) + self.missed) * len(places) + place
        order = np.argsort(key, kind="stable")
        first = _starts(key[order])
        one_of_each = order[first]
        names = list(places)
        of_place = [names[number] for number in place[one_of_each].tolist()]
        value, time_us, arrived_ms = self.value[order], self.time_us[order], self.arrived_ms[order]
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduceat(value, first)
        columns = [
            np.minimum.reduceat(arrived_ms, first),
            np.maximum.reduceat(arrived_ms, first),
            self.missed[one_of_each],
            [name[0] for name in of_place],
            [name[1] for name in of_place],
            [name[2] for name in of_place],
            np.diff(np.append(first, len(order))),
            total,
            np.minimum.reduceat(value, first),
            np.maximum.reduceat(value, first),
            np.minimum.reduceat(time_us, first),
            np.maximum.reduceat(time_us, first),
            np.maximum.reduceat(self.behind_us[order], first),
            [None] * len(first),
        ]
        return pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, PARTIALS, strict=True)], schema=PARTIALS
        )

    def latest(self) -> Iterator[Latest]:
        """The latest reading of each sensor in this batch."""
        # Stable: of equal times the greater offset comes last.
        order = np.lexsort((self.time_us, self.sensor))
        first = _starts(self.sensor[order])
        last = order[np.append(first[1:], len(order)) - 1]
        heard_ms = np.maximum.reduceat(self.arrived_ms[order], first)
        columns = (self.time_us[last], self.offset[last], self.sensor[last], self.value[last], heard_ms)
        for time_us, offset, number, value, heard in zip(*(column.tolist() for column in columns), strict=True):
            sensor_id, sensor_type, location, unit = self.sensors[number]
            yield Latest(time_us, offset, self.partition, sensor_id, sensor_type, location, value, unit, heard)


def windows_missed(slot: Array, newest_us: Array) -> Array:
    """How many windows of a reading in ``slot`` (of ten seconds since the epoch) are closed, earliest first.

    The windows end 10, 20 and 30 s after the slot begins; one is closed when it ended ``LATENESS_S`` or more before the
    newest reading.
    """
    missed: Array = np.clip((newest_us - LATENESS_US - slot * SLOT_US) // SLOT_US, 0, SLOTS_PER_WINDOW)
    return missed


def _starts(ordered: Array) -> Array:
    """Where runs of equal values begin."""
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
