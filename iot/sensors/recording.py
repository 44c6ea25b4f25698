"""Read recorded readings from a file of any form that ``iot.devices`` recognises, and replay them in order of time.

A file is read once from its beginning to its end before the first reading is sent, so that every row that does not fit
is reported first. The readings of a file that is not long are kept. A long file in order of time is read a second time
while it is sent, so that its size does not matter. A pipe can be read only once, so a long one is copied to a temporary
file meanwhile.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from itertools import count
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from iot.devices.field_map import NO_MAP, FieldMap
from iot.devices.formats import open_content
from iot.devices.report import Report
from iot.devices.results import FormError, Refused, Timed
from iot.inputs import Input, InputError
from iot.kafka.sender import Record
from iot.readings import Message, encode, format_timestamp
from iot.settings import UserError

# Maximum number of readings of a file that are kept while it is replayed, if it is in order of time.
KEEP = 100_000
# How many readings later a reading may stand than in order of time, in a long file.
WINDOW = 10_000
# Maximum number of bytes of a pipe that are kept in memory, before they are copied to a temporary file.
SPOOL_BYTES = 32 << 20

Integers = npt.NDArray[np.int64]


class Recording(NamedTuple):
    """Readings as they were recorded, in order of time, and the number of each one's sensor, from 0.

    ``report`` says what was recognised as what, and what was refused.
    """

    messages: list[Message]
    sensors: Integers
    report: Report

    @property
    def length(self) -> int:
        """The number of readings."""
        return len(self.messages)


class LongRecording(NamedTuple):
    """A long file in order of time, which is read again while it is sent.

    Attributes:
        length: the number of readings.
        sensors: the names of its sensors.
        first: the first readings.
    """

    source: _Again
    field_map: FieldMap
    length: int
    sensors: list[str]
    first: list[Message]
    report: Report

    def messages(self) -> Iterator[Message]:
        """Yield the readings in order of time.

        Raises:
            InputError: the file cannot be read again as it was.
        """
        found = 0
        with self.source as source:
            for message, _ in _in_order(_readings(source, self.field_map, None)):
                found += 1
                yield message
                if found == self.length:
                    return
        raise InputError(
            f"{self.source.name} changed while it was sent: {found:,} of {self.length:,} readings were found again"
        )


AnyRecording = Recording | LongRecording


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
        self._recording, self._stamp = recording, _Stamp(run_id, keep_times)
        self._numbers = np.flatnonzero(recording.sensors % shares == share)
        self._made = 0
        self.keys = sorted({recording.messages[number].sensor_id.encode() for number in self._numbers})

    def numbers(self, first: int, last: int) -> Integers:
        """Return the positions in the whole recording of this share's readings ``first`` to ``last - 1``."""
        return self._numbers[first:last]

    def count_below(self, number: int) -> int:
        """Return how many of the first ``number`` readings of the whole recording are in this share."""
        return int(np.searchsorted(self._numbers, number))

    def records(self, times_us: Integers) -> list[Record]:
        """Return the next readings, encoded, one for each of these times of sending (µs since the epoch)."""
        numbers = self._numbers[self._made : self._made + len(times_us)]
        self._made += len(numbers)
        messages = self._recording.messages
        return [
            self._stamp.record(messages[number], time_us)
            for number, time_us in zip(numbers, times_us.tolist(), strict=False)
        ]


class LongReplay:
    """A long recording as readings of this run. It has the methods of ``Replay``, and no shares."""

    def __init__(self, recording: LongRecording, run_id: str, keep_times: bool = False) -> None:
        self._length = recording.length
        self._messages = recording.messages()
        self._stamp = _Stamp(run_id, keep_times)
        self.keys = sorted(sensor_id.encode() for sensor_id in recording.sensors)

    def numbers(self, first: int, last: int) -> Integers:
        return np.arange(first, min(last, self._length))

    def count_below(self, number: int) -> int:
        return min(number, self._length)

    def records(self, times_us: Integers) -> list[Record]:
        return [self._stamp.record(next(self._messages), time_us) for time_us in times_us.tolist()]


class _Stamp:
    """Makes recorded readings into records of this run."""

    def __init__(self, run_id: str, keep_times: bool) -> None:
        self._run_id, self._keep_times = run_id, keep_times
        self._sequences: dict[str, int] = {}

    def record(self, message: Message, time_us: int) -> Record:
        if not self._keep_times:
            message.timestamp = format_timestamp(time_us)
        message.run_id = self._run_id
        message.sequence = self._sequences.get(message.sensor_id, 0)
        self._sequences[message.sensor_id] = message.sequence + 1
        return {"key": message.sensor_id.encode(), "value": encode(message)}


