"""The plan of a test: how many readings, from how many threads, how fast, and with which client."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from iot.kafka.sender import CLIENTS

# The fastest settings in the course, and the defaults of the custom test.
COURSE_MESSAGES, COURSE_THREADS = 99_990, 18
COURSE = "course"
"""The course's method, used like a client: each thread sends one reading with kafka-python and waits for it."""

METHODS = (*CLIENTS, COURSE)
# How long to wait for an acknowledgement before a reading has failed.
DELIVERY_TIMEOUT_S = 30.0
# The first readings whose latency is not measured, as a share of all.
WARM_UP = 0.05
# How often a reading is marked in the fastest tests: marking every reading costs more than sending it.
SAMPLE = 100


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One test, with one client."""

    test: str
    client: str
    """One of ``METHODS``."""
    messages: int
    threads: int
    rate_per_s: float | None = None
    """The rate of all threads together. None: as fast as possible."""
    in_flight: int | None = None
    """Maximum number of unacknowledged readings of a thread. None: ``bound`` limits the whole process."""
    delivery_timeout_s: float = DELIVERY_TIMEOUT_S
    warm_up: float = WARM_UP
    sensors: int | None = None
    """How many sensors all threads together simulate. None: as few as are fast to encode."""
    gathers: bool | None = None
    """Whether readings wait some milliseconds for others, to be sent in one request. None: where latency allows it."""
    is_load: bool = False
    """Whether only the system that processes the readings is measured, and not how they are sent."""

    @property
    def follows_every(self) -> int:
        """One in this many readings is marked and followed to its acknowledgement."""
        if self.is_load:
            return SAMPLE
        fast = self.client == "confluent-kafka" and self.rate_per_s is None and self.in_flight is None
        return SAMPLE if fast and self.messages >= 100 * SAMPLE else 1

    def bound(self, threads: int) -> int:
        """Maximum number of unacknowledged readings of a process with this many threads.

        It is enough to fill the batches. More readings would only wait longer, for those before them.
        """
        if self.in_flight:
            return self.in_flight * threads
        return 100_000 if self.client == "confluent-kafka" or self.rate_per_s else 5_000

    @property
    def tuning(self) -> dict[str, Any]:
        """The settings of the client, in its own spelling."""
        timeout_ms = math.ceil(self.delivery_timeout_s * 1000)
        # Lingering fills batches. It only adds latency if readings are paced, or if a thread waits for each one.
        gathers = not (self.rate_per_s or self.in_flight == 1) if self.gathers is None else self.gathers
        linger_ms = 5 if gathers else 0
        if self.client == "confluent-kafka":
            # A request that hangs must end before its readings time out.
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
"""By test: messages, threads, and messages a second or None for as fast as possible."""


def make_plan(
    test: str,
    client: str,
    *,
    messages: int | None = None,
    threads: int | None = None,
    rate_per_s: float | None = None,
    duration_s: float | None = None,
    in_flight: int | None = None,
    delivery_timeout_s: float = DELIVERY_TIMEOUT_S,
) -> Plan:
    """A preset test; arguments that are not None replace its numbers.

    Without ``messages``, a paced test sends for ``duration_s`` (default: 60). Other tests ignore the duration.
    """
    preset_messages, preset_threads, preset_rate_per_s = PRESETS[test]
    rate_per_s = rate_per_s or preset_rate_per_s
    is_preset = duration_s is None and rate_per_s == preset_rate_per_s
    if messages is None and rate_per_s and not is_preset:
        messages = messages_in(duration_s or 60.0, rate_per_s)
    return Plan(
        test=test,
        client=client,
        messages=messages or preset_messages,
        threads=threads or preset_threads,
        rate_per_s=rate_per_s,
        in_flight=in_flight,
        delivery_timeout_s=delivery_timeout_s,
    )


def messages_in(duration_s: float, rate_per_s: float) -> int:
    """How many messages are due in this time, at least one."""
    # Rounding must not add one: 0.1 s at 30 a second are 3 messages, not 4.
    return max(1, math.ceil(rate_per_s * duration_s - 1e-6))
