"""The candidates for alarms as columns: many of them need little memory on their way from the tasks to the driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec
import numpy as np

from iot.batches import Candidate
from iot.spark.columns import Array

# The columns with numbers. Each is stored as the bytes of an array.
NUMBERS = (
    ("arrived_ms", np.int64),
    ("partition", np.int64),
    ("offset", np.int64),
    ("sensor", np.int64),
    ("value", np.float64),
    ("time_us", np.int64),
)
# How many candidates to make at a time.
CHUNK = 10_000


class CandidateColumns(msgspec.Struct, array_like=True):
    """Candidates; the columns of numbers are those of ``Candidate``, and a position in ``sensors``."""

    sensors: list[tuple[str, str, str, str]] = []
    """Sensor id, sensor type, location and unit."""
    arrived_ms: bytes = b""
    partition: bytes = b""
    offset: bytes = b""
    sensor: bytes = b""
    value: bytes = b""
    time_us: bytes = b""

    @classmethod
    def of(cls, sensors: list[tuple[str, str, str, str]], columns: Iterable[Array]) -> CandidateColumns:
        """Store columns in the order of ``NUMBERS``."""
        return cls(
            sensors,
            *(column.astype(dtype).tobytes() for column, (_, dtype) in zip(columns, NUMBERS, strict=True)),
        )

    def arrays(self) -> list[Array]:
        """The columns in the order of ``NUMBERS``."""
        return [np.frombuffer(getattr(self, name), dtype) for name, dtype in NUMBERS]


class Candidates(Sequence[Candidate]):
    """Candidates that are made from their columns when they are asked for: a million of them would need 260 MB."""

    def __init__(self, columns: CandidateColumns) -> None:
        self._sensors, self._arrays = columns.sensors, columns.arrays()

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __iter__(self) -> Iterator[Candidate]:
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]

    @overload
    def __getitem__(self, at: int) -> Candidate: ...

    @overload
    def __getitem__(self, at: slice) -> list[Candidate]: ...

    def __getitem__(self, at: int | slice) -> Candidate | list[Candidate]:
        if not isinstance(at, slice):
            return self[at : at + 1 or None][0]
        columns = (column[at].tolist() for column in self._arrays)
        found = []
        for arrived_ms, partition, offset, sensor, value, time_us in zip(*columns, strict=True):
            sensor_id, sensor_type, location, unit = self._sensors[sensor]
            found.append(
                Candidate(arrived_ms, partition, offset, sensor_id, sensor_type, location, unit, value, time_us)
            )
        return found


def merged(parts: Iterable[CandidateColumns]) -> CandidateColumns:
    """The candidates of all partitions, ordered by ``arrived_ms``, partition and offset."""
    sensors: list[tuple[str, str, str, str]] = []
    blocks = []
    for part in parts:
        arrived_ms, partition, offset, sensor, *others = part.arrays()
        blocks.append((arrived_ms, partition, offset, sensor + len(sensors), *others))
        sensors += part.sensors
    if not sensors:
        return CandidateColumns()
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    order = np.lexsort(columns[2::-1])
    return CandidateColumns.of(sensors, (column[order] for column in columns))
