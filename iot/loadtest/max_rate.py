"""Test 8: search the highest rate that a running dashboard takes.

Each step sends at one rate for a while. It holds if windows and alerts come in time and lag does not grow. ``search``
chooses the rates, and ``steps`` judges the figures. A few readings are followed on their way: see ``probe``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from kafka.errors import KafkaError

from iot.kafka import advertised
from iot.kafka.offsets import end_offsets
from iot.loadtest.bulk import CLIENT
from iot.loadtest.dashboard_client import DashboardClient
from iot.loadtest.latency import Milliseconds, in_ms, over_time
from iot.loadtest.probe import RATE_PER_S, Interval, Probe
from iot.loadtest.process_cpu import GENERATOR, ProcessCpu
from iot.loadtest.results import STOPPED, Result, client_version
from iot.loadtest.search import Search
from iot.loadtest.stepper import LEAST_PER_S, MOST_PER_S, MaxRatePlan, Stepper
from iot.loadtest.steps import ALERTS_P99_MS, StepFigures, judge
from iot.loadtest.trial import grown_by
from iot.loadtest.usage import Usage
from iot.processes import until_stopped
from iot.settings import ALERTS_TOPIC, Kafka, UserError, reason
from iot.terminal import StatusLine

TOO_EARLY = "before anything was sent"


def run(wanted: MaxRatePlan, kafka: Kafka, status: StatusLine, stop: threading.Event) -> Result:
    """Search until the result is confirmed, or ``stop`` is set.

    Raises:
        UserError: no dashboard answers, or Kafka does not.
        Stopped: ``stop`` was set before anything was sent.
    """
    dashboard = DashboardClient(wanted.dashboard_url, wanted.token)
    dashboard.require()
    try:
        begin = until_stopped(lambda: end_offsets(kafka, wanted.topic), stop, TOO_EARLY)
        alerts_begin = until_stopped(lambda: end_offsets(kafka, ALERTS_TOPIC), stop, TOO_EARLY)
    except KafkaError as error:
        why = advertised.outage(kafka) or reason(error)
        raise UserError(f"Kafka at {kafka.bootstrap_servers} does not answer: {why}") from error
    status.print(
        f"max-rate: windows within p99 {wanted.target_p99_ms:,.0f} ms, alerts within p99 {ALERTS_P99_MS:,.0f} ms, "
        f"through {dashboard.url}; Ctrl-C ends the search with the result so far"
    )
    begun_s = time.monotonic()
    usage = Usage([os.getpid()], begun_s)
    rates = Search(wanted.first_per_s, LEAST_PER_S, MOST_PER_S)
    steps: list[StepFigures] = []
    problem = ""
    with Probe(dashboard, kafka, wanted.topic, alerts_begin) as probe:
        processes = ProcessCpu(kafka.bootstrap_servers, dashboard.url, [os.getpid()], probe.start_s)
        stepper = Stepper(wanted, kafka, dashboard, probe, processes, status, stop)
        # What was found until then is a result, too.
        try:
            stepper.warm_up(wanted.first_per_s)
            while (attempt := rates.next) and time.monotonic() < probe.last_due_s - 3 * wanted.confirm_s:
                if not stepper.wait_until_drained() or not (figures := stepper.run(attempt)):
                    break
                verdict = judge(figures, wanted.target_p99_ms)
                figures.held, figures.gave_out, figures.why = verdict.held, verdict.part, verdict.why
                steps.append(figures)
                status.print(f"  {line(figures, rates.is_second_try)}")
                rates.tell(verdict.held, figures.sent_per_s, verdict.decisive)
        except UserError as failure:
            problem = str(failure)
        now_s = time.monotonic()
        late = probe.window_latencies_s(Interval(probe.start_s, now_s - wanted.target_p99_ms / 1000), now_s)
    usage.look(0, now_s)
    result = make_result(wanted, steps, rates, usage, stepper, grown_by(kafka, wanted.topic, begin))
    result.latency_over_time = over_time(late, probe.start_s)
    result.duration_s = round(now_s - begun_s, 3)
    result.error = STOPPED if stop.is_set() else problem or ("" if rates.result_per_s else "no rate was confirmed")
    return result


def make_result(
    wanted: MaxRatePlan,
    steps: list[StepFigures],
    rates: Search,
    usage: Usage,
    stepper: Stepper,
    grew_by: int | None,
) -> Result:
    """The result of a search: the highest rate that held, and the figures of its step."""
    held = [step for step in steps if step.held and step.rate_per_s == rates.held_per_s]
    best = held[-1] if held else None
    sent, acknowledged = (sum(both) for both in zip(stepper.totals, stepper.probe.totals, strict=True))
    cpu_pct = best.cpu_pct.get(GENERATOR) if best else None
    return Result(
        test="max-rate",
        client=CLIENT,
        client_version=client_version(CLIENT),
        threads=1,
        processes=1 + stepper.workers,
        messages=sent,
        messages_sent=sent,
        messages_acknowledged=acknowledged,
        messages_failed=sent - acknowledged,
        success_rate_pct=100 * acknowledged / max(sent, 1),
        duration_s=0.0,
        throughput_per_s=round(best.sent_per_s, 1) if best else 0.0,
        latency_ms=best.windows_ms if best else Milliseconds(),
        latency_curve=best.windows_curve if best else [],
        latency_from="the moment it was due until a window counted it, at the highest rate that held",
        latency_of_one_in=max(1, round(best.rate_per_s / RATE_PER_S)) if best else 1,
        warm_up_pct=0,
        rate_per_s=best.rate_per_s if best else None,
        cpu_pct=cpu_pct,
        machine_cpu_pct=best.machine_cpu_pct if best else None,
        throughput_per_cpu_pct=round(best.sent_per_s / cpu_pct, 1) if best and cpu_pct else None,
        memory_peak_mb=round(usage.memory_peak_mb, 1),
        batching="batches of up to 262,144 bytes, linger 5 ms",
        in_flight="at most 100,000 in flight per process",
        topic=wanted.topic,
        topic_grew_by=grew_by,
        process_cpu=stepper.processes.usages(),
        max_rate_per_s=round(rates.result_per_s or rates.held_per_s or 0.0, 1) or None,
        is_confirmed=rates.result_per_s is not None,
        gave_out=first_to_give_out(steps),
        steps=steps,
    )


def first_to_give_out(steps: Sequence[StepFigures]) -> str:
    """What gave out at the lowest rate above all that held; empty if there is none."""
    highest_per_s = max((step.rate_per_s for step in steps if step.held), default=0.0)
    failed = [step for step in steps if not step.held and step.rate_per_s > highest_per_s]
    if not failed:
        return ""
    lowest = min(failed, key=lambda step: step.rate_per_s)
    return f"{lowest.gave_out} at {lowest.rate_per_s:,.0f}/s: {lowest.why}"


def line(step: StepFigures, second_try: bool) -> str:
    """A step as a line of progress."""
    said = f"holds; {figures_of(step)}" if step.held else f"does not hold: {step.gave_out}, {step.why}"
    return f"{step.kind} at {step.rate_per_s:,.0f}/s{', second try' if second_try else ''}: {said}"


def figures_of(step: StepFigures) -> str:
    """The figures that decide about a step, in words."""
    lag = "" if step.lag is None else f", {step.lag:,.0f} waited"
    cpu = ", ".join(f"{role} {pct:.0f} %" for role, pct in step.cpu_pct.items())
    return (
        f"{step.sent_per_s:,.0f}/s sent, windows p99 {in_ms(step.windows_ms.p99)}, "
        f"alerts p99 {in_ms(step.alerts_ms.p99)}{lag}" + (f"; CPU of a core: {cpu}" if cpu else "")
    )
