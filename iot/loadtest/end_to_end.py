"""Test 7: readings with a location of their own, followed through a running dashboard.

Each is followed to Kafka's acknowledgement and to its place in the topic, those that break a rule to their alert in its
topic and on the event stream, one by one; and each to the three windows that it is in, which count it. So it is known
how long every stage takes after the moment at which a reading was due, and whether any was lost or doubled.
"""

from __future__ import annotations

import math
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

from iot.kafka.alert_feed import AlertFeed
from iot.kafka.offsets import end_offsets
from iot.kafka.sender import Sender, make_sender
from iot.loadtest.follow import (
    AlertNotes,
    Arrivals,
    Dashboard,
    StreamFollower,
    TopicFollower,
    WindowsFollower,
)
from iot.loadtest.load import Load
from iot.loadtest.plan import DELIVERY_TIMEOUT_S, Plan
from iot.loadtest.results import Result, Stage, client_version, in_ms
from iot.loadtest.trial import batching, grown_by
from iot.loadtest.usage import Usage
from iot.settings import ALERTS_TOPIC, Kafka, UserError, reason
from iot.terminal import StatusLine

RATE_PER_S, DURATION_S = 200.0, 20.0
HEAD_START_S = 0.5
LOOK_S, TICK_S, SAMPLE_S = 0.05, 0.001, 0.25
OPEN_S = 10.0
# So long after the last arrival nothing more is waited for; and so long more when all is there, for what comes twice.
PATIENCE_S, SETTLE_S = 45.0, 1.5


@dataclass(frozen=True)
class Way:
    """What is sent, and through which dashboard; what is None is as usual."""

    dashboard_url: str
    topic: str
    rate_per_s: float | None
    duration_s: float | None
    messages: int | None
    client: str
    token: str | None = None

    @property
    def plan(self) -> Plan:
        rate_per_s = self.rate_per_s or RATE_PER_S
        messages = self.messages or max(1, math.ceil(rate_per_s * (self.duration_s or DURATION_S) - 1e-6))
        return Plan(
            test="end-to-end", client=self.client, messages=messages, threads=1, rate_per_s=rate_per_s, warm_up=0
        )


@dataclass(frozen=True)
class Followed:
    """Those who note what arrives where."""

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
                *(one.arrivals for one in (self.topic, self.alerts, self.stream, self.windows)),
            )
        ]

    def stages(self, load: Load) -> list[Stage]:
        of_readings, of_alerts = load.expected_readings(), load.expected_alerts(self.topic.places)
        return [
            self.acknowledgements.compare("acknowledged by Kafka", of_readings),
            self.topic.arrivals.compare("read back from the topic", of_readings),
            self.alerts.arrivals.compare(f"alert in {ALERTS_TOPIC}", of_alerts),
            self.stream.arrivals.compare("alert on the event stream", of_alerts),
            self.windows.arrivals.compare("counted in three windows", load.expected_windows()),
        ]


