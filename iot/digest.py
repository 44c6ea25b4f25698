"""What happens to a batch of messages before Spark's windows see it: validate, fold, and judge what is late.

Spark moves its watermark between batches only, so of a backlog that comes as one batch nothing would be late. Here
lateness is judged reading by reading, against what was written to the topic before it, in two steps:

``digest`` runs once per Kafka partition, in parallel. It judges each message with the one validator, and folds readings
that share a slot of ten seconds, sensor type, location and moment of arrival into one partial: a few thousand rows
for a million readings. It knows the order within its partition.

``judge`` runs once per batch, on the partials of all partitions. It knows the order across them by Kafka's timestamps,
says which windows a partial is too late for, and adds a ``Report`` on the batch. The windows themselves, their
watermark and their state are Spark's.

Nothing here imports pyspark, so both can be tested on plain Arrow batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iot.readings import Reading, Rejected, decode_batch
from iot.settings import LATENESS_S, SLIDE_S, WINDOW_S

Array = np.ndarray[Any, np.dtype[Any]]

MAX_TYPES = 200
MAX_LOCATIONS = 1_000
MAX_SENSORS = 100_000
OTHER = "other"

SLOT_US = SLIDE_S * 1_000_000
SLOTS_PER_WINDOW = WINDOW_S // SLIDE_S
LATENESS_US = LATENESS_S * 1_000_000
# Spark's first watermark is the epoch: what ends before it never reaches a window.
FIRST_NEWEST_US = LATENESS_US
# Moments of arrival that are told apart in one Arrow batch: more would fold less, fewer would judge more coarsely.
ARRIVALS = 32

PARTIALS = pa.schema(
    [
        # Kafka's timestamps of the first and last message that was folded in.
        ("arrived_first_ms", pa.int64()),
        ("arrived_last_ms", pa.int64()),
        # How many of its windows, earliest first, it is too late for.
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
        # How far a reading was behind the newest before it in its partition, at most.
        ("behind_us", pa.int64()),
        # On a row of its own: what the partition has to report, as msgpack.
        ("report", pa.binary()),
    ]
)

JUDGED = pa.schema(
    [
        ("event_time", pa.timestamp("us", "UTC")),
        # The reading counts in windows that end after this.
        ("missed_until", pa.timestamp("us", "UTC")),
        ("sensor_type", pa.string()),
        ("location", pa.string()),
        ("unit", pa.string()),
        ("count", pa.int64()),
        ("total", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        # Both null but on one row per batch, which is about no window.
        ("batch_id", pa.int64()),
        ("report", pa.binary()),
    ]
)


class Context(msgspec.Struct):
    """What a batch has to know of those before it."""

    newest_us: int = FIRST_NEWEST_US
    """The newest event time of all valid readings before this batch, in whole milliseconds as Spark's watermark is."""
    sensor_types: list[str] = []
    """The sensor types that have rows of their own, at most ``MAX_TYPES``."""
    locations: list[str] = []


class Total(msgspec.Struct, array_like=True):
    """Running totals of one sensor type; ``unit`` is that of its newest reading."""

    count: int
    total: float
    min: float
    max: float
    newest_us: int
    unit: str


class Latest(msgspec.Struct, array_like=True, order=True):
    """The latest reading of one sensor and type: greatest event time, then offset."""

    time_us: int
    offset: int
    partition: int
    sensor_id: str
    sensor_type: str
    location: str
    value: float
    unit: str
    heard_ms: int
    """Kafka's timestamp of the last message of this sensor and type, whichever is its latest reading."""


