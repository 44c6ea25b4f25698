"""Runs the steps of a search for the highest rate: sends at a rate, and measures how the system takes it."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from iot.loadtest.bulk import BulkLoad, bulk_load
from iot.loadtest.dashboard_client import DashboardClient
from iot.loadtest.flags import MAX_RATE_PER_S
from iot.loadtest.growth import Growth, growth
from iot.loadtest.latency import Latencies
from iot.loadtest.machine_speed import MachineSpeed
from iot.loadtest.probe import RATE_PER_S, Interval, Probe
from iot.loadtest.process_cpu import ProcessCpu
from iot.loadtest.search import Attempt
from iot.loadtest.spark_batches import BatchTimes, newest_batches
from iot.loadtest.steps import HOPELESS_LAG_S, StepFigures
from iot.loadtest.usage import Machine
from iot.settings import Kafka, UserError
from iot.terminal import StatusLine

# The search stays within these.
LEAST_PER_S, MOST_PER_S = 2 * RATE_PER_S, float(MAX_RATE_PER_S)
FIRST_PER_S, TARGET_P99_MS = 4_000.0, 2_000.0
# How long the last step measures. The others measure a third of it, and up to as long if growth is not clear.
CONFIRM_S = 60.0
# How long a step sends before it measures, as a share of ``CONFIRM_S``: several batches.
WARM_UP = 0.1
# A JVM that has just started gets faster for a minute. Before the first step, the system is loaded until windows come
# in time and, in so many parts of this length, not much sooner than in the best part before, but at most so long.
STEADY_PARTS, PART_S, FASTER, COLD_S = 2, 5.0, 0.9, 90.0
# How often to look at the figures, and how old the newest ones may be.
LOOK_S, RECENT_S = 0.1, 3.0
# How long to wait for what a step left in Kafka, and how much of it may stay: the followed readings of this time, or of
# half more than the target if that is longer.
DRAIN_S, DRAINED_S = 300.0, 3.0
# How much longer a load can last than it is needed.
SPARE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class MaxRatePlan:
    """What to search, and the dashboard to search it with."""

    dashboard_url: str
    topic: str
    target_p99_ms: float = TARGET_P99_MS
    first_per_s: float = FIRST_PER_S
    confirm_s: float = CONFIRM_S
    token: str | None = None


class Measured(NamedTuple):
    """What was measured while a step was sent. CPU is in per cent of a core, and of the machine."""

    interval: Interval
    sent_per_s: float
    growth: Growth | None
    is_hopeless: bool
    batches: BatchTimes | None
    cpu_pct: dict[str, float]
    machine_cpu_pct: float
    machine_speed_pct: float | None


@dataclass
class Stepper:
    """Runs the steps of one search."""

    wanted: MaxRatePlan
    kafka: Kafka
    dashboard: DashboardClient
    probe: Probe
    processes: ProcessCpu
    status: StatusLine
    stop: threading.Event
    totals: tuple[int, int] = (0, 0)
    """Readings that all steps until now have sent, and how many of them were acknowledged."""
    workers: int = 0
    speed: MachineSpeed = field(default_factory=MachineSpeed)

    def warm_up(self, rate_per_s: float) -> None:
        """Send at a rate until the system no longer gets faster.

        Raises:
            UserError: a process that sends has ended.
        """
        rate_per_s = max(rate_per_s, LEAST_PER_S)
        medians_s: list[float] = []
        allowed_s = self.wanted.target_p99_ms / 1000
        with self._sending(rate_per_s, COLD_S) as load:
            until_s = time.monotonic() + COLD_S
            while time.monotonic() < until_s and not is_warm(medians_s, allowed_s) and not self.stop.is_set():
                self._is_over(time.monotonic() + PART_S, rate_per_s, load, "warming up the application")
                now_s = time.monotonic()
                # What has not arrived by now is late, and need not be waited for.
                end_s = now_s - min(allowed_s, PART_S)
                late_s = [late for _, late in self.probe.window_latencies_s(Interval(end_s - PART_S, end_s), now_s)]
                medians_s += [statistics.median(late_s)] if late_s else []

    def run(self, attempt: Attempt) -> StepFigures | None:
        """Send at a rate and measure; None if it was stopped meanwhile."""
        longest_s = (1 + WARM_UP) * self.wanted.confirm_s + self.wanted.target_p99_ms / 1000
        with self._sending(attempt.rate_per_s, longest_s) as load:
            measured = self._measure(attempt, load)
        return measured and self._figures(attempt, measured, time.monotonic())

    @contextmanager
    def _sending(self, rate_per_s: float, longest_s: float) -> Iterator[BulkLoad]:
        """Send at a rate, which includes the followed readings, and count what was sent."""
        self.probe.begin()
        bulk_per_s = rate_per_s - RATE_PER_S
        with bulk_load("max-rate", self.kafka, self.wanted.topic, bulk_per_s, longest_s + SPARE_S, self.stop) as load:
            self.processes.generators |= set(load.pids)
            self.workers = len(load.pids)
            yield load
        sent, acknowledged = load.totals
        self.totals = self.totals[0] + sent, self.totals[1] + acknowledged

    def _measure(self, attempt: Attempt, load: BulkLoad) -> Measured | None:
        """Warm up, and measure until it is clear whether lag grows; None if it was stopped meanwhile."""
        confirm_s, rate_per_s = self.wanted.confirm_s, attempt.rate_per_s
        label = f"{attempt.kind} at {rate_per_s:,.0f}/s"
        shortest_s = confirm_s if attempt.kind == "confirmation" else confirm_s / 3
        hopeless = self._is_over(time.monotonic() + WARM_UP * confirm_s, rate_per_s, load, f"{label}: warm-up")
        machine, before, begun = Machine(), self.processes.look(time.monotonic()), load.acknowledged
        grows, begin_s = None, time.monotonic()
        until_s = begin_s + shortest_s
        while not hopeless:
            hopeless = self._is_over(until_s, rate_per_s, load, f"{label}: measuring")
            grows = growth(self.probe.lag(Interval(begin_s, until_s)), rate_per_s)
            if grows is None or grows.is_clear or until_s >= begin_s + confirm_s:
                break
            until_s = min(until_s + shortest_s / 2, begin_s + confirm_s)
        end_s = time.monotonic()
        cpu_pct, machine_cpu_pct = self.processes.look(end_s).cpu_pct_since(before), machine.busy_pct()
        machine_speed_pct = self.speed.pct_since(begin_s)
        sent_per_s = load.acknowledged.rate_per_s(begun) + RATE_PER_S
        times = newest_batches((self.dashboard.metrics() or {}).get("spark_ui"))
        # What is still on its way gets the time that it may take; the load stays the same meanwhile.
        until_s = end_s + self.wanted.target_p99_ms / 1000
        while not (hopeless or self.stop.is_set() or time.monotonic() > until_s or self.probe.has_arrived(end_s)):
            look_s = min(until_s, time.monotonic() + LOOK_S)
            hopeless = self._is_over(look_s, rate_per_s, load, f"{label}: waiting for the rest")
        if self.stop.is_set():
            return None
        interval = Interval(begin_s, end_s)
        return Measured(interval, sent_per_s, grows, hopeless, times, cpu_pct, machine_cpu_pct, machine_speed_pct)

    def _figures(self, attempt: Attempt, measured: Measured, now_s: float) -> StepFigures:
        interval, grows, times = measured.interval, measured.growth, measured.batches
        lag = [count for _, count in self.probe.lag(interval)]
        windows = Latencies()
        windows.add([latency_s for _, latency_s in self.probe.window_latencies_s(interval, now_s)])
        return StepFigures(
            kind=attempt.kind,
            rate_per_s=attempt.rate_per_s,
            sent_per_s=measured.sent_per_s,
            measured_s=round(interval.end_s - interval.begin_s, 2),
            acknowledged_ms=self.probe.acknowledged(interval, now_s),
            windows_ms=windows.milliseconds(),
            windows_curve=windows.curve(),
            alerts_ms=self.probe.alerts_on_stream(interval, now_s),
            alerts_in_kafka_ms=self.probe.alerts_in_kafka(interval, now_s),
            page_ms=self.probe.page(interval),
            lag=sum(lag) / len(lag) if lag else None,
            lag_growth_per_s=grows.per_s if grows else None,
            lag_grows=grows is not None and grows.grows,
            is_hopeless=measured.is_hopeless,
            batch_s=self.probe.batch_s(interval),
            spark_s=times.spark_s if times else None,
            database_s=times.database_s if times else None,
            cpu_pct=measured.cpu_pct,
            machine_cpu_pct=measured.machine_cpu_pct,
            machine_speed_pct=measured.machine_speed_pct,
        )

    def wait_until_drained(self) -> bool:
        """Wait until what the step before has left in Kafka is processed; returns False if ``stop`` was set before.

        Raises:
            UserError: it takes too long.
        """
        most = max(DRAINED_S, 1.5 * self.wanted.target_p99_ms / 1000) * RATE_PER_S
        begun_s = time.monotonic()
        while not self.stop.wait(LOOK_S):
            now_s = time.monotonic()
            self.processes.look_if_due(now_s)
            lag = self._lag_now(now_s)
            if lag is not None and lag <= most:
                return True
            left = "how many readings wait is not known" if lag is None else f"{lag:,.0f} readings wait"
            if now_s - begun_s > DRAIN_S:
                raise UserError(f"the dashboard does not catch up within {DRAIN_S:.0f} s: {left}; restart it")
            self.status.update(partial("waiting until the backlog is processed: {}".format, left))
        return False

    def _is_over(self, until_s: float, rate_per_s: float, load: BulkLoad, what: str) -> bool:
        """Wait until a moment; returns True at once if so much waits that the step cannot hold."""
        most = max(HOPELESS_LAG_S, 2 * self.wanted.target_p99_ms / 1000) * rate_per_s
        while (now_s := time.monotonic()) < until_s and not self.stop.wait(min(LOOK_S, until_s - now_s)):
            load.require_running()
            self.processes.look_if_due(now_s)
            self.speed.look_if_due(now_s)
            lag = self._lag_now(now_s)
            if lag is not None and lag > most:
                return True
            self.status.update(self._progress(what, until_s - now_s, lag))
        return False

    def _lag_now(self, now_s: float) -> float | None:
        """How many messages wait; None if it is not known."""
        recent = self.probe.lag(Interval(now_s - RECENT_S, now_s))
        return recent[-1][1] if recent else None

    @staticmethod
    def _progress(what: str, left_s: float, lag: float | None) -> Callable[[], str]:
        waiting = "" if lag is None else f", {lag:,.0f} wait"
        return lambda: f"{what}, {left_s:.0f} s left{waiting}"


def is_warm(medians_s: Sequence[float], allowed_s: float) -> bool:
    """Whether a system is in time, and no longer gets faster.

    Args:
        medians_s: how late windows came, in each part of the time until now.
        allowed_s: how late they may come.
    """
    before, newest = medians_s[:-STEADY_PARTS], medians_s[-STEADY_PARTS:]
    return bool(before) and newest[-1] < allowed_s and min(newest) >= FASTER * min(before)
