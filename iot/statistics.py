"""The statistics of a consumer: messages, alerts by type, malformed messages by reason, values by sensor type."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from iot.terminal import printable

# How many seconds the recent figures cover.
RECENT_S = 10
# Maximum number of sensor types with a row of their own.
MAX_TYPES = 200
# Maximum number of reasons that are counted separately.
MAX_REASONS = 50
# Types and reasons beyond the maximum are counted under this name.
OTHER = "other"


@dataclass(frozen=True)
class Aggregate:
    """Count, sum, minimum and maximum of values."""

    count: int = 0
    total: float = 0.0
    min: float = math.inf
    max: float = -math.inf

    @classmethod
    def of(cls, values: Sequence[float]) -> Aggregate:
        """Aggregate at least one value."""
        return cls(len(values), sum(values), min(values), max(values))

    @property
    def mean(self) -> float:
        """The mean, NaN without values."""
        return self.total / self.count if self.count else math.nan

    def __add__(self, other: Aggregate) -> Aggregate:
        return Aggregate(
            self.count + other.count, self.total + other.total, min(self.min, other.min), max(self.max, other.max)
        )


@dataclass
class Interval:
    """The messages processed in some time: how many, and the values of the valid ones by sensor type."""

    messages: int = 0
    values: defaultdict[str, Aggregate] = field(default_factory=lambda: defaultdict(Aggregate))

    def add(self, other: Interval) -> None:
        self.messages += other.messages
        for sensor_type, aggregate in other.values.items():
            self.values[sensor_type] += aggregate


class Statistics:
    """The statistics of a run that started at ``start_s`` on the monotonic clock. Their size is bounded."""

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.run = Interval()
        self.alerts: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self._types: set[str] = set()
        self._seconds: deque[tuple[int, Interval]] = deque(maxlen=RECENT_S)

    def add(self, messages: int, values: Mapping[str, Sequence[float]], now_s: float) -> None:
        """Add a batch of messages that was processed at ``now_s``.

        Args:
            messages: the number of messages, malformed ones included.
            values: the values of the valid ones by sensor type.
        """
        batch = Interval(messages)
        for sensor_type, numbers in values.items():
            if len(self._types) < MAX_TYPES:
                self._types.add(sensor_type)
            batch.values[sensor_type if sensor_type in self._types else OTHER] += Aggregate.of(numbers)
        if not self._seconds or self._seconds[-1][0] != int(now_s):
            self._seconds.append((int(now_s), Interval()))
        self._seconds[-1][1].add(batch)
        self.run.add(batch)

    def add_malformed(self, reason: str) -> int:
        """Count a malformed message, and return how many of its kind there are so far."""
        # The position in the message would make each one a kind of its own.
        kind = reason.partition(" (byte ")[0]
        if kind not in self.malformed and len(self.malformed) >= MAX_REASONS:
            kind = OTHER
        self.malformed[kind] += 1
        return self.malformed[kind]

    def recent(self, now_s: float) -> tuple[float, Interval]:
        """Return messages per second, and what was processed, in the last ten clock seconds, this one included."""
        first = int(now_s) - RECENT_S + 1
        recent = Interval()
        for second, interval in self._seconds:
            if second >= first:
                recent.add(interval)
        return recent.messages / max(1.0, now_s - max(first, self.start_s)), recent

    def table(self, now_s: float, max_rows: int) -> Iterator[str]:
        """Yield the lines of a table with a row per sensor type, over the run and over the last 10 s.

        Lines have at most 80 columns. One more line says how many types ``max_rows`` leaves out.
        """
        if not self.run.values:
            return
        _, recent = self.recent(now_s)
        columns = "".join(f"{name:>8}" for name in ("mean", "min", "max"))
        yield f"{'':<12}{'whole run':>11}{'':24}{f'last {RECENT_S} s':>9}"
        yield f"{'sensor type':<12}{'count':>11}{columns}{'count':>9}{columns}"
        for sensor_type in sorted(self.run.values, key=lambda name: (name == OTHER, name))[:max_rows]:
            name = printable(sensor_type)
            yield (
                (name if len(name) < 12 else name[:10] + "…").ljust(12)
                + _columns(self.run.values[sensor_type], 11)
                + _columns(recent.values.get(sensor_type, Aggregate()), 9)
            )
        if len(self.run.values) > max_rows:
            yield f"and {len(self.run.values) - max_rows} more sensor types"


def _columns(aggregate: Aggregate, count_width: int) -> str:
    """Return count, mean, minimum and maximum, with a dash where there is no value or the sum overflowed."""
    numbers = (aggregate.mean, aggregate.min, aggregate.max)
    return f"{aggregate.count:>{count_width},}" + "".join(f"{_number(number):>8}" for number in numbers)


def _number(number: float) -> str:
    if not math.isfinite(number):
        return "-"
    texts = (f"{number:.2f}", f"{number:.1f}", f"{number:.0f}", f"{number:.0e}")
    return next(text for text in texts if len(text) < 8)
