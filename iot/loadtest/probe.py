"""A few readings that are followed through a running dashboard while others load it.

At high rates following every reading would cost more than the system itself. So sensors of their own, in a location of
their own, send at a low and steady rate for the whole test. Their windows and alerts show how late the system is.
"""

from __future__ import annotations

import statistics
import threading
import time
import uuid
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec

from iot.alerts import Alert
from iot.batches import Offsets
from iot.kafka.sender import make_sender
from iot.loadtest.dashboard_client import DashboardClient
from iot.loadtest.end_to_end import HEAD_START_S, OPEN_S, Outbox, poll
from iot.loadtest.follow import Arrivals, Follower, KafkaFollower, StreamFollower, WindowsFollower, window_ends
from iot.loadtest.latency import Latencies, Milliseconds
from iot.loadtest.load import Load
from iot.readings import format_timestamp
from iot.settings import ALERTS_TOPIC, SLIDE_S, WINDOW_S, Kafka, UserError

RATE_PER_S = 200.0
# Maximum duration of a test.
LONGEST_S = 3_600.0
# Readings that are due within this time are sent together: each send costs as much as many readings.
TICK_S = 0.01
# How often to read the figures and the windows of the dashboard. Each answer takes time from what is measured.
FIGURES_EVERY_S, WINDOWS_EVERY_S = 0.5, 0.2

_decode_alert = msgspec.json.Decoder(Alert).decode


class AlertsInKafka(KafkaFollower):
    """Notes the alerts about one location in their topic, by sensor and time of the reading."""

    def __init__(self, kafka: Kafka, begin: Offsets, location: str) -> None:
        super().__init__(kafka, ALERTS_TOPIC, begin)
        self._location = location.encode()

    def _note(self, partition: int, offset: int, value: bytes | None, now_s: float) -> None:
        # Most alerts are about other readings. Decoding those would take most of the time.
        if value is not None and self._location in value:
            alert = _decode_alert(value)
            self.arrivals.add((alert.sensor_id, alert.timestamp), now_s)


class ProbeStream(StreamFollower):
    """Notes the alerts about one location on the event stream by sensor and time, and the moments of new results."""

    def __init__(self, dashboard: DashboardClient, location: str) -> None:
        super().__init__(dashboard, location)
        self.results_s: list[float] = []
        """When the number of processed messages grew."""
        self._processed = -1

    def _wanted(self, event: str) -> bool:
        return event in ("alert", "metrics")

    def _note(self, event: str, content: dict[str, Any], now_s: float) -> None:
        if event == "metrics":
            processed = content["total_messages"] + content["rejected_messages"]
            if processed > self._processed >= 0:
                self.results_s.append(now_s)
            self._processed = processed
        elif content["location"] == self._location:
            self.arrivals.add((content["sensor_id"], content["timestamp"]), now_s)


class FiguresFollower(Follower):
    """Reads ``/api/metrics`` regularly: how many messages wait, and how long the page took to answer."""

    def __init__(self, dashboard: DashboardClient) -> None:
        super().__init__()
        self._dashboard = dashboard
        self.lag: list[tuple[float, float]] = []
        """Moments and the messages that waited."""
        self.answers_s: list[tuple[float, float]] = []
        """Moments and how long an answer took, of all requests."""

    def note_answer(self, now_s: float, took_s: float) -> None:
        self.answers_s.append((now_s, took_s))

    def _follow(self) -> None:
        while not self._stop.wait(FIGURES_EVERY_S):
            asked_s = time.monotonic()
            figures = self._dashboard.get("/api/metrics")
            now_s = time.monotonic()
            self.note_answer(now_s, now_s - asked_s)
            if figures.get("lag"):
                self.lag.append((now_s, float(figures["lag"]["total"])))


