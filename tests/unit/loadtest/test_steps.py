"""Whether a step of a search held, and what gave out first."""

from __future__ import annotations

from typing import Any

import pytest

from iot.loadtest.latency import Milliseconds
from iot.loadtest.steps import StepFigures, judge, speed_varied


def of_p99(p99_ms: float | None) -> Milliseconds:
    return (
        Milliseconds() if p99_ms is None else Milliseconds(p99_ms / 3, p99_ms / 4, p99_ms / 2, p99_ms, p99_ms, p99_ms)
    )


def step(**changes: Any) -> StepFigures:
    """A step that holds, with some figures changed. A number for a latency is its p99."""
    defaults: dict[str, Any] = {
        "kind": "bisection",
        "rate_per_s": 10_000.0,
        "sent_per_s": 10_000.0,
        "measured_s": 20.0,
        "acknowledged_ms": 20,
        "windows_ms": 1_500,
        "alerts_ms": 100,
        "alerts_in_kafka_ms": 90,
        "page_ms": 15,
        "lag": 9_000.0,
        "lag_growth_per_s": 10.0,
        "batch_s": 1.0,
        "spark_s": 0.7,
        "database_s": 0.2,
        "cpu_pct": {"broker": 30.0, "JVM": 90.0, "generator": 40.0},
        "machine_cpu_pct": 80.0,
    }
    fields: dict[str, Any] = defaults | changes
    latencies = {name: of_p99(value) for name, value in fields.items() if name.endswith("_ms")}
    return StepFigures(**fields | latencies)


def test_a_step_within_all_bounds_holds():
    assert judge(step(), 2_000) == (True, False, "", "")


@pytest.mark.parametrize(
    ("changes", "part", "why"),
    [
        ({"sent_per_s": 9_700.0}, "the producer", "9,700 of 10,000"),
        ({"sent_per_s": 9_700.0, "acknowledged_ms": 3_000}, "the broker", "3,000 ms"),
        ({"windows_ms": 2_900, "acknowledged_ms": 1_700}, "the broker", "1,700 ms"),
        ({"windows_ms": 2_900}, "Spark's batch", "Spark 0.7 s and the database 0.2 s"),
        ({"windows_ms": 2_900, "database_s": 0.9}, "the database", "the database 0.9 s"),
        ({"windows_ms": 2_900, "spark_s": None, "database_s": None}, "Spark's batch or the database", "every 1 s"),
        ({"windows_ms": None}, "Spark's batch", "no window"),
        ({"windows_ms": 2_900, "page_ms": 1_900}, "the page", "1,900 ms"),
        ({"lag_grows": True, "lag_growth_per_s": 800.0}, "Spark's batch", "grew by 800/s"),
        ({"is_hopeless": True, "windows_ms": 9_000}, "Spark's batch", "9,000 ms"),
        ({"alerts_ms": 700, "alerts_in_kafka_ms": 650}, "Spark's alerts query", "650 ms"),
        ({"alerts_ms": 700}, "the page", "90 ms"),
        ({"alerts_ms": None, "alerts_in_kafka_ms": None}, "Spark's alerts query", "-"),
        ({"alerts_ms": 700, "alerts_in_kafka_ms": 690, "acknowledged_ms": 400}, "the broker", "400 ms"),
    ],
)
def test_the_first_part_that_is_late_is_named_with_its_figure(changes, part, why):
    verdict = judge(step(**changes), 2_000)
    assert not verdict.held
    assert verdict.part == part
    assert why in verdict.why


@pytest.mark.parametrize(
    ("changes", "decisive"),
    [
        ({"windows_ms": 2_100}, False),
        ({"windows_ms": 4_100}, True),
        ({"alerts_ms": 510}, False),
        ({"alerts_ms": None}, True),
        ({"lag_grows": True}, False),
        ({"is_hopeless": True}, True),
    ],
)
def test_only_a_clear_failure_is_decisive(changes, decisive):
    assert judge(step(**changes), 2_000).decisive == decisive


def test_a_busy_machine_is_said_with_the_processes_that_had_it():
    said = judge(step(windows_ms=2_900, machine_cpu_pct=99.0), 2_000).why
    assert said.endswith("; the machine was 99 % busy (JVM 90 %, generator 40 %, broker 30 % of a core)")


def test_a_machine_that_changed_its_speed_is_said_to_have():
    def varied(*speeds_pct: float | None) -> str:
        return speed_varied([step(machine_speed_pct=speed_pct) for speed_pct in speeds_pct])

    assert varied() == varied(None) == varied(100.0) == varied(100.0, 95.0, None, 104.0) == ""
    assert "81 to 107 % of that in the first step" in varied(100.0, 81.2, None, 107.0)
