"""Open-loop pacing: send n is due at start + n / rate, however long the sends before it took.

A slow broker delays readings, but it does not lower the rate. Delays are measured from the due time, so they include
the wait. wrk2 and the OpenMessaging Benchmark avoid coordinated omission in the same way.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Clock = Callable[[], float]

# The smallest difference that means that the wall clock was set or the machine slept.
JUMP_S = 0.5
# The range of the delays, and the logarithm of the width of a bucket: 2 % of the delay.
SHORTEST_S, LONGEST_S, WIDTH = 1e-6, 1e6, math.log(1.02)


class Schedule:
    """When each send is due, in seconds of a monotonic clock."""

    def __init__(self, rate_per_s: float, start_s: float, clock: Clock = time.monotonic) -> None:
        self.rate_per_s = rate_per_s
        self.start_s = start_s
        self._clock = clock

    def due_s(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the times at which these sends, numbered from 0, are due."""
        return self.start_s + numbers / self.rate_per_s

    def due_by_now(self) -> int:
        """Return how many sends are due now; these are sends 0 to n - 1."""
        return max(0, math.floor((self._clock() - self.start_s) * self.rate_per_s) + 1)

    def wait_for(self, number: int, shortest_s: float, longest_s: float, stop: threading.Event) -> None:
        """Wait until this send is due or ``stop`` is set, but at least ``shortest_s`` and at most ``longest_s``."""
        left_s = self.start_s + number / self.rate_per_s - self._clock()
        stop.wait(min(max(left_s, shortest_s), longest_s))


class WallClock:
    """Converts monotonic time to wall clock time, steadily unless the clock is set or the machine sleeps."""

    def __init__(self, monotonic: Clock = time.monotonic, wall: Clock = time.time) -> None:
        self._monotonic, self._wall = monotonic, wall
        self._ahead_s = wall() - monotonic()

    def time_us(self, times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return these times of the monotonic clock as microseconds since the epoch."""
        ahead_s = self._wall() - self._monotonic()
        if abs(ahead_s - self._ahead_s) > JUMP_S:
            self._ahead_s = ahead_s
        return np.rint((times_s + self._ahead_s) * 1e6).astype(np.int64)


class Delays:
    """Percentiles of any number of delays, exact to 2 %. Threads may share it."""

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
        """Return the delay in seconds that ``percent`` of all delays do not exceed; 0 if there are none."""
        counts = self._counts.cumsum()
        bucket = int(np.searchsorted(counts, max(1.0, counts[-1] * percent / 100)))
        return min(self.max_s, SHORTEST_S * math.exp((bucket + 0.5) * WIDTH))

    @staticmethod
    def _bucket(delays_s: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        return (np.log(np.clip(delays_s, SHORTEST_S, LONGEST_S) / SHORTEST_S) / WIDTH).astype(np.int64)
