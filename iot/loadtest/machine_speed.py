"""How fast the machine itself is, by the CPU time that a fixed piece of work takes.

On a machine that is shared, or that gets hot, this changes, and no rate that was measured is more exact than that. The
CPU time of the work does not count how long it waited for a processor.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

# How often to work. The work takes 2 to 5 ms on the machine of the measurements.
EVERY_S = 1.0
WORK = [{"sensor_id": f"sensor_{number}", "value": number / 7} for number in range(60)]
ROUNDS = 20


class MachineSpeed:
    """Measures the speed of the machine now and then."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """
        Args:
            clock: the CPU time of this thread in seconds.
        """
        self._clock = clock
        self._looked_s = float("-inf")
        self._took: list[tuple[float, float]] = []
        self._first_s: float | None = None

    def look_if_due(self, now_s: float) -> None:
        """Work, if the last time was ``EVERY_S`` ago."""
        if now_s - self._looked_s < EVERY_S:
            return
        self._looked_s = now_s
        begun_s = self._clock()
        for _ in range(ROUNDS):
            json.loads(json.dumps(WORK))
        self._took.append((now_s, self._clock() - begun_s))

    def pct_since(self, begin_s: float) -> float | None:
        """The median speed since a moment, in per cent of what the first call of this returned; None if unknown."""
        took_s = statistics.median([took_s for at_s, took_s in self._took if at_s >= begin_s] or [0.0])
        if not took_s:
            return None
        if self._first_s is None:
            self._first_s = took_s
        return round(100 * self._first_s / took_s, 1)
