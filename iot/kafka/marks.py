"""A mark on a record: tells when that one record was acknowledged, or that it failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Mark:
    """Tells the end of one record: calls ``on_end(acknowledged)`` once, in a thread of the client or of ``send``."""

    __slots__ = ("_on_end", "_on_failed")

    def __init__(self, on_end: Callable[[bool], None], on_failed: Callable[[Any, Any], None] | None) -> None:
        """``on_failed`` is given where the client's callback of a failure is this mark instead of the sender's own."""
        self._on_end: Callable[[bool], None] | None = on_end
        self._on_failed = on_failed

    def __call__(self, error: Any, about: Any) -> None:
        if error is not None and self._on_failed:
            self._on_failed(error, about)
        self.end(error is None)

    def __del__(self) -> None:
        # confluent-kafka calls for failures only; the mark of a record that is acknowledged it just lets go of.
        if self._on_failed:
            self.end(True)

    def forget(self) -> None:
        """Of a record that was not accepted: nothing is told."""
        self._on_end = None

    def end(self, acknowledged: bool) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end:
            on_end(acknowledged)
