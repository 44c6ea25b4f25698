"""What a test is: how many readings, from how many threads, how fast, and with which client."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from iot.kafka.sender import CLIENTS

# The course's best, with which its custom test begins too.
COURSE_MESSAGES, COURSE_THREADS = 99_990, 18
COURSE = "course"
"""The course's method in place of a client: each thread sends one reading with kafka-python and waits for it."""

METHODS = (*CLIENTS, COURSE)
DELIVERY_TIMEOUT_S = 30.0
# Of all readings; their latency is left out.
WARM_UP = 0.05
# Of the fast path every so many readings are followed: following each costs more than sending it.
SAMPLE = 100


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One test, with one client."""

    test: str
    client: str
    """Of ``METHODS``."""
    messages: int
    threads: int
    rate_per_s: float | None = None
    """Of all threads together; None: as fast as it goes."""
    in_flight: int | None = None
    """The most unacknowledged readings of a thread; None: bounded for the whole process, see ``bound``."""
    delivery_timeout_s: float = DELIVERY_TIMEOUT_S
    warm_up: float = WARM_UP

    @property
    def follows_every(self) -> int:
        """Of how many readings one is followed to its acknowledgement."""
        fast = self.client == "confluent-kafka" and self.rate_per_s is None and self.in_flight is None
        return SAMPLE if fast and self.messages >= 100 * SAMPLE else 1

    def bound(self, threads: int) -> int:
        """The most unacknowledged readings of a process with these threads.

        That is enough to fill the batches, and not more, because each waits for those before it.
        """
        if self.in_flight:
            return self.in_flight * threads
        return 100_000 if self.client == "confluent-kafka" or self.rate_per_s else 5_000

    @property
    def tuning(self) -> dict[str, Any]:
        """Settings of the client, in its own spelling."""
        timeout_ms = math.ceil(self.delivery_timeout_s * 1000)
        # Paced readings shall not wait for company; those of a thread that waits for them would only wait longer.
        linger_ms = 0 if self.rate_per_s or self.in_flight == 1 else 5
        if self.client == "confluent-kafka":
            # A request that hangs ends before the time of its readings is over.
            return {"linger.ms": linger_ms, "message.timeout.ms": timeout_ms, "request.timeout.ms": 10_000}
        return {
            "linger_ms": linger_ms,
            "delivery_timeout_ms": timeout_ms,
            "request_timeout_ms": min(10_000, timeout_ms - linger_ms - 1),
        }


PRESETS: dict[str, tuple[int, int, float | None]] = {
    "burst": (1_000, 4, None),
    "high-volume": (10_000, 8, None),
    "stress": (50_000, 16, None),
    "sustained": (6_000, 1, 100.0),
    "custom": (COURSE_MESSAGES, COURSE_THREADS, None),
}
"""Messages, threads, and messages a second, by test."""


def make_plan(
    test: str,
    client: str,
    messages: int | None = None,
    threads: int | None = None,
    rate_per_s: float | None = None,
    duration_s: float | None = None,
    in_flight: int | None = None,
    delivery_timeout_s: float = DELIVERY_TIMEOUT_S,
) -> Plan:
    """A preset test, with what is not None in place of its own numbers.

    A duration counts at a rate only: it and the rate make the number of messages, unless that is given.
    """
    usual_messages, usual_threads, usual_rate_per_s = PRESETS[test]
    rate_per_s = rate_per_s or usual_rate_per_s
    if messages is None and rate_per_s and (duration_s or usual_rate_per_s is None or rate_per_s != usual_rate_per_s):
        # Rounding must not add one: 0.1 s at 30/s are 3, not 4.
        messages = max(1, math.ceil(rate_per_s * (duration_s or 60.0) - 1e-6))
    return Plan(
        test=test,
        client=client,
        messages=messages or usual_messages,
        threads=threads or usual_threads,
        rate_per_s=rate_per_s,
        in_flight=in_flight,
        delivery_timeout_s=delivery_timeout_s,
    )
