"""Results of load tests that never ran."""

from __future__ import annotations

from typing import Any

from iot.loadtest.latency import Latencies, LatencySample, Milliseconds
from iot.loadtest.process_cpu import ROLES, ProcessUsage
from iot.loadtest.results import DrainSample, Result, Stage
from iot.loadtest.steps import StepFigures, judge
from iot.loadtest.usage import UsageSample

OVER_TIME = [LatencySample(at_s / 2, 4.0, 10.0, 30.0) for at_s in range(1, 20)]
PROCESS_CPU = [
    ProcessUsage(role, [1.0, 2.0, 3.0], [10.0 * at, 20.0, 30.0], 20.0 + at) for at, role in enumerate(ROLES, 1)
]


def _curve() -> list[tuple[float, float]]:
    latencies = Latencies()
    latencies.add([0.001 * at for at in range(1, 1_001)])
    return latencies.curve()


CURVE = _curve()


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
        "latency_curve": CURVE,
        "latency_over_time": OVER_TIME,
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


def make_end_to_end(**changes: Any) -> Result:
    """A result of the end-to-end test, with a lost reading and a stage that nothing reached."""
    p99 = Milliseconds(5, 4, 8, 10, 20, 30)
    stages = [
        Stage(name=name, expected=4_000, arrived=4_000 - lost, lost=lost, doubled=0, latency_ms=latency)
        for name, lost, latency in (
            ("acknowledged by Kafka", 0, p99),
            ("alert on the event stream", 4_000, Milliseconds()),
            ("counted in three windows", 1, p99),
        )
    ]
    for stage in stages[::2]:
        stage.latency_curve, stage.latency_over_time = CURVE, OVER_TIME
    return make_result(**{"test": "end-to-end", "rate_per_s": 200.0, "stages": stages} | changes)


def make_step(kind: str, rate_per_s: float, windows_ms: float) -> StepFigures:
    """A step of a search with this p99 of windows, judged with a target of 2 s."""
    quick = Milliseconds(20, 15, 30, 90, 120, 200)
    made = StepFigures(
        kind=kind,
        rate_per_s=rate_per_s,
        sent_per_s=rate_per_s,
        measured_s=20.0,
        acknowledged_ms=quick,
        windows_ms=Milliseconds(windows_ms / 2, windows_ms / 3, windows_ms / 2, windows_ms, windows_ms, windows_ms),
        alerts_ms=quick,
        alerts_in_kafka_ms=quick,
        page_ms=quick,
        lag=rate_per_s,
        spark_s=0.9,
        database_s=0.1,
        cpu_pct={role: rate_per_s / 1_000 + at for at, role in enumerate(ROLES)},
        machine_cpu_pct=97.0,
        machine_speed_pct=100.0 - rate_per_s / 2_000,
    )
    made.held, _, made.gave_out, made.why = judge(made, 2_000)
    return made


def make_max_rate() -> Result:
    """A result of a search that found 38,000 readings a second."""
    steps = [
        make_step("doubling", 16_000, 900),
        make_step("doubling", 32_000, 1_500),
        make_step("doubling", 64_000, 9_000),
        make_step("bisection", 45_000, 2_300),
        make_step("bisection", 38_000, 1_700),
        make_step("confirmation", 38_000, 1_800),
    ]
    return make_result(
        test="max-rate",
        client="confluent-kafka",
        threads=1,
        rate_per_s=38_000.0,
        max_rate_per_s=38_000.0,
        is_confirmed=True,
        gave_out=f"{steps[3].gave_out} at 45,000/s: {steps[3].why}",
        steps=steps,
        throughput_per_cpu_pct=None,
        process_cpu=PROCESS_CPU,
        timeline=[],
    )


def make_backlog() -> Result:
    """A result of a backlog that was processed completely."""
    untimed: dict[str, Any] = {"lost": 0, "doubled": 0, "latency_ms": Milliseconds(), "is_timed": False}
    return make_result(
        test="backlog",
        threads=1,
        drain_s=4.0,
        drain_alerts_s=5.5,
        drain_rate_per_s=250_000.0,
        drain=[DrainSample(1.0, 0, 0), DrainSample(4.0, 1_000_000, 3_000), DrainSample(5.5, 1_000_000, 9_000)],
        stages=[
            Stage(name="reading counted", expected=1_000_000, arrived=1_000_000, **untimed),
            Stage(name="alert stored", expected=9_000, arrived=9_000, **untimed),
        ],
        process_cpu=PROCESS_CPU,
    )
