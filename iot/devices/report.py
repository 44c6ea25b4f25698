"""Report to people what was found in a file: the meaning of its columns, the first readings, and the refusals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from iot.devices.results import Refused
from iot.readings import Message, decode, encode, format_timestamp

# Maximum number of different reasons that are kept.
MAX_REASONS = 200
# Maximum number of lines that are named with a reason.
MAX_LINES = 10


class Report:
    """Counts readings and refusals.

    Attributes:
        description: what was recognised as what.
        readings: the number of readings.
        refused: the number of values or rows that were refused.
    """

    # Maximum number of first readings and of reasons that are shown.
    SHOWN: ClassVar[int] = 20

    def __init__(self) -> None:
        self.description: list[tuple[str, str]] = []
        self.readings = self.refused = 0
        self._earliest_us = self._latest_us = 0
        # The number of times and the first lines of each reason.
        self._reasons: dict[str, tuple[int, list[int]]] = {}

    def add(self, time_us: int) -> None:
        """Count a reading."""
        if not self.readings:
            self._earliest_us = self._latest_us = time_us
        elif time_us > self._latest_us:
            self._latest_us = time_us
        elif time_us < self._earliest_us:
            self._earliest_us = time_us
        self.readings += 1

    def refuse(self, number: int, refused: Refused) -> None:
        """Count a refusal in this line."""
        self.refused += 1
        found = self._reasons.get(refused.reason)
        if found:
            if len(found[1]) < MAX_LINES:
                found[1].append(number)
            self._reasons[refused.reason] = (found[0] + 1, found[1])
        elif len(self._reasons) < MAX_REASONS:
            self._reasons[refused.reason] = (1, [number])

    def first(self) -> str:
        """Return the first refusal; empty if there is none."""
        return next(iter(self._refusals()), "")

    def refusals(self) -> list[str]:
        """Return a line for each reason, at most ``SHOWN``, and one about the others."""
        lines = list(self._refusals())
        shown = lines[: self.SHOWN]
        if len(lines) > len(shown):
            rest = self.refused - sum(times for times, _ in list(self._reasons.values())[: self.SHOWN])
            shown.append(f"and {rest:,} more for other reasons")
        return shown

    def _refusals(self) -> Iterable[str]:
        for reason, (times, numbers) in self._reasons.items():
            if times == 1:
                yield f"line {numbers[0]:,}: {reason}"
            else:
                more = ", …" if times > len(numbers) else ""
                yield f"lines {', '.join(f'{number:,}' for number in numbers)}{more} ({times:,} times): {reason}"

    def recognised(self) -> list[str]:
        """Return what was recognised as what, a line each."""
        width = max((len(name) for name, _ in self.description), default=0)
        return [f"  {name:<{width}}  {text}" for name, text in self.description]

    def span(self) -> str:
        """Return from when to when the readings are."""
        return f"{format_timestamp(self._earliest_us)} to {format_timestamp(self._latest_us)}"


def table(messages: Sequence[Message]) -> list[str]:
    """Return readings as lines of a table with a head, as the readers of the topic have them."""
    rows = [("timestamp", "sensor_id", "sensor_type", "value", "unit", "location")]
    for message in messages:
        found = decode(encode(message))
        unit, location = found.unit or "", found.location or ""
        time = format_timestamp(found.time_us)
        rows.append((time, found.sensor_id, found.sensor_type, f"{found.value:.10g}", unit, location))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
