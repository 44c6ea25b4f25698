"""Jobs are started again after a failure, and report what they know."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace

import pytest
from kafka.errors import KafkaError

from iot.batches import Offsets
from iot.pipeline import pipeline
from iot.pipeline.job import PROVEN_S, STABLE_S, Job, QueryRun, SparkGone
from iot.pipeline.pipeline import CAUGHT_UP, Pipeline
from iot.results.model import STARTING
from iot.settings import Kafka, UserError


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
    ("message", "failed", "caught_up", "may_start"),
    [
        (None, None, False, False),
        ("Initializing sources", None, False, False),
        ("Processing new data", None, False, False),
        ("Processing new data", None, True, True),
        ("Waiting for data to arrive", None, False, True),
        (None, "its checkpoint is damaged", False, True),
    ],
)
def test_alerts_wait_until_windows_have_caught_up(message, failed, caught_up, may_start):
    def begin() -> QueryRun:
        if failed:
            raise UserError(failed)
        return QueryRun(SimpleNamespace(isActive=True, status={"message": message}))  # type: ignore[arg-type]

    windows = Job("windows", begin, "rm -r /c")
    if message or failed:
        windows.poll(0)
    has_caught_up = Event()
    if caught_up:
        has_caught_up.set()
    feed = SimpleNamespace(run=FakeRun())
    subject = SimpleNamespace(_windows=windows, _feed=feed, _has_caught_up=has_caught_up, _alerts_due_s=float("inf"))
    assert Pipeline._may_start_alerts(subject) is may_start  # type: ignore[arg-type]
    feed.run = None
    assert Pipeline._may_start_alerts(subject) is False  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ends", "caught_up"),
    [
        ({0: 100, 1: 200}, True),
        ({0: 100, 1: 200 + CAUGHT_UP}, True),
        # A small batch was repeated after a restart, and an outage has left a backlog.
        ({0: 101, 1: 200 + CAUGHT_UP}, False),
        # A partition that was added has not been read yet.
        ({0: 100, 1: 200, 2: 10}, True),
        (None, True),
    ],
)
def test_a_backlog_that_follows_the_first_batch_holds_the_alerts_back(monkeypatch, ends, caught_up):
    def fake_ends(*_: object) -> Offsets:
        if ends is None:
            raise KafkaError("no answer")
        return dict(ends)

    monkeypatch.setattr(pipeline, "end_offsets", fake_ends)
    settings = SimpleNamespace(kafka=Kafka("localhost:1"), identity=SimpleNamespace(topic="t"))
    subject = SimpleNamespace(_settings=settings, _has_caught_up=Event())
    Pipeline._look_for_backlog(subject, {0: 100, 1: 200})  # type: ignore[arg-type]
    assert subject._has_caught_up.is_set() is caught_up
