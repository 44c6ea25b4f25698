"""A writer of the gateway that needs no Kafka."""

from __future__ import annotations

from iot.gateway.writer import Refusal, Writer
from iot.gateway.writes import Write
from iot.readings import Message
from iot.settings import Kafka


class FakeWriter(Writer):
    """Keeps what it gets. ``error`` is raised, ``acknowledged`` is the outcome, None: it never comes."""

    def __init__(self) -> None:
        super().__init__(Kafka(), "topic", print)
        self.written: list[Message] = []
        self.refused: list[Refusal] = []
        self.error: Exception | None = None
        self.acknowledged: bool | None = True
        self.why = ""

    def problem(self):
        return self.why

    def write(self, messages, refusals=()):
        if self.error:
            raise self.error
        write = Write()
        for message in messages:
            if self.sequences.enter(message):
                write.repeated += 1
                continue
            self.written.append(message)
            write.readings += 1
        self.refused += refusals
        if self.acknowledged is not None:
            write.end_part(self.acknowledged)
        return write
