"""Latencies in an HDR histogram, exact to 0.1 %. Histograms of several processes can be added."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from hdrh.histogram import HdrHistogram

LONGEST_US = 3_600_000_000
DIGITS = 3


class Milliseconds(msgspec.Struct):
    """A distribution in milliseconds; all values are None if nothing was measured."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    max: float | None = None


class Latencies:
    """Latencies from a microsecond to an hour; those outside count as the nearest of both."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, LONGEST_US, DIGITS)

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    def add(self, latencies_s: Sequence[float]) -> None:
        """Add latencies in seconds."""
        in_us = np.rint(np.asarray(latencies_s, float) * 1e6).astype(np.int64).clip(1, LONGEST_US)
        # The histogram takes one value at a time, so equal values are counted first.
        for value, count in zip(*(each.tolist() for each in np.unique(in_us, return_counts=True)), strict=True):
            self._histogram.record_value(value, count)

    def encode(self) -> str:
        """Encode the histogram as text for ``add_encoded``."""
        return str(self._histogram.encode().decode())

    def add_encoded(self, text: str) -> None:
        self._histogram.decode_and_add(text.encode())

    def milliseconds(self) -> Milliseconds:
        if not self.count:
            return Milliseconds()
        p50, p95, p99, p99_9, longest = (
            self._histogram.get_value_at_percentile(percent) for percent in (50, 95, 99, 99.9, 100)
        )
        values_us = (self._histogram.get_mean_value(), p50, p95, p99, p99_9, longest)
        return Milliseconds(*(round(value / 1000, 3) for value in values_us))
