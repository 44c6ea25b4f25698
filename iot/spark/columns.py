"""The readings of one Arrow batch as columns of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from iot.readings import Reading

Array = np.ndarray[Any, np.dtype[Any]]


class Columns:
    """The valid readings of one Arrow batch, a row each, in the order of their offsets."""

    def __init__(self, batch: pa.RecordBatch, readings: list[Reading], rows: Array | None) -> None:
        """
        Args:
            rows: the rows of the readings in the batch; None if all of its messages are readings.
        """
        size = len(readings)

        def column(name: str) -> Array:
            values: Array = batch.column(name).to_numpy(zero_copy_only=False)
            return values if rows is None else values[rows]

        self.arrived_ms = column("timestamp_ms")
        self.offset = column("offset")
        self.time_us = np.fromiter([reading.time_us for reading in readings], np.int64, size)
        self.value = np.fromiter([reading.value for reading in readings], np.float64, size)
        # A number per sensor: what is the same in all its readings is looked up by it.
        numbers: dict[tuple[str, str, Any, Any], int] = {}
        self.sensor = np.fromiter(
            [numbers.setdefault((r.sensor_id, r.sensor_type, r.location, r.unit), len(numbers)) for r in readings],
            np.int64,
            size,
        )
        self.sensors = list(numbers)
        """Sensor id, sensor type, location and unit, by number."""


def starts(ordered: Array) -> Array:
    """Where runs of equal values begin."""
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else ordered


def stable_order(numbers: Array, size: int) -> Array:
    """The rows by number, and of equal numbers in their own order.

    Args:
        size: greater than every number. Up to 65,536, numpy sorts several times as fast.
    """
    if size <= 1 << 16:
        numbers = numbers.astype(np.uint16)
    order: Array = np.argsort(numbers, kind="stable")
    return order
