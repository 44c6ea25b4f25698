"""Judging the partials of all partitions of one batch together: the second step of ``iot.spark.fold``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iot.batches import (
    MAX_LOCATIONS,
    MAX_TYPES,
    OTHER,
    Context,
    Latest,
    Report,
    Total,
    decode_report,
    encode_report,
    forget_oldest,
    keep_latest,
)
from iot.spark.fold import FOLDED, PARTIALS, SLOT_US, SLOTS_PER_WINDOW, Array, windows_missed

JUDGED = pa.schema(
    [
        ("event_time", pa.timestamp("us", "UTC")),
        # The reading counts in windows that end after this.
        ("missed_until", pa.timestamp("us", "UTC")),
        *FOLDED,
        # Both null but on one row per batch, which is about no window.
        ("batch_id", pa.int64()),
        ("report", pa.binary()),
    ]
)


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
        "report": encode_report(report),
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
            keep_latest(latest, entry)
    forget_oldest(latest)
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
