"""A sender that needs no Kafka."""

from __future__ import annotations

import sys
import threading

from iot.kafka.sender import Record, Sender


class Memory(Sender):
    """A sender that keeps up to ``limit`` records in memory and then sets ``stop``; a test sets ``confirmed``."""

    client = "memory"

    def __init__(self, limit: int = sys.maxsize) -> None:
        super().__init__("topic", 0)
        self.sent: list[Record] = []
        self.confirmed = 0
        self.limit = limit

    @property
    def acknowledged(self) -> int:
        return self.confirmed

    def send(self, records: list[Record], stop: threading.Event) -> int:
        accepted = min(len(records), self.limit - self.accepted)
        self.sent += [record.copy() for record in records[:accepted]]
        self.accepted += accepted
        if accepted < len(records):
            stop.set()
        return accepted

    def flush(self, timeout_s: float) -> int:
        return self.in_flight

    def close(self) -> None: ...
