"""Jobs are started again after a failure, and report what they know."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace

import pytest

from iot.pipeline.job import PROVEN_S, STABLE_S, Job, QueryRun, SparkGone
from iot.pipeline.pipeline import Pipeline
from iot.results.model import STARTING
from iot.settings import UserError


class FakeRun:
    """A run that fails when the test says so."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.stopped = False

    def failure(self) -> BaseException | None:
        return self.error

    def stop(self) -> None:
        self.stopped = True


def test_what_does_not_start_is_started_again_after_a_pause_that_doubles():
    begun: list[float] = []
    now_s = 0.0

    def begin() -> FakeRun:
        begun.append(now_s)
        raise UserError("not now")

    job = Job("windows", begin, "rm -r /c")
    while now_s < 100:
        job.poll(now_s)
        now_s += 0.5
    assert begun == [0, 1, 3, 7, 15, 31, 61, 91]
    assert job.reason == "not now"


def test_a_job_that_failed_is_reported_as_running_once_it_has_proven_itself():
    runs: list[FakeRun] = []

    def begin() -> FakeRun:
        runs.append(FakeRun())
        return runs[-1]

    job = Job("windows", begin, "rm -r /c")
    assert (job.reason, job.status(False).active) == (STARTING, False)
    job.poll(0)
    assert (job.reason, job.status(False).active, job.status(False).polled_s) == (None, True, 0)
    runs[0].error = UserError("the disk is full")
    job.poll(1)
    assert (job.reason, job.status(False).active, runs[0].stopped) == ("the disk is full", False, True)
    job.poll(2)
    assert (len(runs), job.status(False).active) == (2, False)
    job.poll(2 + PROVEN_S + 1)
    assert (job.reason, job.status(False).active) == (None, True)
    assert (job.status(True).active, job.status(True).reason) == (False, "stopped")


def test_after_a_long_run_the_pause_is_short_again():
    runs: list[FakeRun] = []

    def begin() -> FakeRun:
        runs.append(FakeRun())
        return runs[-1]

    job = Job("windows", begin, "rm -r /c")
    now_s = 0.0
    for _ in range(4):
        job.poll(now_s)
        runs[-1].error = UserError("no")
        job.poll(now_s)
        now_s += 20
    job.poll(now_s)
    runs[-1].error = UserError("no")
    job.poll(now_s + STABLE_S + 1)
    before = len(runs)
    job.poll(now_s + STABLE_S + 2.5)
    assert len(runs) == before + 1


def test_a_spark_that_is_gone_is_not_a_failure_of_the_query():
    class Query:
        @property
        def isActive(self) -> bool:  # noqa: N802  # Spark's name
            raise ConnectionRefusedError("connection refused")

    with pytest.raises(SparkGone, match=r"^Spark ended \(connection refused\): start this script again$"):
        QueryRun(Query()).failure()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "failed", "processed", "may_start"),
    [
        (None, None, False, False),
        ("Initializing sources", None, False, False),
        ("Processing new data", None, False, False),
        ("Processing new data", None, True, True),
        ("Waiting for data to arrive", None, False, True),
        (None, "its checkpoint is damaged", False, True),
    ],
)
def test_alerts_wait_for_the_first_windows(message, failed, processed, may_start):
    def begin() -> QueryRun:
        if failed:
            raise UserError(failed)
        return QueryRun(SimpleNamespace(isActive=True, status={"message": message}))  # type: ignore[arg-type]

    windows = Job("windows", begin, "rm -r /c")
    if message or failed:
        windows.poll(0)
    has_processed = Event()
    if processed:
        has_processed.set()
    feed = SimpleNamespace(run=FakeRun())
    pipeline = SimpleNamespace(_windows=windows, _feed=feed, _has_processed=has_processed, _alerts_due_s=float("inf"))
    assert Pipeline._may_start_alerts(pipeline) is may_start  # type: ignore[arg-type]
    feed.run = None
    assert Pipeline._may_start_alerts(pipeline) is False  # type: ignore[arg-type]
