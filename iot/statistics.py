"""What a consumer has processed: messages, alerts by type, malformed by reason, statistics per sensor type."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from iot.terminal import printable

RECENT_S = 10
MAX_TYPES = 200
MAX_REASONS = 50
OTHER = "other"


@dataclass(frozen=True)
class Stats:
    """Count, sum, minimum and maximum of values."""

    count: int = 0
    total: float = 0.0
    min: float = math.inf
    max: float = -math.inf

    @classmethod
    def of(cls, values: Sequence[float]) -> Stats:
        """Of at least one value."""
        return cls(len(values), sum(values), min(values), max(values))

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def __add__(self, other: Stats) -> Stats:
        return Stats(
            self.count + other.count, self.total + other.total, min(self.min, other.min), max(self.max, other.max)
        )


class Counts:
    """How many messages, and the statistics of the valid ones by sensor type."""

    def __init__(self) -> None:
        self.messages = 0
        self.stats: defaultdict[str, Stats] = defaultdict(Stats)

    def add(self, messages: int, stats: Mapping[str, Stats]) -> None:
        self.messages += messages
        for sensor_type, of_type in stats.items():
            self.stats[sensor_type] += of_type


class Tally:
    """The account of a run that began at ``start_s`` of the monotonic clock. Nothing in it grows without bound."""

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.run = Counts()
        self.alerts: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self._seconds: deque[tuple[int, Counts]] = deque(maxlen=RECENT_S)

    def add(self, messages: int, values: Mapping[str, Sequence[float]], now_s: float) -> None:
        """Count messages, of which the valid ones had these values by sensor type, as processed at ``now_s``.

        The first 200 sensor types have a row of their own, later ones are counted as ``other``.
        """
        if not self._seconds or self._seconds[-1][0] != int(now_s):
            self._seconds.append((int(now_s), Counts()))
        for counts in (self.run, self._seconds[-1][1]):
            counts.messages += messages
        for sensor_type, of_type in values.items():
            known = sensor_type in self.run.stats or len(self.run.stats) < MAX_TYPES
            stats = {sensor_type if known else OTHER: Stats.of(of_type)}
            for counts in (self.run, self._seconds[-1][1]):
                counts.add(0, stats)

    def add_malformed(self, reason: str) -> int:
        """Count a malformed message; returns how many of this kind there are by now."""
        # The place in the message differs each time and would make as many kinds.
        kind = reason.partition(" (byte ")[0]
        if kind not in self.malformed and len(self.malformed) >= MAX_REASONS:
            kind = OTHER
        self.malformed[kind] += 1
        return self.malformed[kind]

    def recent(self, now_s: float) -> tuple[float, Counts]:
        """Messages a second, and the counts, of the last ten seconds on the clock, of which this is the last."""
        first = int(now_s) - RECENT_S + 1
        recent = Counts()
        for second, counts in self._seconds:
            if second >= first:
                recent.add(counts.messages, counts.stats)
        return recent.messages / max(1.0, now_s - max(first, self.start_s)), recent

    def table(self, now_s: float, most: int) -> Iterator[str]:
        """Statistics per sensor type over the run and over the last 10 s, in 80 columns and at most ``most`` rows."""
        if not self.run.stats:
            return
        _, recent = self.recent(now_s)
        columns = "".join(f"{name:>8}" for name in ("mean", "min", "max"))
        yield f"{'':<12}{'whole run':>11}{'':24}{f'last {RECENT_S} s':>9}"
        yield f"{'sensor type':<12}{'count':>11}{columns}{'count':>9}{columns}"
        for sensor_type in sorted(self.run.stats, key=lambda name: (name == OTHER, name))[:most]:
            name = printable(sensor_type)
            yield (
                (name if len(name) < 12 else name[:10] + "…").ljust(12)
                + _columns(self.run.stats[sensor_type], 11)
                + _columns(recent.stats.get(sensor_type, Stats()), 9)
            )
        if len(self.run.stats) > most:
            yield f"and {len(self.run.stats) - most} more sensor types"


def _columns(stats: Stats, count_width: int) -> str:
    """Count, mean, minimum and maximum; a dash where there is none, or where a sum overflowed."""
    numbers = (stats.mean, stats.min, stats.max)
    return f"{stats.count:>{count_width},}" + "".join(f"{_number(number):>8}" for number in numbers)


def _number(number: float) -> str:
    if not math.isfinite(number):
        return "-"
    texts = (f"{number:.2f}", f"{number:.1f}", f"{number:.0f}", f"{number:.0e}")
    return next(text for text in texts if len(text) < 8)
