"""Histograms in Prometheus' manner: counts of values between fixed bounds. Adding a value takes a microsecond."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import msgspec


class Histogram(msgspec.Struct):
    """Counts of values, none of them negative. One thread adds, others may read."""

    bounds: list[float]
    """Upper bounds, ascending; a value equal to a bound is below it."""
    counts: list[int] = []
    """The number of values up to each bound and above the one before; last, of those above all bounds."""
    total: float = 0.0
    """The sum of all values."""

    @classmethod
    def of(cls, bounds: Sequence[float]) -> Histogram:
        """Return an empty histogram."""
        return cls(list(bounds), [0] * (len(bounds) + 1))

    def add(self, value: float) -> None:
        """Count a value. A negative one, which only clocks that differ give, counts as 0."""
        value = max(0.0, value)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, int]]:
        """Return (``le``, number of values up to it), the last with ``+Inf``, as Prometheus wants them."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))
