"""Test 9: how fast a backlog is processed after an outage, and whether the results are right.

The application is stopped, readings are sent, and the application is started again. Nothing is sent while it catches
up. In the end each reading must be counted, and the alerts must be those of the rules.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from kafka.errors import KafkaError

from iot.batches import Offsets
from iot.kafka import advertised
from iot.kafka.offsets import end_offsets
from iot.loadtest.dashboard_client import DashboardClient
from iot.loadtest.demo import DemoSystem
from iot.loadtest.exactness import compare_alerts, expected_alerts
from iot.loadtest.latency import Milliseconds
from iot.loadtest.plan import Plan
from iot.loadtest.process_cpu import ProcessCpu, ProcessUsage
from iot.loadtest.results import STOPPED, DrainSample, Result, Stage
from iot.loadtest.trial import run_trial
from iot.processes import Stopped, until_stopped
from iot.settings import ALERTS_TOPIC, Kafka, UserError, reason
from iot.terminal import StatusLine

MESSAGES, SENSORS = 1_000_000, 1_000
# How often to look at the dashboard. Each answer takes time from what is measured.
LOOK_S = 0.25
# How long the figures must stay the same before the application is stopped, and how long to wait for that.
STILL_S, QUIET_S = 2.0, 60.0
# How long a stopped application must not answer.
GONE_S = 1.0
# How long to wait for the next progress, and for repetitions once all is counted.
PATIENCE_S, SETTLE_S = 180.0, 1.5


@dataclass(frozen=True, kw_only=True)
class BacklogPlan:
    """The backlog, and the application that processes it: the user's, or one of the test's own."""

    dashboard_url: str
    topic: str
    client: str
    messages: int = MESSAGES
    token: str | None = None
    system: DemoSystem | None = None


class Counts(NamedTuple):
    """What the dashboard has counted."""

    messages: int
    alerts: int


NOTHING = Counts(0, 0)


def run(wanted: BacklogPlan, kafka: Kafka, status: StatusLine, stop: threading.Event) -> Result:
    """Make a backlog and measure how it is processed.

    Raises:
        UserError: no dashboard answers, or Kafka does not, or others send to the topic.
        Stopped: ``stop`` was set before anything was sent.
    """
    test = Backlog(wanted, kafka, status, stop)
    try:
        before = test.wait_until_quiet()
        test.stop_application()
        begin, alerts_begin = end_offsets(kafka, wanted.topic), end_offsets(kafka, ALERTS_TOPIC)
        result = run_trial(test.plan, kafka, wanted.topic, status, stop)
        if result.error:
            return result
        try:
            end = end_offsets(kafka, wanted.topic)
            # Before the application runs, so that this does not slow it down.
            status.print("  reading the backlog back, to know which alerts it must raise")
            alerts = expected_alerts(kafka, wanted.topic, begin, end, stop)
            test.start_application()
            drain = test.watch(before, Counts(sum(end.values()) - sum(begin.values()), len(alerts)))
            in_kafka = compare_alerts(kafka, wanted.topic, alerts_begin, alerts, stop)
        except Stopped:
            # What was sent is a result, too.
            result.error = STOPPED
            return result
    except KafkaError as error:
        why = advertised.outage(kafka) or reason(error)
        raise UserError(f"Kafka at {kafka.bootstrap_servers} does not answer: {why}") from error
    result.drain_s, result.drain_alerts_s = drain.took_s(drain.counted_s), drain.took_s(drain.alerts_s)
    if result.drain_s:
        result.drain_rate_per_s = round(drain.expected.messages / result.drain_s, 1)
    result.drain, result.process_cpu, result.error = drain.samples, test.usages(), drain.error
    result.stages = [
        counted("reading counted", drain.expected.messages, drain.counts.messages),
        counted("alert stored", drain.expected.alerts, drain.counts.alerts),
        in_kafka,
    ]
    return result


@dataclass
class Drain:
    """What was seen while the backlog was processed. Moments are in seconds of the monotonic clock."""

    expected: Counts
    runs_s: float | None = None
    """When the query over the readings ran, from which the other moments count."""
    counted_s: float | None = None
    alerts_s: float | None = None
    counts: Counts = NOTHING
    samples: list[DrainSample] = field(default_factory=list)
    error: str = ""

    def note(self, counts: Counts, now_s: float) -> bool:
        """Note what is counted by now; returns whether it is more than before."""
        grew, self.counts = counts > self.counts, counts
        if self.runs_s is None:
            return grew
        if not self.samples and counts.messages >= self.expected.messages:
            self.error = "the backlog was counted too soon to be measured: send more with --messages"
        if grew or not self.samples:
            self.samples.append(DrainSample(round(now_s - self.runs_s, 3), counts.messages, counts.alerts))
        if counts.messages >= self.expected.messages:
            self.counted_s = self.counted_s or now_s
        if counts.alerts >= self.expected.alerts:
            self.alerts_s = self.alerts_s or now_s
        return grew

    def took_s(self, moment_s: float | None) -> float | None:
        """How long after the start of the query a moment was; None if it was not measured."""
        return None if moment_s is None or self.runs_s is None or self.error else round(moment_s - self.runs_s, 3)


class Backlog:
    """One run of the test."""

    def __init__(self, wanted: BacklogPlan, kafka: Kafka, status: StatusLine, stop: threading.Event) -> None:
        self._wanted, self._kafka, self._status, self._stop = wanted, kafka, status, stop
        self._dashboard = DashboardClient(wanted.dashboard_url, wanted.token)
        self._processes: ProcessCpu | None = None
        self.plan = Plan(test="backlog", client=wanted.client, messages=wanted.messages, threads=1, sensors=SENSORS)

    def wait_until_quiet(self) -> Counts:
        """Wait until the application has processed what is in Kafka, and nobody sends.

        Raises:
            UserError: no dashboard answers, or others send.
            Stopped: ``stop`` was set.
        """
        if self._wanted.system:
            self._wanted.system.start_application()
            self._wanted.system.await_processing(self._stop)
        self._dashboard.require()
        self._say(f"backlog: {self._wanted.messages:,} readings, processed by {self._dashboard.url}")
        begun_s = since_s = time.monotonic()
        counts, ends = None, self._ends()
        while counts is None or time.monotonic() - since_s < STILL_S:
            self._pause("waiting until the application has processed what is in Kafka")
            figures, now_ends = self._dashboard.metrics(), self._ends()
            now = counts_of(figures) if figures and figures["lag"] and not figures["lag"]["total"] else None
            if now != counts or now_ends != ends:
                counts, ends, since_s = now, now_ends, time.monotonic()
            if time.monotonic() - begun_s > QUIET_S:
                raise UserError(
                    f"others still send to {self._wanted.topic}, or the application does not catch up: stop the other "
                    "producers (an application with --demo has its own), and run the test again"
                )
        return counts

    def stop_application(self) -> None:
        """Stop the application, or ask the user to, and wait until it does not answer.

        Raises:
            Stopped: ``stop`` was set.
        """
        if self._wanted.system:
            self._wanted.system.stop_application()
        else:
            self._say("stop the application now: press Ctrl-C in its terminal, and leave Kafka running")
        since_s = time.monotonic()
        while time.monotonic() - since_s < GONE_S:
            self._pause(f"waiting until {self._dashboard.url} does not answer any more")
            if self._dashboard.metrics() is not None:
                since_s = time.monotonic()

    def start_application(self) -> None:
        """Start the application, or ask the user to."""
        if self._wanted.system:
            self._wanted.system.start_application()
        else:
            self._say("start the application again, with the same command as before")

    def watch(self, before: Counts, expected: Counts) -> Drain:
        """Watch until all is counted, or nothing more is."""
        drain = Drain(expected)
        moved_s = time.monotonic()
        while True:
            self._pause(partial(progress, drain))
            now_s = time.monotonic()
            if drain.runs_s is None and self._dashboard.is_processing():
                drain.runs_s = moved_s = now_s
                self._processes = ProcessCpu(self._kafka.bootstrap_servers, self._dashboard.url, [], now_s)
            if self._processes:
                self._processes.look_if_due(now_s)
            if figures := self._dashboard.metrics():
                counts = counts_of(figures)
                if drain.note(
                    Counts(counts.messages - before.messages, counts.alerts - before.alerts), time.monotonic()
                ):
                    moved_s = now_s
            if drain.counted_s and drain.alerts_s and now_s - moved_s > SETTLE_S:
                return drain
            is_waiting_for_user = drain.runs_s is None and not self._wanted.system
            if now_s - moved_s > PATIENCE_S and not is_waiting_for_user:
                drain.error = f"nothing more was processed for {PATIENCE_S:.0f} s"
                return drain
            if self._wanted.system:
                self._wanted.system.require_running()

    def usages(self) -> list[ProcessUsage]:
        """The CPU of the processes while the backlog was processed."""
        return self._processes.usages() if self._processes else []

    def _ends(self) -> Offsets:
        ends = partial(end_offsets, self._kafka, self._wanted.topic)
        return until_stopped(ends, self._stop, "before anything was sent")

    def _say(self, text: str) -> None:
        self._status.print(text)

    def _pause(self, line: Callable[[], str] | str) -> None:
        """Show a line of progress and wait until it is time to look again.

        Raises:
            Stopped: ``stop`` was set.
        """
        self._status.update(line if callable(line) else lambda: line)
        if self._stop.wait(LOOK_S):
            raise Stopped("stopped before the end")


def counts_of(figures: dict[str, Any]) -> Counts:
    return Counts(figures["total_messages"] + figures["rejected_messages"], figures["total_alerts"])


def progress(drain: Drain) -> str:
    if drain.runs_s is None:
        return "waiting until the application processes readings"
    return (
        f"{drain.counts.messages:,} of {drain.expected.messages:,} readings and {drain.counts.alerts:,} of "
        f"{drain.expected.alerts:,} alerts after {time.monotonic() - drain.runs_s:.1f} s"
    )


def counted(name: str, expected: int, found: int) -> Stage:
    """A stage of which only the number is known."""
    return Stage(
        name=name,
        expected=expected,
        arrived=found,
        lost=max(0, expected - found),
        doubled=max(0, found - expected),
        latency_ms=Milliseconds(),
        is_timed=False,
    )
