"""Fills the results database: the windows query, the alerts query, and the feed that stores the alerts.

    topic of readings ──> windows query ──────────────────────────────────> write_batch ─┐
            └───────────> alerts query ──> topic of alerts ──> alert feed ──> write_alerts ─┴─> results database

The three jobs run side by side, and each is started again when it fails. ``iot.pipeline.heartbeat`` reports on them.
``write_batch`` also writes alarms; ``iot.pipeline.alarms`` sends their changes to topic and receivers.
Before results are stored, Kafka confirms that the topic is still the one that they are about.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from kafka.errors import KafkaError

from iot.alarms.notify_file import NO_RECEIVERS, Notify
from iot.alerts import Delivered, Rules
from iot.batches import BatchReport, Identity, Offsets
from iot.kafka.alert_feed import AlertFeed
from iot.kafka.offsets import end_offsets
from iot.kafka.topic_guard import TopicGuard, TopicReplaced
from iot.owner import LeaseLost
from iot.pipeline.alarms import PipelineAlarms
from iot.pipeline.heartbeat import Heartbeat, PipelineStatus
from iot.pipeline.job import FeedRun, Job, QueryRun, SparkGone
from iot.pipeline.measurements import Measurements
from iot.results.model import STARTING, Batch
from iot.results.store import BatchesMissing, Store, StoreUnavailable
from iot.settings import ALERTS_TOPIC, REJECTED_TOPIC, Kafka
from iot.spark import alerts, queries
from iot.spark.rejected import RejectedWriter
from iot.spark.remote_path import AnyPath
from iot.spark.windows import start_windows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CHECKPOINTS = ("dashboard-sensors-checkpoint", "dashboard-alerts-checkpoint")
TRIGGER = {"processingTime": "500 milliseconds"}
# How often the jobs are polled.
POLL_S = 1.0
# How long the end waits for a job that is just being started.
STOP_S = 10.0
# How long the alerts query waits until no more than so many messages wait for the windows query. If they run together,
# both take longer: of a backlog of 3 million, windows were complete after 41 s instead of 20 s, and alerts after 44 s
# instead of 41 s.
ALERTS_WAIT_S, CAUGHT_UP = 30.0, 100_000
# How long the alerts query stays in a mode that does not fit: an executor that ended is mostly replaced by then.
MISFIT_S = 15.0
# How long alerts gather before they are stored: a transaction for each would cost more than raising them.
ALERTS_GATHER_S = 0.25


@dataclass(frozen=True)
class Settings:
    """What the pipeline processes, and where its state is."""

    kafka: Kafka
    identity: Identity
    rules: Rules
    checkpoint_dir: AnyPath
    start: Offsets
    """The offsets at which reading begins, without a checkpoint."""
    retention_s: float
    reset: str
    """The command that removes checkpoints and results, for error messages."""
    notify: Notify = NO_RECEIVERS


class Pipeline:
    """The jobs and their supervision; ``start`` returns at once, ``close`` ends everything."""

    def __init__(
        self,
        starting: Future[SparkSession],
        store: Store,
        settings: Settings,
        *,
        say: Callable[[str], None],
        report_database: Callable[[str], None],
        require_owner: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            starting: Spark, which may still be starting.
            say: prints a line.
            report_database: called with why the database cannot be written, which it cannot report itself; with an
                empty text once it can.
            require_owner: raises ``LeaseLost`` if another process has taken over the checkpoints.
        """
        self._require_owner = require_owner
        self._starting = starting
        self._store = store
        self._settings = settings
        self._say = say
        reset = f"stop this; {settings.reset}"
        sensors, alerts_checkpoint = (settings.checkpoint_dir / name for name in CHECKPOINTS)
        self._windows = Job("windows", self._start_windows, reset, checkpoint=sensors, kafka=settings.kafka)
        self._windows.mode = "micro-batch"
        self._measured = Measurements(store, {"windows": sensors, "alerts": alerts_checkpoint})
        self._alerts = Job(
            "alerts",
            self._start_alerts,
            reset,
            may_begin=self._may_start_alerts,
            checkpoint=alerts_checkpoint,
            kafka=settings.kafka,
        )
        self._feed = Job("alert feed", self._start_feed, reset)
        # The feed comes first: it begins at the end of its topic, before the alerts query adds to that.
        self._jobs: tuple[Job[QueryRun] | Job[FeedRun], ...] = (self._feed, self._windows, self._alerts)
        self._guard = TopicGuard(settings.kafka, settings.identity, reset)
        self._alarms = PipelineAlarms(
            store, settings.kafka, settings.rules, settings.identity.topic, settings.start, settings.notify, say
        )
        self._heartbeat = Heartbeat(
            store,
            settings.kafka,
            settings.identity.topic,
            self._status,
            retention_s=settings.retention_s,
            check_topic=self._check_topic,
            on_look=self._look_for_silence,
            report_database=report_database,
        )
        self._said: dict[str, str | None] = {}
        self._reset = reset
        self._alerts_due_s = float("inf")
        self._partitions = 0
        # Since when the alerts query is in the wrong mode for Spark's task slots.
        self._misfit_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="pipeline", daemon=True)
        # Why the last batch could not be stored.
        self._batch_lost: str | None = None
        self._has_caught_up = threading.Event()
        self.over: str | None = None
        """Why nothing can be processed until the script is started again; None while it can."""
        self.messages = 0
        """Readings processed since the start."""

    def start(self) -> None:
        """Start everything. Failures are in the heartbeat, and said once."""
        self._thread.start()
        self._heartbeat.start()
        self._alarms.start()
        self._measured.start()

    def close(self) -> None:
        """Stop everything that runs."""
        self._stop.set()
        # Otherwise each job would wait for a database server that is suspended.
        self._store.give_up_without_answer()
        self._thread.join(STOP_S)
        self._heartbeat.end()
        for job in reversed(self._jobs):
            job.stop()
        self._alarms.close()
        self._measured.close()
        self._guard.close()
        self._heartbeat.close()

    # The jobs ---------------------------------------------------------------------------------------------------------

    def _start_windows(self) -> QueryRun:
        of = self._settings
        self._alarms.read()
        topic = queries.read_topic(self._spark, of.kafka, of.identity.topic, of.start)
        writer = RejectedWriter(of.kafka, REJECTED_TOPIC, of.identity.topic)
        checkpoint = of.checkpoint_dir / CHECKPOINTS[0]
        query = start_windows(
            topic,
            checkpoint,
            self._write_batch,
            trigger=TRIGGER,
            on_rejected=writer,
            sensors=True,
            alarm_rules=of.rules,
            watched=self._alarms.active.watched,
            on_done=self._measured.add_batch,
        )
        return QueryRun(query)

    def _write_batch(self, batch_id: int, windows: pa.Table, report: BatchReport) -> None:
        if report.messages or report.rejected:
            self._require_same_topic()
        try:
            self._require_owner()
            # First, so that silence is never judged by timestamps of a wrong clock.
            self._alarms.compare_clocks(report.latest)
            # The query's name serves as its id: checkpoint and database begin and end together.
            batch = Batch("windows", batch_id, windows, report)
            begun_s = time.monotonic()
            self._store.write_batch(batch, self._settings.rules, time.time(), self._alarms.active)
            self._measured.add_written(report, time.monotonic() - begun_s)
        except StoreUnavailable as error:
            self._batch_lost = str(error)
            raise
        except LeaseLost as error:
            self.over = str(error)
            raise
        except BatchesMissing as error:
            self.over = f"{error}; {self._reset}"
            raise
        self._batch_lost = None
        self.messages += report.messages
        if not self._has_caught_up.is_set():
            self._look_for_backlog(report.next_offsets)

    def _look_for_backlog(self, next_offsets: Offsets) -> None:
        """Note that the windows query has caught up, or that Kafka does not say whether it has.

        The first batch after a restart is often a small one that was not completed before, and a backlog follows it.
        """
        behind = 0
        with suppress(KafkaError):
            ends = end_offsets(self._settings.kafka, self._settings.identity.topic)
            behind = sum(max(0, end - next_offsets.get(partition, end)) for partition, end in ends.items())
        if behind <= CAUGHT_UP:
            self._has_caught_up.set()

    def _start_alerts(self) -> QueryRun:
        of = self._settings
        self._partitions = len(end_offsets(of.kafka, of.identity.topic))
        why_not = queries.why_no_real_time(self._spark, TRIGGER, self._partitions)
        mode = "micro-batch" if why_not else "real-time"
        if mode != (self._alerts.mode or "real-time"):
            self._say(f"alerts in micro-batches: {why_not}" if why_not else "alerts in real-time mode")
        self._alerts.mode = mode
        self._misfit_s = None
        trigger = TRIGGER if why_not else queries.REAL_TIME
        topic = queries.read_topic(self._spark, of.kafka, of.identity.topic, of.start, trigger)
        raised = alerts.alerts(topic, of.rules)
        checkpoint = of.checkpoint_dir / CHECKPOINTS[1]
        return QueryRun(queries.start_alerts(raised, of.kafka, ALERTS_TOPIC, checkpoint, trigger))

    def _may_start_alerts(self) -> bool:
        """Whether the feed runs, and the windows query has caught up, waits for data, or has failed."""
        if self._feed.run is None:
            return False
        if time.monotonic() > self._alerts_due_s or self._has_caught_up.is_set():
            return True
        if self._windows.reason not in (None, STARTING):
            return True
        with suppress(Exception):
            return self._windows.run is not None and self._windows.run.waits_for_data()
        return False

    def _start_feed(self) -> FeedRun:
        of = self._settings
        offsets = self._store.alert_offsets()
        if offsets is None:
            offsets = end_offsets(of.kafka, ALERTS_TOPIC)
            self._store.write_alerts([], offsets, of.identity.topic_id)
        feed = AlertFeed(of.kafka, of.identity.topic, self._write_alerts, gather_s=ALERTS_GATHER_S)
        feed.start(offsets)
        return FeedRun(feed)

    def _write_alerts(self, delivered: list[Delivered], offsets: Offsets) -> None:
        self._require_same_topic()
        self._store.write_alerts(delivered, offsets, self._settings.identity.topic_id)
        self._measured.add_alerts(delivered)

    def _require_same_topic(self) -> None:
        try:
            self._guard.require_same()
        except TopicReplaced as error:
            self.over = str(error)
            raise

    def _check_topic(self) -> None:
        if not self.over:
            self._require_same_topic()

    def _look_for_silence(self, at_s: float, ends: Offsets | None) -> None:
        self._alarms.look(at_s, None if self.over else ends)

    # Supervision ------------------------------------------------------------------------------------------------------

    @property
    def _spark(self) -> SparkSession:
        return self._starting.result()

    def _supervise(self) -> None:
        if self._starting.exception():
            return
        self._heartbeat.spark_ui = self._spark.sparkContext.uiWebUrl
        self._alerts_due_s = time.monotonic() + ALERTS_WAIT_S
        while not self._stop.is_set() and not self.over:
            try:
                for job in self._jobs:
                    job.poll(time.time())
                # Whether Spark still answers, the jobs find out.
                with suppress(Exception):
                    self._fit_mode(time.monotonic())
            except SparkGone as error:
                self.over = str(error)
            self._say_changes()
            self._stop.wait(POLL_S)
        if self.over:
            self._give_up(self.over)

    def _fit_mode(self, now_s: float) -> None:
        """Start the alerts query again in the other mode, if executors have come or gone for good."""
        if self._alerts.run is None:
            return
        why_not = queries.why_no_real_time(self._spark, TRIGGER, self._partitions)
        if bool(why_not) == (self._alerts.mode == "micro-batch"):
            self._misfit_s = None
        elif self._misfit_s is None:
            self._misfit_s = now_s
        elif now_s - self._misfit_s > MISFIT_S:
            self._alerts.stop()

    def _give_up(self, why: str) -> None:
        """Say why, and stop every job, so that nothing is mixed that does not belong together."""
        self._say(why)
        self._said = {}
        self._heartbeat.spark_ui = None
        for job in reversed(self._jobs):
            job.stop(why)

    def _status(self, stopped: bool) -> PipelineStatus:
        feed = self._feed
        outage = feed.run.outage if feed.run else None
        return PipelineStatus(
            queries=[job.status(stopped) for job in (self._windows, self._alerts)],
            alerts=feed.reason if feed.reason and feed.reason != STARTING and not self.over else outage,
            database=self._batch_lost,
            start=self._settings.start,
            alarms=self._alarms.outage,
            notifications=self._alarms.notifications,
            timings=self._measured.timings,
            database_bytes=self._measured.database_bytes,
            checkpoint_bytes=self._measured.checkpoint_bytes,
        )

    def _say_changes(self) -> None:
        """Print a line for everything that has failed or recovered since the last call."""
        now = {
            "Kafka": self._heartbeat.outage,
            "the results database": self._batch_lost or self._heartbeat.lost,
            **{f"the {job.name} query": job.reason for job in (self._windows, self._alerts)},
            "keeping alerts": self._feed.reason,
            "publishing alarms": self._alarms.outage,
        }
        for what, why in now.items():
            before = self._said.get(what)
            if why and why != before and why != STARTING:
                self._say(f"{what} failed: {why}" + ("" if self._reset in why else "; retrying"))
            elif before and not why and before != STARTING:
                self._say(f"{what}: recovered")
        self._said = now
