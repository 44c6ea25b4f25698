"""A supervised job: something that runs until it fails, and is then started again after a pause."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from iot.kafka.alert_feed import AlertFeed
from iot.results.model import STARTING, QueryStatus
from iot.settings import Kafka, UserError, reason
from iot.spark.errors import explain
from iot.spark.remote_path import AnyPath

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
# How long a job must run until its next failure counts as the first one.
STABLE_S = 60.0
# How long a job must run after a failure until it is reported as running: longer than a database lock is waited for.
PROVEN_S = 6.0


class SparkGone(UserError):  # noqa: N818  # a state, not only an error
    """Spark itself has ended. It cannot be started a second time in one process."""


class Run(Protocol):
    """One run of a job."""

    def failure(self) -> BaseException | None:
        """Why it ended; None while it runs."""

    def stop(self) -> None:
        """End it."""


class QueryRun:
    """A streaming query as a run."""

    def __init__(self, query: StreamingQuery) -> None:
        self._query = query

    def failure(self) -> BaseException | None:
        """Why the query ended; None while it is active.

        Raises:
            SparkGone: Spark does not answer any more.
        """
        try:
            return None if self._query.isActive else self._query.exception() or RuntimeError("it ended by itself")
        except Exception as error:
            raise SparkGone(f"Spark ended ({reason(error)}): start this script again") from error

    def stop(self) -> None:
        self._query.stop()

    def waits_for_data(self) -> bool:
        """Whether everything in the topic has been processed."""
        return bool(self._query.status["message"].startswith("Waiting for"))


class FeedRun:
    """An alert feed as a run."""

    def __init__(self, feed: AlertFeed) -> None:
        self._feed = feed

    def failure(self) -> BaseException | None:
        return self._feed.failure

    def stop(self) -> None:
        self._feed.close()

    @property
    def outage(self) -> str | None:
        """Why Kafka does not answer; None while it does."""
        return self._feed.outage


R = TypeVar("R", bound=Run)


class Job(Generic[R]):
    """Something that is kept running."""

    def __init__(
        self,
        name: str,
        begin: Callable[[], R],
        reset: str,
        may_begin: Callable[[], bool] = lambda: True,
        *,
        checkpoint: AnyPath | None = None,
        kafka: Kafka | None = None,
    ) -> None:
        """
        Args:
            begin: starts a run.
            reset: the command that resets the job's state, for error messages.
            may_begin: whether it is time to start.
            checkpoint: the checkpoint of a query, read before ``reset`` is named.
            kafka: the Kafka of a query, to find out which address fails.
        """
        self.name = name
        self.mode = ""
        self.run: R | None = None
        self.reason: str | None = STARTING
        """Why it is not running; None while it is."""
        self._begin, self._may_begin = begin, may_begin
        self._reset, self._checkpoint, self._kafka = reset, checkpoint, kafka
        self._begun_s = self._due_s = self._polled_s = 0.0
        self._pause_s = FIRST_PAUSE_S

    def poll(self, now_s: float) -> None:
        """Start the job if it is due, and find out whether it still runs.

        Raises:
            SparkGone: Spark does not answer any more.
        """
        if self.run is None and now_s >= self._due_s and self._may_begin():
            self._start(now_s)
        if self.run is None:
            return
        if error := self.run.failure():
            self.stop()
            self._failed(error, now_s)
        else:
            self._polled_s = now_s
            if now_s - self._begun_s > PROVEN_S:
                self.reason = None

    def stop(self, why: str | None = None) -> None:
        """End the run.

        Args:
            why: the reason to report; None keeps the present one.
        """
        run, self.run = self.run, None
        self.reason = why or self.reason
        if run is not None:
            # The query of a Spark that is gone cannot be stopped.
            with suppress(Exception):
                run.stop()

    def status(self, stopped: bool) -> QueryStatus:
        """The job as of its last poll."""
        active = self.run is not None and self.reason is None and not stopped
        return QueryStatus(self.name, active, "stopped" if stopped else self.reason, self._polled_s, self.mode)

    def _start(self, now_s: float) -> None:
        try:
            self.run = self._begin()
        except Exception as error:
            self._failed(error, now_s)
            return
        self._begun_s = now_s
        # After a failure it must run for a while before it is reported as running.
        if self.reason == STARTING:
            self.reason = None

    def _failed(self, error: BaseException, now_s: float) -> None:
        if self._begun_s and now_s - self._begun_s > STABLE_S:
            self._pause_s = FIRST_PAUSE_S
        self.reason = explain(error, fix=self._reset, checkpoint=self._checkpoint, kafka=self._kafka)
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
