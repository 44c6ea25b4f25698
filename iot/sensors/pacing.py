"""Open-loop pacing: the n-th send is due at start + n / rate, whatever happened to those before it.

A slow broker delays readings but never lowers the rate that was asked for, and a delay counted from the due time does
not hide the wait (the coordinated omission that wrk2 and OpenMessaging Benchmark avoid the same way).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Clock = Callable[[], float]

# Of a wall clock that was set, or a machine that slept.
JUMP_S = 0.5
# The delays that are told apart, and the width of a bucket: 2 % of the delay.
SHORTEST_S, LONGEST_S, WIDTH = 1e-6, 1e6, math.log(1.02)


class Schedule:
    """When each send is due, in seconds of a monotonic clock."""

    def __init__(self, rate_per_s: float, start_s: float, clock: Clock = time.monotonic) -> None:
        self.rate_per_s = rate_per_s
        self.start_s = start_s
        self._clock = clock

    def due_s(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The moments at which these sends (from 0) are due."""
        return self.start_s + numbers / self.rate_per_s

    def due_by_now(self) -> int:
        """How many sends are due: all n below this number."""
        return max(0, math.floor((self._clock() - self.start_s) * self.rate_per_s) + 1)

    def wait_for(self, number: int, shortest_s: float, longest_s: float, stop: threading.Event) -> None:
        """Wait until this send is due or ``stop`` is set, for a time within these limits."""
        left_s = self.start_s + number / self.rate_per_s - self._clock()
        stop.wait(min(max(left_s, shortest_s), longest_s))


class WallClock:
    """The wall clock at moments of the monotonic clock: steady, until it is set or the machine sleeps."""

    def __init__(self, monotonic: Clock = time.monotonic, wall: Clock = time.time) -> None:
        self._monotonic, self._wall = monotonic, wall
        self._ahead_s = wall() - monotonic()

    def time_us(self, moments_s: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Microseconds since the epoch at these moments."""
        ahead_s = self._wall() - self._monotonic()
        if abs(ahead_s - self._ahead_s) > JUMP_S:
            self._ahead_s = ahead_s
        return np.rint((moments_s + self._ahead_s) * 1e6).astype(np.int64)


class Delays:
    """Percentiles of any number of delays, exact to 2 %."""

    def __init__(self) -> None:
        self._counts = np.zeros(self._bucket(np.array([LONGEST_S]))[0] + 1, np.int64)
        self.max_s = 0.0
        self._lock = threading.Lock()

    def add(self, delays_s: npt.NDArray[np.float64]) -> None:
        """Add at least one delay, in seconds."""
        with self._lock:
            np.add.at(self._counts, self._bucket(delays_s), 1)
            self.max_s = max(self.max_s, float(delays_s.max()))

    def percentile_s(self, percent: float) -> float:
        """The delay in seconds that ``percent`` of all do not exceed; 0 with none."""
        counts = self._counts.cumsum()
        bucket = int(np.searchsorted(counts, max(1.0, counts[-1] * percent / 100)))
        return min(self.max_s, SHORTEST_S * math.exp((bucket + 0.5) * WIDTH))

    @staticmethod
    def _bucket(delays_s: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        return (np.log(np.clip(delays_s, SHORTEST_S, LONGEST_S) / SHORTEST_S) / WIDTH).astype(np.int64)
