"""Test 7: follow readings through a running dashboard.

The readings have a location of their own. Each is followed to Kafka's acknowledgement, to its place in the topic and
to the three windows that count it. Readings that break a rule are followed to their alert in its topic and on the event
stream, and to the alarm that they fire there. Each stage has the latency since a reading was due, and the number of
lost and doubled readings.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from kafka.errors import KafkaError
from rich import box
from rich.table import Table

from iot.kafka import advertised
from iot.kafka.alert_feed import AlertFeed
from iot.kafka.offsets import end_offsets
from iot.kafka.sender import Sender, make_sender
from iot.loadtest.dashboard_client import DashboardClient
from iot.loadtest.follow import (
    AlertNotes,
    Arrivals,
    StreamFollower,
    TopicFollower,
    WindowsFollower,
)
from iot.loadtest.latency import in_ms
from iot.loadtest.load import Load
from iot.loadtest.plan import DELIVERY_TIMEOUT_S, Plan, messages_in
from iot.loadtest.process_cpu import ProcessCpu
from iot.loadtest.results import STOPPED, Result, Stage, client_version
from iot.loadtest.trial import batching, grown_by
from iot.loadtest.usage import Usage
from iot.processes import until_stopped
from iot.settings import ALERTS_TOPIC, Kafka, UserError, reason
from iot.terminal import StatusLine

RATE_PER_S, DURATION_S = 200.0, 20.0
# How long before the first reading everything is ready.
HEAD_START_S = 0.5
# How often to check for arrivals, for due readings, and to sample CPU and memory.
LOOK_S, TICK_S, SAMPLE_S = 0.05, 0.001, 0.25
# How long to wait for the event stream to open.
OPEN_S = 10.0
# How long to wait after the last arrival: for missing readings, and for duplicates once all have arrived.
PATIENCE_S, SETTLE_S = 45.0, 1.5


@dataclass(frozen=True, kw_only=True)
class EndToEndPlan:
    """The readings to send, and the dashboard that they go through. None stands for the default."""

    dashboard_url: str
    topic: str
    client: str
    messages: int | None = None
    rate_per_s: float | None = None
    duration_s: float | None = None
    token: str | None = None

    @property
    def plan(self) -> Plan:
        rate_per_s = self.rate_per_s or RATE_PER_S
        messages = self.messages or messages_in(self.duration_s or DURATION_S, rate_per_s)
        # As ``iot_producer.py`` sends. A request for each reading would load the broker more than all that is measured.
        return Plan(
            test="end-to-end",
            client=self.client,
            messages=messages,
            threads=1,
            rate_per_s=rate_per_s,
            warm_up=0,
            gathers=True,
        )


@dataclass(frozen=True)
class Followed:
    """The arrivals of each stage, and the threads that note them."""

    acknowledgements: Arrivals
    topic: TopicFollower
    alerts: AlertNotes
    stream: StreamFollower
    windows: WindowsFollower

    def arrived(self) -> list[int]:
        return [
            each.count
            for each in (
                self.acknowledgements,
                *(one.arrivals for one in (self.topic, self.alerts, self.stream)),
                self.stream.alarms,
                self.windows.arrivals,
            )
        ]

    def stages(self, load: Load) -> list[Stage]:
        of_readings, of_alerts = load.expected_readings(), load.expected_alerts(self.topic.places)
        return [
            self.acknowledgements.compare("acknowledged by Kafka", of_readings),
            self.topic.arrivals.compare("read back from the topic", of_readings),
            self.alerts.arrivals.compare(f"alert in {ALERTS_TOPIC}", of_alerts),
            self.stream.arrivals.compare("alert on the event stream", of_alerts),
            self.stream.alarms.compare("alarm on the event stream", of_alerts),
            self.windows.arrivals.compare("counted in three windows", load.expected_windows()),
        ]


def run(wanted: EndToEndPlan, kafka: Kafka, status: StatusLine, stop: threading.Event) -> Result:
    """Send the readings, and follow them until all have arrived or no more arrive.

    Raises:
        UserError: no dashboard answers, or Kafka does not.
        Stopped: ``stop`` was set before anything was sent.
    """
    dashboard = DashboardClient(wanted.dashboard_url, wanted.token)
    dashboard.require()
    plan = wanted.plan
    run_id = uuid.uuid4().hex[:8]
    location = f"load-test-{run_id}"
    too_early = "before anything was sent"
    try:
        before = until_stopped(lambda: end_offsets(kafka, wanted.topic), stop, too_early)
        alerts_before = until_stopped(lambda: end_offsets(kafka, ALERTS_TOPIC), stop, too_early)
    except KafkaError as error:
        why = advertised.outage(kafka) or reason(error)
        raise UserError(f"Kafka at {kafka.bootstrap_servers} does not answer: {why}") from error
    with ExitStack() as stack:
        sender = until_stopped(lambda: make_sender(plan.client, kafka, wanted.topic, **plan.tuning), stop, too_early)
        stack.callback(sender.close)
        topic, stream = TopicFollower(kafka, wanted.topic, before, run_id), StreamFollower(dashboard, location)
        alerts = AlertNotes(location)
        feed = AlertFeed(kafka, wanted.topic, alerts.note)
        for follower in (topic, stream):
            follower.start()
            stack.callback(follower.close)
        feed.start(alerts_before)
        stack.callback(feed.close)
        if not stream.opened.wait(OPEN_S):
            why = stream.away or "it is silent"
            raise UserError(f"the event stream of {dashboard.url} does not open: {why}; restart the dashboard")
        load = Load(plan.messages, plan.rate_per_s or RATE_PER_S, run_id, location, time.monotonic() + HEAD_START_S)
        windows = WindowsFollower(dashboard, location, load.times_us[0])
        windows.start()
        stack.callback(windows.close)
        followed = Followed(Arrivals(), topic, alerts, stream, windows)
        usage = Usage([os.getpid()], load.due_s[0])
        processes = ProcessCpu(kafka.bootstrap_servers, dashboard.url, [os.getpid()], load.due_s[0])
        status.print(
            f"end-to-end: {plan.messages:,} readings at {plan.rate_per_s:,.10g} a second with {plan.client} to "
            f"{wanted.topic}, location {location}, followed through {dashboard.url}"
        )
        done = threading.Event()
        stack.callback(done.set)
        outbox = Outbox(load, sender, followed.acknowledgements)
        sending = threading.Thread(target=outbox.send, args=(stop,), daemon=True)
        polling = threading.Thread(target=poll, args=(sender, done), daemon=True)
        sending.start()
        polling.start()
        watch(load, followed, usage, processes, sending=sending, status=status, stop=stop)
        sending.join()
        stages = followed.stages(load)
        problem = STOPPED if stop.is_set() else ""
        if any(stage.lost for stage in stages):
            problem = problem or "; ".join(each.away for each in (topic, stream, windows) if each.away)
    grew_by = grown_by(kafka, wanted.topic, before)
    result = make_result(plan, sender, usage, stages=stages, topic=wanted.topic, grew_by=grew_by, error=problem)
    result.process_cpu = processes.usages()
    return result


@dataclass(frozen=True)
class Outbox:
    """Sends the readings of a load and notes their acknowledgements.

    Attributes:
        tick_s: readings that are due within this time are sent together.
    """

    load: Load
    sender: Sender
    acknowledgements: Arrivals
    tick_s: float = TICK_S

    def send(self, stop: threading.Event) -> None:
        """Send each reading when it is due, then wait for what is in flight."""
        schedule, number, last = self.load.schedule, 0, len(self.load.due_s)
        while number < last and not stop.is_set():
            due = min(schedule.due_by_now(), last)
            for each in range(number, due):
                self._send_one(each, stop)
            number = due
            if number < last:
                schedule.wait_for(number, self.tick_s, LOOK_S, stop)
        self.sender.flush(DELIVERY_TIMEOUT_S)

    def _send_one(self, number: int, stop: threading.Event) -> None:
        def note(acknowledged: bool) -> None:
            if acknowledged:
                self.acknowledgements.add(self.load.key(number), time.monotonic())

        record = self.load.record(number)
        mark = record["callback"] = self.sender.mark(note)
        if not self.sender.send([record], stop):
            mark.forget()


def poll(sender: Sender, done: threading.Event, tick_s: float = TICK_S) -> None:
    """Let the client report acknowledgements as they arrive, until done."""
    while not done.wait(tick_s):
        sender.poll(LOOK_S)


def watch(
    load: Load,
    followed: Followed,
    usage: Usage,
    processes: ProcessCpu,
    *,
    sending: threading.Thread,
    status: StatusLine,
    stop: threading.Event,
) -> None:
    """Show what has arrived, until everything has or nothing more does."""
    messages = len(load.due_s)
    alerts = sum(map(load.breaks_rule, range(messages)))
    expected = [messages, messages, alerts, alerts, alerts, 3 * messages]
    arrived, moved_s, looked_s = followed.arrived(), time.monotonic(), load.due_s[0]

    def line() -> str:
        names = ("acknowledged", "in the topic", "alerts", "alert events", "alarm events", "in windows")
        return ", ".join(f"{name} {n:,}/{of:,}" for name, n, of in zip(names, arrived, expected, strict=True))

    while not stop.wait(LOOK_S):
        now_s = time.monotonic()
        before, arrived = arrived, followed.arrived()
        if arrived != before or sending.is_alive():
            moved_s = now_s
        is_all = all(n >= of for n, of in zip(arrived, expected, strict=True))
        if now_s - moved_s > (SETTLE_S if is_all else PATIENCE_S):
            break
        if now_s - looked_s > SAMPLE_S:
            looked_s = now_s
            usage.look(arrived[0], now_s)
            processes.look_if_due(now_s)
        status.update(line)
    usage.look(arrived[0], time.monotonic())


def make_result(
    plan: Plan,
    sender: Sender,
    usage: Usage,
    *,
    stages: Sequence[Stage],
    topic: str,
    grew_by: int | None,
    error: str,
) -> Result:
    duration_s = max(1, sender.accepted) / (plan.rate_per_s or RATE_PER_S)
    acknowledged = sender.acknowledged
    return Result(
        test=plan.test,
        client=plan.client,
        client_version=client_version(plan.client),
        threads=1,
        messages=plan.messages,
        messages_sent=sender.accepted,
        messages_acknowledged=acknowledged,
        messages_failed=sender.accepted - acknowledged,
        success_rate_pct=100 * acknowledged / plan.messages,
        duration_s=duration_s,
        throughput_per_s=round(acknowledged / duration_s, 3),
        latency_ms=stages[0].latency_ms,
        latency_curve=stages[0].latency_curve,
        latency_from="the moment it was due",
        latency_of_one_in=1,
        warm_up_pct=0,
        rate_per_s=plan.rate_per_s,
        cpu_pct=usage.cpu_pct(duration_s),
        machine_cpu_pct=usage.machine_cpu_pct,
        throughput_per_cpu_pct=usage.per_cpu_pct(acknowledged),
        memory_peak_mb=round(usage.memory_peak_mb, 1),
        batching=batching(plan),
        in_flight="at most 100,000 in flight",
        topic=topic,
        topic_grew_by=grew_by,
        error=error or sender.last_error,
        timeline=usage.samples,
        stages=list(stages),
    )


def table(stages: Sequence[Stage]) -> Table:
    """A row for each stage."""
    made = Table(box=box.SIMPLE_HEAD, caption="latency from the moment a reading was due")
    made.add_column("Stage")
    for name in ("Expected", "Arrived", "Lost", "Doubled", "p50", "p95", "p99", "max"):
        made.add_column(name, justify="right")
    for stage in stages:
        counts = (stage.expected, stage.arrived, stage.lost, stage.doubled)
        latency = stage.latency_ms
        made.add_row(
            stage.name,
            *(f"{count:,}" for count in counts),
            *map(in_ms, (latency.p50, latency.p95, latency.p99, latency.max)),
        )
    return made
