"""Fixtures that several folders of tests use: a real broker, Spark, a new topic, and two helpers."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from iot import environment, settings
from iot.broker.broker import Broker, find_free_port
from iot.kafka.topics import ensure_topics
from iot.spark import session as spark_session
from tests.support import leftovers

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Tests start many JVMs that end soon: C2 would cost them more time than it saves.
os.environ.setdefault("IOT_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """At the end, nothing runs that tests or fixtures have started."""
    run = os.environ[leftovers.RUN] = uuid.uuid4().hex
    yield
    del os.environ[leftovers.RUN]
    leftovers.end(run)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """End what the test itself has started, even if it failed. Processes of shared fixtures go on."""
    run = os.environ.get(leftovers.RUN)
    try:
        return (yield)
    finally:
        if run:
            leftovers.end(run, f"{item.nodeid} (call)")


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Each test leaves the environment as it was: Spark's start changes it, and children of other tests inherit it."""
    given = dict(os.environ)
    yield
    environment.enter(given)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real broker on a free port, with the contract's topics. All tests share it, so use ``topic`` for messages."""
    with Broker(find_free_port(), tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A small Spark with the settings of the scripts. All tests share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "LOG_DIR", tmp_path_factory.mktemp("spark-log"))
        given = dict(os.environ)
        session = spark_session.start("tests", "local[2]", {"spark.ui.enabled": "false"})
        # The other tests of this process start children with what a user would have.
        environment.enter(given)
    yield session
    spark_session.end(session)


@pytest.fixture
def topic(broker: Broker) -> str:
    """The name of a new topic with 3 partitions, whose records have the broker's timestamp."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    ensure_topics(broker.kafka, [name])
    return name


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[list[str]], object], list[str]], str]:
    """``refuses(parse_args, flags)`` checks that a script exits with status 2; it returns the line of error."""

    def refused(parse_args: Callable[[list[str]], object], flags: list[str]) -> str:
        with pytest.raises(SystemExit) as exit_:
            parse_args(flags)
        assert exit_.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "error: " in error
        return error

    return refused


@pytest.fixture
def eventually() -> Callable[[Callable[[], object], float], None]:
    """``eventually(condition, timeout_s)`` waits until ``condition()`` is true; otherwise the test fails."""

    def wait(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                pytest.fail(f"still not true after {timeout_s:.0f} s: {condition}")
            time.sleep(0.05)

    return wait


@pytest.fixture(params=["Asia/Kolkata", "America/New_York", "UTC"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a time zone, which is the local one in this process during the test."""
    if not Path("/usr/share/zoneinfo", request.param).exists():
        pytest.skip("no time zone database on this machine")
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()