def read_recording(source: Input, field_map: FieldMap = NO_MAP) -> Recording | LongRecording:
    """Read an input to its end and return its readings in order of time. Readings of the same time keep their order.

    Raises:
        FormError: nobody can tell what the content means; the error has a map to fill in.
        UserError: it cannot be read, or holds no readings. The text names the first line that does not fit.
    """
    again = _Again(source)
    scan = _Scan(field_map)
    with again as content:
        scan.read(content)
    report = scan.report
    if not report.readings:
        first = report.first()
        raise UserError(f"{source.name} holds no readings{f'; {first}' if first else ''}")
    if scan.messages is None:
        if scan.is_in_order:
            return LongRecording(again, field_map, report.readings, list(scan.sensors), scan.first, report)
        # It is long and in another order: only in memory can it be sorted.
        with again as content:
            found = list(_readings(content, field_map, None))
        scan.messages, scan.times_us = [message for message, _ in found], [time_us for _, time_us in found]
    order = np.argsort(np.array(scan.times_us), kind="stable")
    messages = [scan.messages[at] for at in order]
    return Recording(messages, np.array([scan.sensors[message.sensor_id] for message in messages]), report)


class _Scan:
    """Reads a content to its end, and keeps its readings unless it is long and in order.

    Attributes:
        messages: the readings; None if they were not kept.
        is_in_order: whether no reading stands more than ``WINDOW`` readings later than in order of time.
    """

    def __init__(self, field_map: FieldMap) -> None:
        self._map = field_map
        self.report = Report()
        self.messages: list[Message] | None = []
        self.times_us: list[int] = []
        self.sensors: dict[str, int] = {}
        self.first: list[Message] = []
        self.is_in_order = True

    def read(self, content: _Opened) -> None:
        # Equal strings are kept once, to save memory.
        shared: dict[Any, Any] = {}
        latest: list[int] = []
        newest_us = -(2**63)
        messages, times_us, sensors = self.messages, self.times_us, self.sensors
        for message, time_us in _readings(content, self._map, self.report):
            if message.sensor_id not in sensors:
                sensors[message.sensor_id] = len(sensors)
            if messages is not None:
                for name in ("sensor_id", "sensor_type", "location", "unit", "quality"):
                    text = getattr(message, name)
                    setattr(message, name, shared.setdefault(text, text))
                messages.append(message)
                times_us.append(time_us)
            if self.is_in_order:
                if len(latest) < WINDOW:
                    heapq.heappush(latest, time_us)
                else:
                    oldest_us = heapq.heappushpop(latest, time_us)
                    self.is_in_order = oldest_us >= newest_us
                    newest_us = oldest_us
                if messages is not None and len(messages) > KEEP and self.is_in_order:
                    first = np.argsort(np.array(times_us), kind="stable")[: self.report.SHOWN]
                    self.first = [messages[at] for at in first]
                    self.messages = messages = None
                    self.times_us = times_us = []


def _readings(content: _Opened, field_map: FieldMap, report: Report | None) -> Iterator[Timed]:
    """Yield each reading. What is refused goes to the report, if there is one."""
    number = 0
    try:
        opened = open_content(content, field_map)
    except InputError as error:
        raise InputError(f"{error} (nothing was sent)") from error
    try:
        if report:
            report.description = opened.description
        for number, results in opened:
            for result in results:
                if isinstance(result, Refused):
                    if report:
                        report.refuse(number, result)
                    continue
                if report:
                    report.add(result.time_us)
                yield result
    except FormError as error:
        raise UserError(f"{content.name}: {error}") from error
    except InputError as error:
        sent = ", and nothing was sent" if report else ""
        raise InputError(f"{error} (it was read up to line {number:,}{sent})") from error


def _in_order(readings: Iterator[Timed]) -> Iterator[tuple[Message, int]]:
    """Yield readings in order of time, if none stands more than ``WINDOW`` readings too late."""
    waiting: list[tuple[int, int, Message]] = []
    numbers = count()
    for message, time_us in readings:
        if len(waiting) < WINDOW:
            heapq.heappush(waiting, (time_us, next(numbers), message))
        else:
            oldest_us, _, oldest = heapq.heappushpop(waiting, (time_us, next(numbers), message))
            yield oldest, oldest_us
    while waiting:
        oldest_us, _, oldest = heapq.heappop(waiting)
        yield oldest, oldest_us


class _Opened(NamedTuple):
    """An open content, as ``open_content`` takes it."""

    name: str
    stream: Any


class _Again:
    """An input that can be read more than once: a file is opened again, and a pipe is copied while it is read."""

    def __init__(self, source: Input) -> None:
        self.name = source.name
        self._source = source
        self._copy: IO[bytes] | None = None

    def __enter__(self) -> _Opened:
        if self._copy:
            self._copy.seek(0)
            return _Opened(self.name, self._copy)
        self._source.__enter__()
        if self._source.can_be_opened_again:
            return _Opened(self.name, self._source.stream)
        self._copy = tempfile.SpooledTemporaryFile(SPOOL_BYTES)
        return _Opened(self.name, _Copying(self._source, self._copy))

    def __exit__(self, *error: object) -> None:
        self._source.__exit__(*error)


class _Copying:
    """Reads a stream and writes what it read to a copy."""

    def __init__(self, source: Input, copy: IO[bytes]) -> None:
        self._source, self._copy = source, copy

    def read(self, most: int, /) -> bytes:
        content = self._source.stream.read(most)
        try:
            self._copy.write(content)
        except OSError as error:
            raise InputError(
                f"cannot copy {self._source.name} to a temporary file: {error.strerror}; "
                "set TMPDIR to a folder with more space, or give a file instead of a pipe"
            ) from error
        return content
