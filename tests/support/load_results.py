"""Results of load tests that never ran."""

from __future__ import annotations

from typing import Any

from iot.loadtest.latency import Milliseconds
from iot.loadtest.results import Result
from iot.loadtest.usage import UsageSample


def make_result(**changes: Any) -> Result:
    """A successful result, with some fields changed."""
    defaults: dict[str, Any] = {
        "test": "burst",
        "client": "kafka-python",
        "client_version": "3",
        "threads": 4,
        "messages": 1_000,
        "messages_sent": 1_000,
        "messages_acknowledged": 1_000,
        "messages_failed": 0,
        "success_rate_pct": 100.0,
        "duration_s": 0.5,
        "throughput_per_s": 2_000.0,
        "latency_ms": Milliseconds(5, 4, 8, 10, 20, 30),
        "latency_from": "the hand-over to the client",
        "latency_of_one_in": 1,
        "warm_up_pct": 5,
        "cpu_pct": 50.0,
        "machine_cpu_pct": 40.0,
        "throughput_per_cpu_pct": 40.0,
        "memory_peak_mb": 60.0,
        "batching": "",
        "in_flight": "",
        "topic": "iot-sensors",
        "topic_grew_by": 1_000,
        "timeline": [UsageSample(0.25, 400, 60.0, 50.0, 58.0), UsageSample(0.5, 1_000, 40.0, 30.0, 60.0)],
    }
    return Result(**defaults | changes)
