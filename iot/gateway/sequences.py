"""The last sequence of each sensor and run, by which repeats are recognised. Their number is bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from iot.readings import Message

# Maximum number of pairs of run and sensor that are remembered: about 60 MB. The one that was used longest ago goes.
MAX_RUNS = 200_000

Run = tuple[str, str]
"""A run and a sensor: ``run_id`` and ``sensor_id``."""


class Last(NamedTuple):
    """The last sequence of a run and sensor.

    Attributes:
        sequence: the number.
        types: the sensor types that were written with it. A device may measure several things at once.
        write: what wrote it, as ``Sequences.enter`` was told; None if it was read from Kafka.
    """

    sequence: int
    types: tuple[str, ...]
    write: Any = None


class Sequences:
    """The last sequences. It belongs to one thread at a time; ``Writer`` has the lock."""

    def __init__(self, limit: int = MAX_RUNS) -> None:
        self._limit = limit
        # In the order of use.
        self._last: dict[Run, Last] = {}
        self._changed: dict[Run, None] = {}

    def __len__(self) -> int:
        return len(self._last)

    def enter(self, message: Message, write: Any = None) -> Last | None:
        """Remember that a reading is being written, or was found in the topic, unless it is a repeat.

        Returns:
            What was written instead, if the reading is a repeat. Then it must not be written.
        """
        if message.run_id is None or message.sequence is None:
            return None
        run, sequence = (message.run_id, message.sensor_id), message.sequence
        last = self._last.pop(run, None)
        if last is None or sequence > last.sequence:
            self._put(run, Last(sequence, (message.sensor_type,), write))
        # The readings of one object have the same sequence, and not all of them may have been written.
        elif sequence == last.sequence and message.sensor_type not in last.types:
            self._put(run, Last(sequence, (*last.types, message.sensor_type), write))
        else:
            self._put(run, last)
            return last
        self._changed[run] = None
        return None

    def restore(self, run: Run, last: Last | None) -> None:
        """Remember what was saved; None if it was forgotten."""
        known = self._last.pop(run, None)
        if last is not None:
            self._put(run, known if known and known.sequence > last.sequence else last)

    def check(self, saved: Mapping[Run, Last | None]) -> None:
        """Save again what an older gateway has overwritten with less."""
        for run, last in saved.items():
            known = self._last.get(run)
            if known and (last is None or last.sequence < known.sequence):
                self._changed[run] = None

    def forget(self, run: Run) -> None:
        """Forget what was saved about a run, also there."""
        self._last.pop(run, None)
        self._changed[run] = None

    def clear(self) -> None:
        """Forget everything, and all changes."""
        self._last.clear()
        self._changed.clear()

    def take_changes(self) -> dict[Run, Last | None]:
        """Return what changed since the last call; None for what is forgotten."""
        changes = {run: self._last.get(run) for run in self._changed}
        self._changed = {}
        return changes

    def put_back(self, changes: dict[Run, Last | None]) -> None:
        """Count changes as not taken, because they could not be saved."""
        self._changed = dict.fromkeys(changes) | self._changed

    def _put(self, run: Run, last: Last) -> None:
        self._last[run] = last
        if len(self._last) > self._limit:
            oldest = next(iter(self._last))
            del self._last[oldest]
            self._changed[oldest] = None
