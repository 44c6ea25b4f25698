"""The heartbeat: every second, how the processing is, into the results database. A page without one says so.

It has a thread of its own, because starting a query may take seconds, and nobody must take that for silence.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from iot.batches import Offsets
from iot.kafka.offsets import EndOffsets
from iot.results.model import QueryStatus, Status, Timings
from iot.results.store import Store
from iot.settings import Kafka, UserError

HEARTBEAT_S = 1.0
# How often old results are deleted.
PRUNE_S = 30.0
# Maximum age of a message that waits without being reported as lag.
LAG_S = 10
# How long the end waits for a heartbeat that is under way.
STOP_S = 10.0


@dataclass(frozen=True)
class PipelineStatus:
    """What the jobs report."""

    queries: list[QueryStatus]
    alerts: str | None
    """Why alerts are not stored; None while they are."""
    database: str | None
    """Why the last batch could not be stored; None if it was."""
    start: Offsets
    alarms: str | None
    """Why changes of alarms cannot be sent; None while they can."""
    notifications: list[tuple[str, str, int]]
    """Receiver, result and number of deliveries."""
    timings: Timings
    database_bytes: int | None
    checkpoint_bytes: dict[str, int]
    """By the name of the query."""


class Heartbeat:
    """Writes the status, and deletes old results now and then."""

    def __init__(
        self,
        store: Store,
        kafka: Kafka,
        topic: str,
        status: Callable[[bool], PipelineStatus],
        *,
        retention_s: float,
        check_topic: Callable[[], None],
        on_look: Callable[[float, Offsets | None], None],
        report_database: Callable[[str], None],
    ) -> None:
        """
        Args:
            status: returns what the jobs report; its argument says whether they were stopped.
            check_topic: raises ``UserError`` if the topic was replaced.
            on_look: called after each look at the topic, with a moment before Kafka was asked, in seconds, and the end
                offsets, or None if Kafka does not answer or the topic was replaced.
            report_database: called with why the heartbeat cannot be written; with an empty text once it can.
        """
        self._store = store
        self._kafka, self._topic = kafka, topic
        self._pipeline_status = status
        self._retention_s = retention_s
        self._check_topic = check_topic
        self._on_look = on_look
        self._report_database = report_database
        self._ends = EndOffsets(kafka, topic)
        self._ends_before: deque[tuple[float, Offsets]] = deque()
        self._started_s = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.spark_ui: str | None = None
        self.outage: str | None = None
        """Why Kafka does not answer; None while it does."""
        self.lost: str | None = None
        """Why the last heartbeat could not be written; None if it was."""

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join(STOP_S)

    def close(self) -> None:
        """Report that the processing was stopped."""
        with suppress(UserError):
            self._beat(stopped=True)
        self._ends.close()

    def _run(self) -> None:
        prune_due_s = 0.0
        while not self._stop.is_set():
            now_s = time.time()
            lost = None
            try:
                self._beat()
                if now_s >= prune_due_s:
                    self._store.prune(now_s, self._retention_s)
                    prune_due_s = now_s + PRUNE_S
            except UserError as error:
                lost = str(error)
            if lost != self.lost:
                self.lost = lost
                self._report_database(f"results cannot be written: {lost}" if lost else "")
            self._stop.wait(HEARTBEAT_S)

    def _beat(self, stopped: bool = False) -> None:
        now_s = time.time()
        ends = None if stopped else self._look_at_topic(now_s)
        if not stopped:
            self._on_look(now_s, None if self.outage else ends)
        pipeline = self._pipeline_status(stopped)
        self._store.heartbeat(
            Status(
                at_s=now_s,
                started_s=self._started_s,
                queries=pipeline.queries,
                kafka=self.outage,
                read_offsets=pipeline.start,
                end_offsets=ends or (self._ends_before[-1][1] if self._ends_before else {}),
                lag_10s=self._is_behind(now_s),
                spark_ui=self.spark_ui,
                topic=self._topic,
                bootstrap_servers=self._kafka.bootstrap_servers,
                alerts_away=pipeline.alerts,
                alarms_away=pipeline.alarms,
                database=pipeline.database or self.lost,
                notifications=pipeline.notifications,
                timings=pipeline.timings,
                database_bytes=pipeline.database_bytes,
                checkpoint_bytes=pipeline.checkpoint_bytes,
            )
        )

    def _look_at_topic(self, now_s: float) -> Offsets | None:
        """The end offsets of the topic; None if Kafka does not answer, and then ``outage`` says why."""
        ends = self._ends.fetch()
        outage = self._ends.outage
        if ends is not None:
            try:
                self._check_topic()
            except UserError as error:
                outage = str(error)
        self.outage = outage
        if ends:
            self._ends_before.append((now_s, ends))
            while len(self._ends_before) > 1 and self._ends_before[1][0] <= now_s - LAG_S:
                self._ends_before.popleft()
        return ends

    def _is_behind(self, now_s: float) -> bool:
        """Whether something that was in the topic ``LAG_S`` ago has not been processed."""
        if not self._ends_before or self._ends_before[0][0] > now_s - LAG_S:
            return False
        offsets = self._store.offsets()
        return any(end > offsets.get(partition, end) for partition, end in self._ends_before[0][1].items())
