"""Results in words: the lines and the tables that are printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from iot.loadtest.latency import in_ms, spread
from iot.loadtest.results import Result, threads_of
from iot.loadtest.steps import StepFigures, speed_varied
from iot.loadtest.usage import SHORTEST_S


def table(results: Sequence[Result]) -> Table:
    """A row for each test and client."""
    made = Table(box=box.SIMPLE_HEAD)
    for name in ("Test", "Client"):
        made.add_column(name)
    for name in ("Messages", "Threads", "Throughput", "Latency p50", "p99", "Success", "1/s per 1 % CPU"):
        made.add_column(name, justify="right")
    for result in results:
        made.add_row(
            result.test,
            result.client,
            f"{result.messages:,}",
            str(result.threads),
            f"{result.throughput_per_s:,.0f}/s",
            in_ms(result.latency_ms.p50),
            in_ms(result.latency_ms.p99),
            ("FAILED " if result.verdict == "FAILED" else "") + f"{result.success_rate_pct:.2f} %",
            number_of(result.throughput_per_cpu_pct),
        )
    return made


def details(result: Result) -> list[str]:
    """Every figure of a result, as lines of text."""
    lines = [
        f"{result.verdict}: {result.messages_acknowledged:,} of {result.messages:,} "
        f"readings acknowledged ({result.success_rate_pct:.2f} %), {result.messages_sent:,} sent, "
        f"{result.messages_failed:,} failed; {_grown(result)}",
        f"{result.duration_s:,.2f} s, {result.throughput_per_s:,.1f} readings/s"
        + (f" of {result.rate_per_s:,.10g} asked for" if result.rate_per_s else ""),
        f"latency from {result.latency_from}{_sampled(result)}: {spread(result.latency_ms)}",
    ]
    if result.publish_delay_ms:
        lines.append(f"publish delay, handed over after it was due: {spread(result.publish_delay_ms)}")
    lines += [
        f"{_cpu(result)}; memory {result.memory_peak_mb:,.0f} MB at most",
        f"{result.client} {result.client_version}, {threads_of(result.threads)} in "
        f"{result.processes} process{'es' if result.processes > 1 else ''}, "
        f"acks={result.acks}, {result.batching}, {result.in_flight}",
    ]
    lines += through_the_system(result)
    for stage in result.stages:
        if not stage.is_timed:
            found = f"{stage.arrived:,} of {stage.expected:,}"
            lines.append(f"{stage.name}: {found}, {stage.lost:,} lost, {stage.doubled:,} too many")
            lines += [f"  {one}" for one in stage.which]
        elif stage.latency_ms.p50 is None:
            why = f"none of {stage.expected:,} arrived" if stage.expected else "the test was too short"
            lines.append(f"{stage.name}: not measured, {why}")
    if result.error:
        lines.append(f"error: {result.error}")
    return lines


def through_the_system(result: Result) -> list[str]:
    """What tests 8 and 9 found, as lines of text."""
    lines = []
    if result.test == "max-rate":
        if result.max_rate_per_s is None:
            lines.append("maximum rate: none, no rate held")
        else:
            how = "held in a longer run" if result.is_confirmed else "not confirmed by a longer run"
            lines.append(f"maximum rate: {result.max_rate_per_s:,.0f} readings/s, {how}")
        lines.append(f"what gave out first: {result.gave_out or 'nothing did'}")
        lines += [varied] if (varied := speed_varied(result.steps)) else []
    if result.test == "backlog" and result.drain_s is not None and result.drain_rate_per_s is not None:
        alerts = "not all stored" if result.drain_alerts_s is None else f"stored after {result.drain_alerts_s:,.1f} s"
        lines.append(
            f"backlog counted {result.drain_s:,.1f} s after Spark's query ran, "
            f"{result.drain_rate_per_s:,.0f} readings/s; alerts {alerts}"
        )
    if result.process_cpu:
        cpu = ", ".join(f"{one.role} {one.mean_cpu_pct:.0f} %" for one in result.process_cpu)
        lines.append(f"CPU of each process, in per cent of a core: {cpu}")
    return lines


def _cpu(result: Result) -> str:
    if result.cpu_pct is None:
        return "CPU not measured" + (", the test was too short" if result.duration_s < SHORTEST_S else "")
    machine = "" if result.machine_cpu_pct is None else f", machine {result.machine_cpu_pct:.0f} %"
    used = f"CPU {result.cpu_pct:.0f} % of a core{machine}"
    if result.throughput_per_cpu_pct is None:
        return f"{used}; readings/s per 1 % CPU not measured, the test used too little of it"
    return f"{used}; {result.throughput_per_cpu_pct:,.0f} readings/s per 1 % CPU"


def percent_of(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.0f} %"


def number_of(value: float | None) -> str:
    """A figure in words: one that could not be measured is said to be so."""
    return "not measured" if value is None else f"{value:,.0f}"


def _grown(result: Result) -> str:
    if result.topic_grew_by is None:
        return f"the growth of {result.topic} is unknown: Kafka did not answer"
    more = result.topic_grew_by - result.messages_sent
    others = f", {more:,} of them by others" if more > 0 else ""
    return f"{result.topic} grew by {result.topic_grew_by:,}{others}"


def _sampled(result: Result) -> str:
    which = [f"of 1 in {result.latency_of_one_in}"] if result.latency_of_one_in > 1 else []
    which += [f"without the first {result.warm_up_pct:.0f} %, the warm-up"] if result.warm_up_pct else []
    return f" ({', '.join(which)})" if which else ""


def best_of_sweep(results: Sequence[Result]) -> list[str]:
    """For each client, a line that names the fastest and the most efficient number of threads."""
    lines = []
    for client in dict.fromkeys(result.client for result in results):
        if of_client := [result for result in results if result.client == client and result.is_success]:
            best = max(of_client, key=lambda result: result.throughput_per_s)
            line = f"{client}: fastest with {threads_of(best.threads)} ({best.throughput_per_s:,.0f}/s)"
            if all(result.throughput_per_cpu_pct is not None for result in of_client):
                frugal = max(of_client, key=lambda result: result.throughput_per_cpu_pct or 0.0)
                line += f", most efficient with {threads_of(frugal.threads)}"
                line += f" ({number_of(frugal.throughput_per_cpu_pct)} readings/s per 1 % CPU)"
            lines.append(line)
    return lines


def steps_table(steps: Sequence[StepFigures]) -> Table:
    """A row for each step of a search."""
    made = Table(box=box.SIMPLE_HEAD, caption="p99 from the moment a reading was due; speed of the machine itself")
    for name in ("Step", "Rate"):
        made.add_column(name)
    for name in ("Sent", "Windows p99", "Alerts p99", "Waiting", "Machine", "Speed"):
        made.add_column(name, justify="right")
    made.add_column("Verdict")
    for step in steps:
        made.add_row(
            step.kind,
            f"{step.rate_per_s:,.0f}/s",
            f"{step.sent_per_s:,.0f}/s",
            in_ms(step.windows_ms.p99),
            in_ms(step.alerts_ms.p99),
            "-" if step.lag is None else f"{step.lag:,.0f}",
            "-" if step.machine_cpu_pct is None else f"{step.machine_cpu_pct:.0f} %",
            "-" if step.machine_speed_pct is None else f"{step.machine_speed_pct:.0f} %",
            "holds" if step.held else f"{step.gave_out}: {step.why}",
        )
    return made
