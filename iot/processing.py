"""Processing for the dashboard: Spark's queries into the results database, kept alive, and a heartbeat on how they are.

Three things run side by side and are started again when they fail, each after a pause that doubles: the windows query,
the alerts query, and the feed that keeps the alerts. What failed, and why, is in the heartbeat, which the page shows.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from iot import spark as spark_session
from iot import spark_alerts, streams
from iot.alert_feed import AlertFeed, Delivered
from iot.alerts import Rules
from iot.checkpoints import Identity, Notes, contexts_after, read_notes, start_afresh, write_notes
from iot.digest import Report
from iot.offsets import EndOffsets, Offsets, end_offsets
from iot.rejected import RejectedWriter
from iot.settings import ALERTS_TOPIC, REJECTED_TOPIC, Kafka, reason
from iot.state import STARTING
from iot.store import QueryStatus, Status, Store, StoreUnavailable

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

CHECKPOINTS = ("dashboard-sensors-checkpoint", "dashboard-alerts-checkpoint")
TRIGGER = {"processingTime": "500 milliseconds"}
HEARTBEAT_S = 1.0
PRUNE_S = 30.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
# A job that ran this long was well: the next failure is a new one.
WELL_S = 60.0
# One that failed before is taken to run when it has not failed again for this long.
SHOWN_S = 3.0
LAG_S = 10


def agree(
    store: Store, folders: list[Path], identity: Identity, database: str, begin_at: Callable[[], Offsets]
) -> tuple[Offsets, str | None]:
    """Make checkpoints and database tell of the same: as they are, or both afresh.

    Args:
        database: its file, empty where it is none.
        begin_at: gives the offsets to begin with.

    Returns:
        The offsets at which reading begins or once began, and a line to say where something was there that could not
        be gone on with.

    Raises:
        UserError: they are about another topic, or damaged.
    """
    cure = start_afresh(*folders, *([Path(database)] if database else []))
    notes = [read_notes(folder) for folder in folders]
    for folder, note in zip(folders, notes, strict=True):
        if note:
            identity.require(note.identity, f"the checkpoint {folder}", cure)
    kept = store.identity()
    if kept:
        identity.require(kept[0], "the results database", cure)
    ids = {note.state_id for note in notes if note} | ({kept[1]} if kept else set())
    if len(ids) == 1 and kept and notes[0] and all(notes):
        return notes[0].start, None
    state_id, start = uuid.uuid4().hex, begin_at()
    # Checkpoints first: with none of them a database alone is begun afresh the next time too.
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    store.begin(identity, state_id)
    for folder in folders:
        write_notes(folder, Notes(identity, start, state_id=state_id))
    if not ids:
        return start, None
    there = [folder.name for folder, note in zip(folders, notes, strict=True) if note] + ["database"] * bool(kept)
    return start, f"only {' and '.join(there)} of an earlier run is there, or of several: all start afresh"


class Job:
    """Something that runs until it fails, and is then started again after a pause."""

    def __init__(self, name: str, begin: Callable[[], Any], mode: str = "") -> None:
        self.name = name
        self.mode = mode
        self.running: Any = None
        self.reason: str | None = STARTING
        self.polled_s = 0.0
        self._begin = begin
        self._begun_s = self._due_s = 0.0
        self._pause_s = FIRST_PAUSE_S

    def start_if_due(self, now_s: float) -> None:
        """Start it unless it runs or its pause is not over."""
        if self.running is not None or now_s < self._due_s:
            return
        try:
            self.running = self._begin()
            self._begun_s = now_s
            # After a failure, that it runs again has to show first.
            if self.reason == STARTING:
                self.reason = None
        except Exception as error:
            self.failed(error, now_s)

    def seen_running(self, now_s: float) -> None:
        """Note that it was found running."""
        self.polled_s = now_s
        if now_s - self._begun_s > SHOWN_S:
            self.reason = None

    def failed(self, error: BaseException, now_s: float) -> None:
        """Note a failure; it is started again after a pause."""
        if self._begun_s and now_s - self._begun_s > WELL_S:
            self._pause_s = FIRST_PAUSE_S
        self.running = None
        self.reason = spark_session.explain(error)
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


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
    ) -> None:
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
        self._stop = threading.Event()
        # Starting a query may take seconds, and nobody must take that for silence.
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("processing", self._run), ("heartbeat", self._report))
        ]
        self._windows = Job("windows", self._start_windows, "micro-batch")
        self._alerts = Job("alerts", self._start_alerts)
        self._feed = Job("alert feed", self._start_feed)
        self._ends = EndOffsets(kafka, identity.topic)
        self._ends_then: deque[tuple[float, dict[int, int]]] = deque()
        self._database: str | None = None
        self._started_s = time.time()
        self._said: dict[str, str | None] = {}
        self._spark_ui: str | None = None
        self.spark_gone: str | None = None
        self.messages = 0

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
        with suppress(StoreUnavailable):
            self._heartbeat(stopped=True)

    # Jobs -------------------------------------------------------------------------------------------------------------

    def _start_windows(self) -> StreamingQuery:
        topic = streams.read_topic(self._spark, self._kafka, self._topic, self._start_offsets)

        def keep(batch_id: int, rows: pa.Table, report: Report) -> None:
            contexts = contexts_after(known, batch_id, report)
            try:
                # Its name will do for an id: checkpoint and database begin and end together.
                self._store.keep_batch("windows", batch_id, rows, report, contexts, self._rules, time.time())
            except StoreUnavailable as error:
                self._database = str(error)
                raise
            self._database = None
            self.messages += report.messages
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
        topic = streams.read_topic(self._spark, self._kafka, self._topic, self._start_offsets)
        raised = spark_alerts.alerts(topic, self._rules)
        trigger = streams.alerts_trigger(self._spark, TRIGGER)
        return streams.start_alerts(raised, self._kafka, ALERTS_TOPIC, str(self._checkpoints[1]), trigger)

    def _start_feed(self) -> AlertFeed:
        offsets = self._store.alert_offsets()
        if offsets is None:
            offsets = end_offsets(self._kafka, ALERTS_TOPIC)
            self._store.keep_alerts([], offsets, self._topic_id)
        feed = AlertFeed(self._kafka, self._topic, self._keep_alerts)
        feed.start(offsets)
        return feed

    def _keep_alerts(self, delivered: list[Delivered], offsets: Offsets) -> None:
        self._store.keep_alerts(delivered, offsets, self._topic_id)

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
        while not self._stop.is_set():
            now_s = time.time()
            # The feed first: it begins where the topic ends, before the query adds to it.
            for job in (self._feed, self._windows, self._alerts):
                if (job is not self._alerts or self._feed.running) and not (self.spark_gone and job is not self._feed):
                    job.start_if_due(now_s)
                self._look_at(job, now_s)
            self._say_changes()
            self._stop.wait(HEARTBEAT_S)

    def _report(self) -> None:
        prune_due_s = 0.0
        while not self._stop.is_set():
            now_s = time.time()
            try:
                self._heartbeat()
                if now_s >= prune_due_s:
                    self._store.prune(now_s, self._retention_s)
                    prune_due_s = now_s + PRUNE_S
            except StoreUnavailable as error:
                self._database = str(error)
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
            self.spark_gone = f"Spark ended ({reason(error)}): start this script again"
            for of_spark in (self._windows, self._alerts):
                of_spark.running, of_spark.reason = None, self.spark_gone

    def _heartbeat(self, stopped: bool = False) -> None:
        now_s = time.time()
        ends = self._ends.look()
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
                kafka=self._ends.away,
                read_offsets=self._start_offsets,
                end_offsets=ends or (self._ends_then[-1][1] if self._ends_then else {}),
                lag_10s=self._is_behind(now_s),
                spark_ui=None if self.spark_gone else self._spark_ui,
                topic=self._topic,
                bootstrap_servers=self._kafka.bootstrap_servers,
                alerts_away=self._feed.reason or (self._feed.running and self._feed.running.away) or None,
                database=self._database,
            )
        )

    def _is_behind(self, now_s: float) -> bool:
        """Whether what was in the topic ten seconds ago is not all processed yet."""
        if not self._ends_then or self._ends_then[0][0] > now_s - LAG_S:
            return False
        offsets = self._store.offsets()
        return any(end > offsets.get(partition, end) for partition, end in self._ends_then[0][1].items())

    def _say_changes(self) -> None:
        """Say in one line each what failed since the last look, and what is well again."""
        now = {
            "Kafka": self._ends.away,
            "the results database": self._database,
            **{f"the {job.name} query": job.reason for job in (self._windows, self._alerts)},
            "keeping alerts": self._feed.reason,
        }
        for what, why in now.items():
            before = self._said.get(what)
            if why and why != before and why != STARTING:
                self._say(f"{what} failed: {why}; trying again")
            elif before and not why and before != STARTING:
                self._say(f"{what}: well again")
        self._said = now