class Report(msgspec.Struct):
    """What a batch did beside its windows."""

    messages: int = 0
    """Valid readings, late ones included."""
    rejected: int = 0
    late: int = 0
    """Readings that some of their windows, or all, had to do without."""
    latest_by_us: int = 0
    """How far the latest of the late was behind the newest reading before it."""
    newest_us: int = FIRST_NEWEST_US
    """The newest event time after this batch, this batch included."""
    next_offsets: dict[int, int] = {}
    """By partition that had messages: the offset after the last of them."""
    totals: dict[str, Total] = {}
    """By sensor type."""
    latest: list[Latest] = []
    sensor_types: list[str] = []
    """All that have rows of their own after this batch."""
    locations: list[str] = []

    def context(self) -> Context:
        """The context of the batch after this one."""
        return Context(self.newest_us // 1000 * 1000, self.sensor_types, self.locations)


encode = msgspec.msgpack.Encoder().encode
decode_report = msgspec.msgpack.Decoder(Report).decode

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
                _keep_latest(latest, entry)
            _forget_oldest(latest, 2 * MAX_SENSORS)
    _forget_oldest(latest, MAX_SENSORS)
    report.latest = list(latest.values())
    empty = [None] * len(PARTIALS)
    yield pa.RecordBatch.from_arrays(
        [pa.array([value], field.type) for value, field in zip([*empty[:-1], encode(report)], PARTIALS, strict=True)],
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


def _keep_latest(latest: dict[tuple[str, str], Latest], entry: Latest) -> None:
    key = (entry.sensor_id, entry.sensor_type)
    known = latest.get(key)
    if known is None:
        latest[key] = entry
        return
    heard_ms = max(known.heard_ms, entry.heard_ms)
    latest[key] = max(known, entry)
    latest[key].heard_ms = heard_ms


def _forget_oldest(latest: dict[tuple[str, str], Latest], most: int) -> None:
    """Drop all but the ``MAX_SENSORS`` heard from most recently once there are more than ``most``."""
    if len(latest) > most:
        heard = sorted(latest, key=lambda key: latest[key].heard_ms, reverse=True)
        for key in heard[MAX_SENSORS:]:
            del latest[key]


def judge(batches: Iterable[pa.RecordBatch], context: Context, batch_id: int) -> Iterator[pa.RecordBatch]:
    """Judge the partials of all partitions of one batch, and report on it.

    Args:
        batches: of ``PARTIALS``, from every ``digest`` of the batch.
        context: what is known of the batches before.
        batch_id: Spark's.

    Returns:
        Batches of ``JUDGED``: rows to count in windows, and one row with the ``Report``.
    """
    every = pa.Table.from_batches(batches, PARTIALS)
    is_report = pc.is_valid(every.column("report"))
    report = _merged(every.filter(is_report).column("report").to_pylist(), context)
    partials = every.filter(pc.invert(is_report)).drop_columns(["report"])
    if partials.num_rows:
        yield _judged(partials, context, report)
    # Its time moves no watermark, and the row reaches a window that is open.
    slot = report.newest_us // SLOT_US
    row: dict[str, Any] = dict.fromkeys(JUDGED.names) | {
        "event_time": report.newest_us,
        "missed_until": (slot + SLOTS_PER_WINDOW - 1) * SLOT_US,
        "batch_id": batch_id,
        "report": encode(report),
    }
    yield pa.RecordBatch.from_pylist([row], JUDGED)


def _merged(reports: list[bytes], context: Context) -> Report:
    merged = Report(newest_us=context.newest_us, sensor_types=context.sensor_types, locations=context.locations)
    latest: dict[tuple[str, str], Latest] = {}
    for report in map(decode_report, reports):
        merged.messages += report.messages
        merged.rejected += report.rejected
        merged.newest_us = max(merged.newest_us, report.newest_us)
        merged.next_offsets |= report.next_offsets
        for entry in report.latest:
            _keep_latest(latest, entry)
    _forget_oldest(latest, MAX_SENSORS)
    merged.latest = list(latest.values())
    return merged


def _judged(partials: pa.Table, context: Context, report: Report) -> pa.RecordBatch:
    """The partials as rows for the windows; completes the report with totals, late readings and names."""
    arrived_first_ms, arrived_last_ms, missed, count, total, low, high, oldest_us, newest_us, behind_us = (
        partials.column(name).to_numpy()
        for name in PARTIALS.names
        if name not in ("sensor_type", "location", "unit", "report")
    )
    # The newest reading that surely was written before the first of a partial.
    by_last = np.argsort(arrived_last_ms, kind="stable")
    newest_until = np.maximum.accumulate(np.concatenate(([context.newest_us], newest_us[by_last])))
    before_us = newest_until[np.searchsorted(arrived_last_ms[by_last], arrived_first_ms, side="left")]
    slot = newest_us // SLOT_US
    missed = np.maximum(missed, windows_missed(slot, before_us))
    late = missed > 0
    report.late = int(count[late].sum())
    if report.late:
        report.latest_by_us = int(np.maximum(before_us - oldest_us, behind_us)[late].max())
    types, type_number = _admit(partials.column("sensor_type"), arrived_first_ms, context.sensor_types, MAX_TYPES)
    places, place_number = _admit(partials.column("location"), arrived_first_ms, context.locations, MAX_LOCATIONS)
    report.sensor_types, report.locations = types[:-1], places[:-1]
    unit = partials.column("unit").combine_chunks().dictionary_encode()
    units, unit_number = unit.dictionary.to_pylist(), unit.indices.to_numpy()

    with np.errstate(over="ignore", invalid="ignore"):
        order, first = _grouped(type_number)
        last = _newest_of_each(order, first, newest_us)
        sums = (
            np.add.reduceat(count[order], first),
            np.add.reduceat(total[order], first),
            np.minimum.reduceat(low[order], first),
            np.maximum.reduceat(high[order], first),
            newest_us[last],
        )
        for number, at, *of_type in zip(type_number[order[first]], last, *(s.tolist() for s in sums), strict=True):
            report.totals[types[number]] = Total(*of_type, units[unit_number[at]])  # type: ignore[call-arg]

        kept = np.flatnonzero(missed < SLOTS_PER_WINDOW)
        order, first = _grouped(slot[kept], missed[kept], type_number[kept], place_number[kept])
        order = kept[order]
        last = _newest_of_each(order, first, newest_us) if len(order) else order
        columns: list[Any] = [
            newest_us[last],
            (slot[last] + missed[last]) * SLOT_US,
            [types[number] for number in type_number[last]],
            [places[number] for number in place_number[last]],
            [units[number] for number in unit_number[last]],
            *(
                reduce.reduceat(values[order], first) if len(order) else values[:0]
                for reduce, values in (
                    (np.add, count), (np.add, total), (np.minimum, low), (np.maximum, high)
                )
            ),
            [None] * len(last),
            [None] * len(last),
        ]  # fmt: skip
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, JUDGED, strict=True)], schema=JUDGED
    )


def _admit(names: pa.ChunkedArray, arrived_ms: Array, known: list[str], most: int) -> tuple[list[str], Array]:
    """Number names by those that have rows of their own; who comes first is admitted while there is room.

    Returns:
        The names admitted and ``OTHER`` after them, and for each row a position among these.
    """
    encoded = names.combine_chunks().dictionary_encode()
    distinct, indices = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    position = {name: number for number, name in enumerate(known)}
    # One that is called so already shares the row of those that come too late.
    new = [number for number, name in enumerate(distinct) if name not in position and name != OTHER]
    if new:
        first_ms = np.full(len(distinct), np.iinfo(np.int64).max)
        np.minimum.at(first_ms, indices, arrived_ms)
        for number in sorted(new, key=lambda number: (first_ms[number], distinct[number])):
            if len(position) == most:
                break
            position[distinct[number]] = len(position)
    admitted = [*position, OTHER]
    return admitted, np.array([position.get(name, len(position)) for name in distinct])[indices]


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
