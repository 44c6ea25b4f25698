"""Something that is kept running: what failed, why, and when it is started again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iot.results.model import STARTING
from iot.spark.errors import explain

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
# A job that ran this long was well: the next failure is a new one.
WELL_S = 60.0
# One that failed before is taken to run when it has not failed again for longer than a lock is waited for.
SHOWN_S = 6.0


class Job:
    """Something that runs until it fails, and is then started again after a pause."""

    def __init__(self, name: str, begin: Callable[[], Any], cure: str, mode: str = "") -> None:
        """
        Args:
            cure: a command that has it start afresh.
        """
        self.name = name
        self._cure = cure
        self.mode = mode
        self.running: Any = None
        self.reason: str | None = STARTING
        self.polled_s = 0.0
        self._begin = begin
        self._begun_s = self._due_s = 0.0
        self._pause_s = FIRST_PAUSE_S

    def start_if_due(self, now_s: float) -> None:
        """Start it unless it runs or its pause is not over."""
        if self.running is not None or now_s < self._due_s:
            return
        try:
            self.running = self._begin()
            self._begun_s = now_s
            # After a failure, that it runs again has to show first.
            if self.reason == STARTING:
                self.reason = None
        except Exception as error:
            self.failed(error, now_s)

    def seen_running(self, now_s: float) -> None:
        """Note that it was found running."""
        self.polled_s = now_s
        if now_s - self._begun_s > SHOWN_S:
            self.reason = None

    def failed(self, error: BaseException, now_s: float) -> None:
        """Note a failure; it is started again after a pause."""
        if self._begun_s and now_s - self._begun_s > WELL_S:
            self._pause_s = FIRST_PAUSE_S
        self.running = None
        self.reason = explain(error, cure=self._cure)
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