def run(way: Way, kafka: Kafka, status: StatusLine, stop: threading.Event) -> Result:
    """Send, and follow until all has arrived or nothing more does.

    Raises:
        UserError: no dashboard answers, or Kafka does not.
    """
    dashboard = Dashboard(way.dashboard_url, way.token)
    dashboard.require()
    plan = way.plan
    run_id = uuid.uuid4().hex[:8]
    location = f"load-test-{run_id}"
    try:
        before, alerts_before = end_offsets(kafka, way.topic), end_offsets(kafka, ALERTS_TOPIC)
    except KafkaError as error:
        raise UserError(f"Kafka at {kafka.bootstrap_servers} does not answer: {reason(error)}") from error
    with ExitStack() as stack:
        sender = make_sender(plan.client, kafka, way.topic, **plan.tuning)
        stack.callback(sender.close)
        topic, stream = TopicFollower(kafka, way.topic, before, run_id), StreamFollower(dashboard, location)
        alerts = AlertNotes(location)
        feed = AlertFeed(kafka, way.topic, alerts.note)
        for follower in (topic, stream):
            follower.start()
            stack.callback(follower.close)
        feed.start(alerts_before)
        stack.callback(feed.close)
        if not stream.opened.wait(OPEN_S):
            raise UserError(f"the event stream of {way.dashboard_url} does not open: {stream.away or 'it is silent'}")
        load = Load(plan.messages, plan.rate_per_s or RATE_PER_S, run_id, location, time.monotonic() + HEAD_START_S)
        windows = WindowsFollower(dashboard, location, load.times_us[0])
        windows.start()
        stack.callback(windows.close)
        followed = Followed(Arrivals(), topic, alerts, stream, windows)
        usage = Usage([os.getpid()], load.due_s[0])
        status.print(
            f"end-to-end: {plan.messages:,} readings at {plan.rate_per_s:,.10g} a second with {plan.client} to "
            f"{way.topic}, location {location}, followed through {way.dashboard_url}"
        )
        done = threading.Event()
        stack.callback(done.set)
        sending = threading.Thread(target=send, args=(load, sender, followed.acknowledgements, stop), daemon=True)
        polling = threading.Thread(target=poll, args=(sender, done), daemon=True)
        sending.start()
        polling.start()
        watch(load, followed, usage, sending, status, stop)
        sending.join()
        stages = followed.stages(load)
        problem = "stopped before the end" if stop.is_set() else ""
        if any(stage.lost for stage in stages):
            problem = problem or "; ".join(each.away for each in (topic, stream, windows) if each.away)
    grew_by = grown_by(kafka, way.topic, before)
    return make_result(way, plan, sender, usage, stages, grew_by, problem)


def send(load: Load, sender: Sender, acknowledgements: Arrivals, stop: threading.Event) -> None:
    """Send each reading when it is due, then wait for what is in flight."""
    number, last = 0, len(load.due_s)
    while number < last and not stop.is_set():
        due = min(load.schedule.due_by_now(), last)
        for each in range(number, due):
            send_one(load, each, sender, acknowledgements, stop)
        number = due
        if number < last:
            load.schedule.wait_for(number, TICK_S, LOOK_S, stop)
    sender.flush(DELIVERY_TIMEOUT_S)


def send_one(load: Load, number: int, sender: Sender, acknowledgements: Arrivals, stop: threading.Event) -> None:
    def note(acknowledged: bool) -> None:
        if acknowledged:
            acknowledgements.add(load.key(number), time.monotonic())

    record = load.record(number)
    mark = record["callback"] = sender.mark(note)
    if not sender.send([record], stop):
        mark.forget()


def poll(sender: Sender, done: threading.Event) -> None:
    """Let the client tell of acknowledgements as they come, until done."""
    while not done.wait(TICK_S):
        sender.poll(LOOK_S)


def watch(
    load: Load,
    followed: Followed,
    usage: Usage,
    sending: threading.Thread,
    status: StatusLine,
    stop: threading.Event,
) -> None:
    """Show what has arrived, until it is all, or nothing more comes."""
    messages = len(load.due_s)
    alerts = sum(map(load.breaks_rule, range(messages)))
    expected = [messages, messages, alerts, alerts, 3 * messages]
    arrived, moved_s, looked_s = followed.arrived(), time.monotonic(), load.due_s[0]

    def line() -> str:
        names = ("acknowledged", "in the topic", "alerts", "events", "in windows")
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
        status.update(line)
    usage.look(arrived[0], time.monotonic())


def make_result(
    way: Way, plan: Plan, sender: Sender, usage: Usage, stages: Sequence[Stage], grew_by: int | None, error: str
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
        latency_from="the moment it was due",
        latency_of_one_in=1,
        warm_up_pct=0,
        rate_per_s=plan.rate_per_s,
        cpu_pct=round(100 * usage.cpu_s / duration_s, 1),
        machine_cpu_pct=usage.machine_cpu_pct,
        throughput_per_cpu_pct=round(acknowledged / 100 / max(usage.cpu_s, 0.01), 1),
        memory_peak_mb=round(usage.memory_peak_mb, 1),
        batching=batching(plan),
        in_flight="at most 100,000 in flight",
        topic=way.topic,
        topic_grew_by=grew_by,
        error=error or sender.last_error,
        timeline=usage.samples,
        stages=list(stages),
    )


def table(stages: Sequence[Stage]) -> Table:
    """A row for each stage."""
    made = Table(box=box.SIMPLE_HEAD, caption="latency from the moment at which a reading was due")
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
