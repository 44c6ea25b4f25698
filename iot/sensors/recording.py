"""Read recorded readings, JSON Lines or CSV with the schema's columns, and replay them in order of time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from iot.inputs import Input, InputError
from iot.kafka.sender import Record
from iot.readings import Message, Rejected, decode_batch, encode, format_timestamp
from iot.settings import UserError, reason

REQUIRED = ("sensor_id", "sensor_type", "value", "timestamp")
NUMBERS = {"value": float, "sequence": int}
BOM = b"\xef\xbb\xbf"
# How many lines are decoded at once.
CHUNK = 10_000

Integers = npt.NDArray[np.int64]


class Recording(NamedTuple):
    """Readings as they were recorded, in order of time, and the number of each one's sensor, from 0."""

    messages: list[Message]
    sensors: Integers


class Replay:
    """A recording, or a share of its sensors, as readings of this run, with its ``run_id`` and new sequence numbers."""

    def __init__(
        self, recording: Recording, run_id: str, keep_times: bool = False, share: int = 0, shares: int = 1
    ) -> None:
        """
        Args:
            keep_times: keep the recorded timestamps.
            share: which of the ``shares`` parts of the sensors, from 0.
        """
        self._recording, self._run_id, self._keep_times = recording, run_id, keep_times
        self._numbers = np.flatnonzero(recording.sensors % shares == share)
        self._made = 0
        self._sequences: dict[str, int] = {}
        self.keys = sorted({recording.messages[number].sensor_id.encode() for number in self._numbers})

    def numbers(self, first: int, last: int) -> Integers:
        """Return the positions in the whole recording of this share's readings ``first`` to ``last - 1``."""
        return self._numbers[first:last]

    def count_below(self, number: int) -> int:
        """Return how many of the first ``number`` readings of the whole recording are in this share."""
        return int(np.searchsorted(self._numbers, number))

    def records(self, times_us: Integers) -> list[Record]:
        """Return the next readings, encoded, one for each of these times of sending (µs since the epoch)."""
        records: list[Record] = []
        for number, time_us in zip(self._numbers[self._made :], times_us.tolist(), strict=False):
            message = self._recording.messages[number]
            if not self._keep_times:
                message.timestamp = format_timestamp(time_us)
            message.run_id = self._run_id
            message.sequence = self._sequences.get(message.sensor_id, 0)
            self._sequences[message.sensor_id] = message.sequence + 1
            records.append({"key": message.sensor_id.encode(), "value": encode(message)})
        self._made += len(records)
        return records


def read_recording(source: Input) -> Recording:
    """Open an input and return all its readings in order of time. Readings of the same time keep their order.

    Raises:
        UserError: it cannot be read or is empty, or a line is not a valid reading. The text names the line.
    """
    with source:
        return _read(source)


def _read(source: Input) -> Recording:
    messages: list[Message] = []
    times_us: list[int] = []
    sensors: dict[str, int] = {}
    # Equal strings are kept once, to save memory.
    shared: dict[Any, Any] = {}
    numbered = _messages(source)
    chunk: list[tuple[int, bytes]] = []
    try:
        while chunk := _next(numbered, chunk[-1][0] if chunk else 0):
            for (number, raw), verdict in zip(chunk, decode_batch(raw for _, raw in chunk), strict=True):
                try:
                    if isinstance(verdict, Rejected):
                        raise verdict
                    message = _as_recorded(raw)
                except (Rejected, msgspec.ValidationError) as error:
                    raise UserError(f"{source.name}, line {number}: {error}") from error
                for name in ("sensor_id", "sensor_type", "location", "unit", "quality"):
                    text = getattr(message, name)
                    setattr(message, name, shared.setdefault(text, text))
                sensors.setdefault(message.sensor_id, len(sensors))
                messages.append(message)
                times_us.append(verdict.time_us)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {source.name}: {reason(error)}") from error
    if not messages:
        raise UserError(f"{source.name} holds no readings")
    order = np.argsort(np.array(times_us), kind="stable")
    messages = [messages[at] for at in order]
    return Recording(messages, np.array([sensors[message.sensor_id] for message in messages]))


_as_recorded = msgspec.json.Decoder(Message).decode


def _next(numbered: Iterator[tuple[int, bytes]], line: int) -> list[tuple[int, bytes]]:
    """Return the ``CHUNK`` lines that follow ``line``, or those that are left."""
    chunk: list[tuple[int, bytes]] = []
    try:
        chunk.extend(islice(numbered, CHUNK))
    except InputError as error:
        last = chunk[-1][0] if chunk else line
        raise InputError(f"{error} (it was read up to line {last:,}, and nothing was sent)") from error
    return chunk


def _messages(source: Input) -> Iterator[tuple[int, bytes]]:
    """Yield the line number and the JSON message of each reading."""
    if source.head.removeprefix(BOM).lstrip().startswith(b"{"):
        for number, line in enumerate(source.stream, start=1):
            if line := line.removeprefix(BOM if number == 1 else b"").strip():
                yield number, line
    elif source.head:
        text = TextIOWrapper(source.stream, encoding="utf-8-sig", newline="")
        yield from _rows(source.name, csv.reader(text))


def _rows(name: str, rows: Any) -> Iterator[tuple[int, bytes]]:
    columns: list[str] = next(rows, [])
    if missing := [column for column in REQUIRED if column not in columns]:
        raise UserError(
            f"{name}, line 1: no column {', '.join(missing)}; "
            "expected JSON Lines (a reading in each line), or CSV with the schema's columns"
        )
    known = [(at, column) for at, column in enumerate(columns) if column in Message.__struct_fields__]
    for row in rows:
        if not row:
            continue
        if len(row) != len(columns):
            raise UserError(f"{name}, line {rows.line_num}: {len(row)} columns; expected {len(columns)}")
        fields = {column: row[at] for at, column in known if row[at]}
        yield rows.line_num, msgspec.json.encode(fields | _numbers(name, rows.line_num, fields))


def _numbers(name: str, line: int, fields: dict[str, str]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for field in NUMBERS.keys() & fields.keys():
        try:
            numbers[field] = NUMBERS[field](fields[field].replace("_", "not a number"))
        except ValueError:
            raise UserError(f"{name}, line {line}: {field}: {fields[field]!r} is not a number") from None
    return numbers
