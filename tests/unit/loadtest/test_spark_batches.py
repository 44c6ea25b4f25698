"""The parts of a batch, from what Spark's UI says."""

from __future__ import annotations

from typing import Any

import pytest

from iot.loadtest.spark_batches import BatchTimes, batch_times, newest_batches


def execution(number: int, root: int, at: str, duration: int, **changes: Any) -> dict[str, Any]:
    """An execution, as Spark 4.2 lists it."""
    defaults = {"id": number, "rootExecutionId": root, "submissionTime": f"2026-11-27T06:45:{at}GMT"}
    about = "windows\nid = 2c016e88\nrunId = 06dd9ba9\nbatch = 0"
    return (
        defaults | {"duration": duration, "status": "COMPLETED", "description": about, "planDescription": ""} | changes
    )


BATCHES = [
    execution(0, 0, "20.000", 1_000),
    execution(1, 0, "20.200", 500),
    execution(2, 2, "21.000", 1_500),
    execution(3, 2, "21.100", 800),
    execution(4, 4, "23.000", 9_000),
    execution(5, 4, "23.500", 8_000),
]


def test_a_batch_is_split_where_its_results_are_computed():
    assert batch_times(BATCHES) == pytest.approx(BatchTimes(0.9, 0.5))


def test_batches_that_run_and_other_queries_do_not_count():
    running = [execution(6, 6, "40.000", 60_000, status="RUNNING"), execution(7, 6, "40.100", 5)]
    other = [
        execution(8, 8, "40.000", 60_000, description="alerts\nbatch = 0"),
        execution(9, 8, "40.000", 1, description="alerts\nbatch = 0"),
    ]
    assert batch_times(BATCHES + running + other) == batch_times(BATCHES)
    assert batch_times(running + other) is None


@pytest.mark.parametrize("spark_ui", [None, "http://127.0.0.1:1"])
def test_a_spark_that_cannot_be_reached_is_not_measured(spark_ui):
    assert newest_batches(spark_ui) is None
