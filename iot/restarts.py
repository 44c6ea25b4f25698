"""When a process that has ended is started again: after a pause, which doubles while the process keeps ending."""

from __future__ import annotations

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
# After a process has run for so long, the pauses begin with the first one.
STEADY_S = 60.0


class Restarts:
    """The restarts of one process. Times are in seconds, of any clock that never goes back."""

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._pause_s = 0.0
        self._due_s: float | None = None

    def ended(self, now_s: float) -> float | None:
        """Note that the process has ended; return the pause before the next start, or None if that is known."""
        if self._due_s is not None:
            return None
        is_steady = now_s - self._started_s > STEADY_S
        self._pause_s = FIRST_PAUSE_S if is_steady or not self._pause_s else min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._due_s = now_s + self._pause_s
        return self._pause_s

    def is_due(self, now_s: float) -> bool:
        """Whether the pause is over; the process then counts as started."""
        if self._due_s is None or now_s < self._due_s:
            return False
        self._started_s, self._due_s = now_s, None
        return True
