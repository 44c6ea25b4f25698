"""Processing for the dashboard: Spark's queries into the results database, kept alive, and a heartbeat on how they are.

Three things run side by side and are started again when they fail, each after a pause that doubles: the windows query,
the alerts query, and the feed that keeps the alerts. What failed, and why, is in the heartbeat, which the page shows.
Results are kept only once Kafka has said that the topic is still the one that they are about.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from iot.alerts import Delivered, Rules
from iot.batches import Identity, Offsets, Report
from iot.kafka.alert_feed import AlertFeed
from iot.kafka.offsets import EndOffsets, end_offsets
from iot.kafka.topic_guard import TopicGuard, TopicReplaced
from iot.pipeline.job import Job
from iot.results.model import STARTING, Batch, QueryStatus, Status
from iot.results.store import Store, StoreUnavailable
from iot.settings import ALERTS_TOPIC, REJECTED_TOPIC, Kafka, UserError, reason
from iot.spark import alerts as spark_alerts
from iot.spark import queries as streams
from iot.spark.checkpoints import contexts_after
from iot.spark.rejected import RejectedWriter

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

CHECKPOINTS = ("dashboard-sensors-checkpoint", "dashboard-alerts-checkpoint")
TRIGGER = {"processingTime": "500 milliseconds"}
HEARTBEAT_S = 1.0
# Two queries that start at once take longer to the first figure than one after the other: alerts wait for the first
# batch of the windows if there is one to wait for, but not longer than this.
ALERTS_WAIT_S = 20.0
# A transaction for each alert would cost more than raising them; the page has them by push before.
ALERTS_GATHER_S = 0.25
PRUNE_S = 30.0
LAG_S = 10


class Processing:
    """All that fills the database; ``run`` keeps it going in a thread of its own until ``close``."""

    def __init__(
        self,
        starting: Future[SparkSession],
        kafka: Kafka,
        identity: Identity,
        store: Store,
        rules: Rules,
        checkpoint_dir: Path,
        start: Offsets,
        retention_s: float,
        say: Callable[[str], None],
        tell_page: Callable[[str], None],
        cure: str,
    ) -> None:
        """
        Args:
            tell_page: called with why the database cannot be written, which it cannot say itself; empty when it can.
            cure: a command that has everything start afresh.
        """
        self._starting = starting
        self._kafka = kafka
        self._topic = identity.topic
        self._topic_id = identity.topic_id
        self._store = store
        self._rules = rules
        self._checkpoints = [checkpoint_dir / name for name in CHECKPOINTS]
        self._start_offsets = start
        self._retention_s = retention_s
        self._say = say
        self._tell_page = tell_page
        self._cure = f"stop this; {cure}"
        self._stop = threading.Event()
        # Starting a query may take seconds, and nobody must take that for silence.
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("processing", self._run), ("heartbeat", self._report))
        ]
        self._windows = Job("windows", self._start_windows, self._cure, "micro-batch")
        self._alerts = Job("alerts", self._start_alerts, self._cure)
        self._feed = Job("alert feed", self._start_feed, self._cure)
        self._guard = TopicGuard(kafka, identity, self._cure)
        self._kafka_away: str | None = None
        self._ends = EndOffsets(kafka, identity.topic)
        self._ends_then: deque[tuple[float, dict[int, int]]] = deque()
        # Why the last batch could not be kept, and why the last heartbeat could not.
        self._batch_lost: str | None = None
        self._heartbeat_lost: str | None = None
        self._started_s = time.time()
        self._said: dict[str, str | None] = {}
        self._spark_ui: str | None = None
        self.over: str | None = None
        """Why this cannot go on; then only a new start helps."""
        self.messages = 0
        self._counting = threading.Event()

    def start(self) -> None:
        """Start everything; failures are in the heartbeat, and said once."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop everything that runs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        for job in (self._windows, self._alerts):
            if job.running is not None:
                with suppress(Exception):
                    job.running.stop()
        if self._feed.running:
            self._feed.running.close()
        self._ends.close()
        self._guard.close()
        with suppress(UserError):
            self._heartbeat(stopped=True)

    # Jobs -------------------------------------------------------------------------------------------------------------

    def _start_windows(self) -> StreamingQuery:
        topic = streams.read_topic(self._spark, self._kafka, self._topic, self._start_offsets)

        def keep(batch_id: int, rows: pa.Table, report: Report) -> None:
            contexts = contexts_after(known, batch_id, report)
            if report.messages or report.rejected:
                self._require_same_topic()
            try:
                # Its name will do for an id: checkpoint and database begin and end together.
                self._store.write_batch(Batch("windows", batch_id, rows, report, contexts), self._rules, time.time())
            except StoreUnavailable as error:
                self._batch_lost = str(error)
                raise
            self._batch_lost = None
            self.messages += report.messages
            self._counting.set()
            known.clear()
            known.update(contexts)

        known = self._store.contexts()
        return streams.start_windows(
            self._spark,
            topic,
            str(self._checkpoints[0]),
            keep,
            known,
            TRIGGER,
            RejectedWriter(self._kafka, REJECTED_TOPIC, self._topic),
            sensors=True,
        )

    def _start_alerts(self) -> StreamingQuery:
        trigger = streams.alerts_trigger(self._spark, TRIGGER)
        topic = streams.read_topic(self._spark, self._kafka, self._topic, self._start_offsets, trigger)
        raised = spark_alerts.alerts(topic, self._rules)
        return streams.start_alerts(raised, self._kafka, ALERTS_TOPIC, str(self._checkpoints[1]), trigger)

    def _start_feed(self) -> AlertFeed:
        offsets = self._store.alert_offsets()
        if offsets is None:
            offsets = end_offsets(self._kafka, ALERTS_TOPIC)
            self._store.write_alerts([], offsets, self._topic_id)
        feed = AlertFeed(self._kafka, self._topic, self._keep_alerts, gather_s=ALERTS_GATHER_S)
        feed.start(offsets)
        return feed

    def _keep_alerts(self, delivered: list[Delivered], offsets: Offsets) -> None:
        self._require_same_topic()
        self._store.write_alerts(delivered, offsets, self._topic_id)

    def _require_same_topic(self) -> None:
        try:
            self._guard.require_same()
        except TopicReplaced as error:
            self.over = str(error)
            raise

    # Watching ---------------------------------------------------------------------------------------------------------

    @property
    def _spark(self) -> SparkSession:
        return self._starting.result()

    def _run(self) -> None:
        if self._starting.exception():
            return
        self._spark_ui = self._spark.sparkContext.uiWebUrl
        why_not = streams.why_no_real_time(self._spark, TRIGGER)
        self._alerts.mode = "micro-batch" if why_not else "real-time"
        if why_not:
            self._say(f"alerts in micro-batches: {why_not}")
        alerts_due_s = time.monotonic() + ALERTS_WAIT_S
        while not self._stop.is_set() and not self.over:
            now_s = time.time()
            # The feed first: it begins where the topic ends, before the query adds to it.
            alerts_may = self._feed.running and (time.monotonic() > alerts_due_s or self._windows_are_under_way())
            for job in (self._feed, self._windows, self._alerts):
                if job is not self._alerts or alerts_may:
                    job.start_if_due(now_s)
                self._look_at(job, now_s)
            self._say_changes()
            self._stop.wait(HEARTBEAT_S)
        if self.over:
            self._give_up(self.over)

    def _windows_are_under_way(self) -> bool:
        """Whether the windows query has done its first batch, or failed, or has nothing to read yet."""
        if self._counting.is_set() or self._windows.reason not in (None, STARTING):
            return True
        with suppress(Exception):
            running = self._windows.running
            return bool(running and running.status["message"].startswith("Waiting for"))
        return False

    def _report(self) -> None:
        prune_due_s = 0.0
        while not self._stop.is_set():
            now_s = time.time()
            lost = None
            try:
                self._heartbeat()
                if now_s >= prune_due_s:
                    self._store.prune(now_s, self._retention_s)
                    prune_due_s = now_s + PRUNE_S
            except UserError as error:
                lost = str(error)
            if lost != self._heartbeat_lost:
                self._heartbeat_lost = lost
                self._tell_page(f"results cannot be written: {lost}" if lost else "")
            self._stop.wait(HEARTBEAT_S)

    def _look_at(self, job: Job, now_s: float) -> None:
        if job.running is None:
            return
        if job is self._feed:
            if job.running.failure:
                error = job.running.failure
                job.running.close()
                job.failed(error, now_s)
            else:
                job.seen_running(now_s)
            return
        try:
            if not job.running.isActive:
                job.failed(job.running.exception() or RuntimeError("it ended by itself"), now_s)
            else:
                job.seen_running(now_s)
        except Exception as error:
            # Not the query but Spark itself, which cannot be started a second time in one process.
            self.over = f"Spark ended ({reason(error)}): start this script again"

    def _give_up(self, why: str) -> None:
        """Say so, and have nothing run that could mix what does not belong together."""
        self._say(why)
        self._said = {}
        self._windows.reason = self._alerts.reason = why
        for job in (self._windows, self._alerts, self._feed):
            running, job.running = job.running, None
            with suppress(Exception):
                (running.close if job is self._feed else running.stop)()

    @property
    def _database(self) -> str | None:
        return self._batch_lost or self._heartbeat_lost

    def _heartbeat(self, stopped: bool = False) -> None:
        now_s = time.time()
        ends = self._ends.fetch()
        away = self._ends.outage
        if ends is not None and not self.over:
            try:
                self._require_same_topic()
            except UserError as error:
                away = str(error)
        self._kafka_away = away
        if ends:
            self._ends_then.append((now_s, ends))
            while len(self._ends_then) > 1 and self._ends_then[1][0] <= now_s - LAG_S:
                self._ends_then.popleft()
        self._store.heartbeat(
            Status(
                at_s=now_s,
                started_s=self._started_s,
                queries=[
                    QueryStatus(
                        job.name,
                        job.running is not None and job.reason is None and not stopped,
                        "stopped" if stopped else job.reason,
                        job.polled_s,
                        job.mode,
                    )
                    for job in (self._windows, self._alerts)
                ],
                kafka=self._kafka_away,
                read_offsets=self._start_offsets,
                end_offsets=ends or (self._ends_then[-1][1] if self._ends_then else {}),
                lag_10s=self._is_behind(now_s),
                spark_ui=None if self.over else self._spark_ui,
                topic=self._topic,
                bootstrap_servers=self._kafka.bootstrap_servers,
                alerts_away=self._alerts_away(),
                database=self._database,
            )
        )

    def _alerts_away(self) -> str | None:
        if self._feed.reason and self._feed.reason != STARTING:
            return self._feed.reason
        return self._feed.running.outage if self._feed.running else None

    def _is_behind(self, now_s: float) -> bool:
        """Whether what was in the topic ten seconds ago is not all processed yet."""
        if not self._ends_then or self._ends_then[0][0] > now_s - LAG_S:
            return False
        offsets = self._store.offsets()
        return any(end > offsets.get(partition, end) for partition, end in self._ends_then[0][1].items())

    def _say_changes(self) -> None:
        """Say in one line each what failed since the last look, and what is well again."""
        now = {
            "Kafka": self._kafka_away,
            "the results database": self._database,
            **{f"the {job.name} query": job.reason for job in (self._windows, self._alerts)},
            "keeping alerts": self._feed.reason,
        }
        for what, why in now.items():
            before = self._said.get(what)
            if why and why != before and why != STARTING:
                self._say(f"{what} failed: {why}" + ("" if self._cure in why else "; trying again"))
            elif before and not why and before != STARTING:
                self._say(f"{what}: well again")
        self._said = now
