"""What the gateway answers to readings."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from iot.gateway.intake import Taken
from iot.gateway.writes import Write

# How long a request waits for Kafka's acknowledgement.
ACKNOWLEDGED_S = 5.0
# What a client that is refused for now is told to wait, in seconds.
RETRY_AFTER = {"Retry-After": "1"}


class Answer(NamedTuple):
    """The status and content of an answer, and whether the client is to try again later."""

    status: int
    content: Any
    is_temporary: bool = False


class Counts(msgspec.Struct):
    """The answer to readings: how many were written now, had been written before, and how many records were refused."""

    written: int
    repeated: int
    refused: int
    errors: list[dict[str, Any]]


def later(status: int, text: str) -> Answer:
    """An answer that refuses for now."""
    return Answer(status, {"error": text}, True)


CROWDED = later(429, "too many requests wait for Kafka: send larger batches, or fewer at once")
FULL = later(429, "too much waits for Kafka: send it again later")
LATE = later(503, "Kafka has not acknowledged the readings yet: send them again")
FAILED = later(503, "Kafka failed, and may not have the readings: send them again")


def of_write(taken: Taken, write: Write) -> Answer:
    """The answer once all that a request held has been acknowledged, or has failed."""
    if not write.is_acknowledged:
        return FAILED
    errors = [{"record": problem.number, "error": problem.reason} for problem in taken.problems]
    status = 200 if not errors else 207 if taken.messages else 422
    return Answer(status, Counts(write.readings, write.repeated, len(errors), errors))
