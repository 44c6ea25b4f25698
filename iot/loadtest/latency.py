"""Latencies in an HDR histogram, exact to 0.1 %. Histograms of several processes can be added.

A bucket holds all values with the same 11 leading bits. numpy counts them, because the package ``hdrhistogram`` needs a
compiler on Linux for Arm and on Macs with an Intel processor.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence

import msgspec
import numpy as np

LONGEST_US = 3_600_000_000
LEADING_BITS = 11
# How many of the values that share a number of bits have a bucket of their own.
BUCKETS_PER_BIT = 1 << (LEADING_BITS - 1)
# How many points a curve has from one rarity to twice this rarity.
POINTS_PER_DOUBLING = 4


class Milliseconds(msgspec.Struct):
    """A distribution in milliseconds; all values are None if nothing was measured."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    max: float | None = None


class LatencySample(msgspec.Struct):
    """The latencies of a part of a test that ends at ``at_s``, in milliseconds."""

    at_s: float
    p50: float
    p99: float
    max: float


# Minimum time between two samples of the latency, and maximum number of samples.
MIN_SAMPLE_S, MOST_SAMPLES = 0.5, 120

Curve = list[tuple[float, float]]
"""The distribution as a curve: pairs of 1 / (1 - q) and the latency in ms that the share q of all does not exceed."""


class Latencies:
    """Latencies from a microsecond to an hour; those outside count as the nearest of both."""

    def __init__(self) -> None:
        self._counts = np.zeros(_bucket(np.array([LONGEST_US]))[0] + 1, np.int64)

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    def add(self, latencies_s: Sequence[float] | np.ndarray) -> None:
        """Add latencies in seconds."""
        in_us = np.rint(np.asarray(latencies_s, float) * 1e6).clip(1, LONGEST_US).astype(np.int64)
        self._counts += np.bincount(_bucket(in_us), minlength=len(self._counts))

    def merge(self, other: Latencies) -> None:
        self._counts += other._counts

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
        percentiles_ms = self._at(np.array([0.5, 0.95, 0.99, 0.999, 1.0]))
        return Milliseconds(round(mean / 1000, 3), *percentiles_ms)

    def curve(self) -> Curve:
        """The percentile curve, as HDR histograms are drawn: each step to the right is a rarer latency.

        It ends with the longest latency, at the number of latencies. It is empty if nothing was measured.
        """
        if not self.count:
            return []
        steps = math.ceil(math.log2(self.count) * POINTS_PER_DOUBLING - 1e-9)
        rarities = np.exp2(np.arange(steps) / POINTS_PER_DOUBLING)
        at_ms = self._at(np.append(1 - 1 / rarities, 1.0))
        return list(zip([*rarities.round(3).tolist(), float(self.count)], at_ms, strict=True))

    def sample(self, at_s: float) -> LatencySample:
        """The percentiles of at least one latency, for a line over time."""
        return LatencySample(round(at_s, 3), *self._at(np.array([0.5, 0.99, 1.0])))

    def _at(self, shares: np.ndarray) -> list[float]:
        """Return the latency in ms that each share of all latencies does not exceed."""
        # Rounding must not ask for one more than a share such as 99.9 % of 1,000.
        ranks = np.ceil(self.count * shares - 1e-6).clip(1, self.count)
        # The first bucket at which the counts add up to the rank. Its highest value never flatters a percentile.
        highest_us = _bounds(np.searchsorted(np.cumsum(self._counts), ranks))[1]
        in_ms: list[float] = (highest_us / 1000).round(3).tolist()
        return in_ms


def sample_width_s(duration_s: float) -> float:
    """How long the parts of a test are that have a sample each."""
    return max(MIN_SAMPLE_S, duration_s / MOST_SAMPLES)


def over_time(latencies_s: Sequence[tuple[float, float]], start_s: float) -> list[LatencySample]:
    """Samples of latencies over time.

    Args:
        latencies_s: pairs of the moment from which a latency counts and the latency.
        start_s: the moment that is 0 in the samples.
    """
    if not latencies_s:
        return []
    moments_s, values_s = np.asarray(latencies_s, float).T
    width_s = sample_width_s(float(moments_s.max()) - start_s)
    parts = ((moments_s - start_s) // width_s).astype(np.int64)
    samples = []
    for part in np.unique(parts).tolist():
        latencies = Latencies()
        latencies.add(values_s[parts == part])
        samples.append(latencies.sample((part + 1) * width_s))
    return samples


def spread(latency: Milliseconds) -> str:
    names = {"p50": "p50", "p95": "p95", "p99": "p99", "p99_9": "p99.9", "max": "max", "mean": "mean"}
    return ", ".join(f"{said} {in_ms(getattr(latency, name))}" for name, said in names.items())


def in_ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


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
