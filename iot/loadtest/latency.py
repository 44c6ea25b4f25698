"""Latencies in an HDR histogram, exact to 0.1 %. Histograms of several processes can be added.

A bucket holds all values with the same 11 leading bits. numpy counts them, because the package ``hdrhistogram`` needs a
compiler on Linux for Arm and on Macs with an Intel processor.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import msgspec
import numpy as np

LONGEST_US = 3_600_000_000
LEADING_BITS = 11
# How many of the values that share a number of bits have a bucket of their own.
BUCKETS_PER_BIT = 1 << (LEADING_BITS - 1)


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
        self._counts = np.zeros(_bucket(np.array([LONGEST_US]))[0] + 1, np.int64)

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    def add(self, latencies_s: Sequence[float]) -> None:
        """Add latencies in seconds."""
        in_us = np.rint(np.asarray(latencies_s, float) * 1e6).clip(1, LONGEST_US).astype(np.int64)
        self._counts += np.bincount(_bucket(in_us), minlength=len(self._counts))

    def encode(self) -> str:
        """Encode the histogram as text for ``add_encoded``."""
        return base64.b85encode(zlib.compress(self._counts.astype("<i8").tobytes(), 1)).decode()

    def add_encoded(self, text: str) -> None:
        self._counts += np.frombuffer(zlib.decompress(base64.b85decode(text)), "<i8")

    def milliseconds(self) -> Milliseconds:
        if not self.count:
            return Milliseconds()
        lowest, highest = _bounds(np.arange(len(self._counts)))
        mean = float(self._counts @ ((lowest + highest) / 2)) / self.count
        ranks = [max(1, np.ceil(self.count * percent / 100)) for percent in (50, 95, 99, 99.9, 100)]
        # The first bucket at which the counts add up to the rank. Its highest value never flatters a percentile.
        percentiles = highest[np.searchsorted(np.cumsum(self._counts), ranks)].tolist()
        return Milliseconds(*(round(value_us / 1000, 3) for value_us in (mean, *percentiles)))


def _bucket(values: np.ndarray) -> np.ndarray:
    """Return the bucket of each value. Values of up to 11 bits have their own; above, the last bits are cut off."""
    cut = np.maximum(np.frexp(values)[1] - LEADING_BITS, 0)
    buckets: np.ndarray = (values >> cut) + cut * BUCKETS_PER_BIT
    return buckets


def _bounds(buckets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of each bucket."""
    cut = np.maximum(buckets // BUCKETS_PER_BIT - 1, 0)
    lowest = (buckets - cut * BUCKETS_PER_BIT) << cut
    return lowest, lowest + (1 << cut) - 1