@dataclass(frozen=True)
class Interval:
    """A part of the test, in seconds of the monotonic clock."""

    begin_s: float
    end_s: float

    def of(self, samples: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [sample for sample in samples if self.begin_s <= sample[0] < self.end_s]


class Probe:
    """The followed readings. ``with`` sends them until the end of the block."""

    def __init__(self, dashboard: DashboardClient, kafka: Kafka, topic: str, alerts_begin: Offsets) -> None:
        """
        Args:
            alerts_begin: the end offsets of the topic of alerts, before anything is sent.
        """
        self._dashboard, self._kafka, self._topic = dashboard, kafka, topic
        self._over = threading.Event()
        self.location = f"load-test-{uuid.uuid4().hex[:8]}"
        self.acknowledgements = Arrivals()
        self.stream = ProbeStream(dashboard, self.location)
        self.figures = FiguresFollower(dashboard)
        self.alerts = AlertsInKafka(kafka, alerts_begin, self.location)

    def __enter__(self) -> Probe:
        """Start to send.

        Raises:
            UserError: Kafka does not answer, or the event stream does not open.
        """
        with ExitStack() as stack:
            # One reading at a time is sent, so waiting to fill a batch would only add latency.
            sender = make_sender("confluent-kafka", self._kafka, self._topic, **{"linger.ms": 0})
            stack.callback(sender.close)
            for follower in (self.alerts, self.stream, self.figures):
                follower.start()
                stack.callback(follower.close)
            if not self.stream.opened.wait(OPEN_S):
                why = self.stream.away or "it is silent"
                raise UserError(
                    f"the event stream of {self._dashboard.url} does not open: {why}; restart the dashboard"
                )
            run_id = uuid.uuid4().hex[:8]
            start_s = time.monotonic() + HEAD_START_S
            self._load = Load(int(RATE_PER_S * LONGEST_S), RATE_PER_S, run_id, self.location, start_s)
            self.windows = WindowsFollower(
                self._dashboard, self.location, self._load.times_us[0], self.figures.note_answer, WINDOWS_EVERY_S
            )
            self.windows.start()
            stack.callback(self.windows.close)
            self._sender = sender
            outbox = Outbox(self._load, sender, self.acknowledgements, TICK_S)
            sending = threading.Thread(target=outbox.send, args=(self._over,), daemon=True)
            polling = threading.Thread(target=poll, args=(sender, self._over, TICK_S), daemon=True)
            for thread in (sending, polling):
                thread.start()
            stack.callback(sending.join)
            stack.callback(self._over.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """Note that the windows that are already complete need not be read any more."""
        numbers = self._numbers(Interval(time.monotonic() - 2 * WINDOW_S - SLIDE_S, time.monotonic()))
        self.windows.since_us = self._load.times_us[numbers.start] if numbers else self.windows.since_us

    @property
    def totals(self) -> tuple[int, int]:
        """Readings sent and acknowledged so far."""
        return self._sender.accepted, self._sender.acknowledged

    @property
    def start_s(self) -> float:
        """When the first reading is due."""
        return self._load.due_s[0]

    @property
    def last_due_s(self) -> float:
        """When the last of all readings is due."""
        return self._load.due_s[-1]

    def has_arrived(self, until_s: float) -> bool:
        """Whether as many readings are counted in windows as were due by then."""
        due = self._numbers(Interval(self.start_s, until_s)).stop
        return self.windows.arrivals.count >= 3 * due

    def lag(self, interval: Interval) -> list[tuple[float, float]]:
        return interval.of(self.figures.lag)

    def page(self, interval: Interval) -> Milliseconds:
        """How long the page took to answer."""
        return milliseconds([took_s for _, took_s in interval.of(self.figures.answers_s)])

    def batch_s(self, interval: Interval) -> float | None:
        """The median time from one batch's results to the next; None if there were too few."""
        moments_s = [at_s for at_s, _ in interval.of((at_s, 0.0) for at_s in list(self.stream.results_s))]
        gaps_s = [after - before for before, after in pairwise(moments_s)]
        return statistics.median(gaps_s) if gaps_s else None

    def acknowledged(self, interval: Interval, now_s: float) -> Milliseconds:
        due = ((self._load.key(number), [self._load.due_s[number]]) for number in self._numbers(interval))
        return self._late(due, self.acknowledgements, now_s)

    def alerts_in_kafka(self, interval: Interval, now_s: float) -> Milliseconds:
        return self._late(self._alerts_due(interval), self.alerts.arrivals, now_s)

    def alerts_on_stream(self, interval: Interval, now_s: float) -> Milliseconds:
        return self._late(self._alerts_due(interval), self.stream.arrivals, now_s)

    def window_latencies_s(self, interval: Interval, now_s: float) -> list[tuple[float, float]]:
        """When a reading of the interval was due, and how long after that it was counted, for each of its windows."""
        # All readings of the windows are needed to know which arrival is whose.
        load, before = self._load, Interval(interval.begin_s - WINDOW_S - SLIDE_S, interval.end_s)
        due: dict[Hashable, list[float]] = {}
        for number in self._numbers(before):
            for end_s in window_ends(load.times_us[number]):
                due.setdefault((end_s, load.sensor_type(number)), []).append(load.due_s[number])
        pairs = latencies_s(due.items(), self.windows.arrivals, now_s)
        return [pair for pair in pairs if interval.begin_s <= pair[0] < interval.end_s]

    def _numbers(self, interval: Interval) -> range:
        """The numbers of the readings that were due in an interval."""
        first_s, count = self._load.due_s[0], len(self._load.due_s)
        begin, end = (
            min(max(0, -int((first_s - moment_s) * RATE_PER_S // 1)), count)
            for moment_s in (interval.begin_s, interval.end_s)
        )
        return range(begin, end)

    @staticmethod
    def _late(expected: Iterable[tuple[Hashable, Sequence[float]]], arrivals: Arrivals, now_s: float) -> Milliseconds:
        return milliseconds([latency_s for _, latency_s in latencies_s(expected, arrivals, now_s)])

    def _alerts_due(self, interval: Interval) -> Iterable[tuple[Hashable, Sequence[float]]]:
        load = self._load
        for number in filter(load.breaks_rule, self._numbers(interval)):
            yield (load.key(number)[0], format_timestamp(load.times_us[number])), [load.due_s[number]]


def latencies_s(
    expected: Iterable[tuple[Hashable, Sequence[float]]], arrivals: Arrivals, now_s: float
) -> Iterator[tuple[float, float]]:
    """Yield when each arrival was due, and its latency. What has not arrived is at least as late as it is now.

    Args:
        expected: by key, the moments at which its arrivals were due, in order.
    """
    for key, due_s in expected:
        came_s = arrivals.times_s(key)
        for place, due in enumerate(due_s):
            yield due, (came_s[place] if place < len(came_s) else now_s) - due


def milliseconds(latencies_s: Sequence[float]) -> Milliseconds:
    latencies = Latencies()
    latencies.add(latencies_s)
    return latencies.milliseconds()
