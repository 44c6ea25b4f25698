"""One step of a search: its figures, whether the system took the rate, and what gave out first if not.

The parts are asked in the order in which a reading passes them. A part that is late makes all later ones late, so the
first late one is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from iot.loadtest.latency import Curve, Milliseconds, in_ms

# Minimum share of the rate that must have been sent.
SENT = 0.98
# Maximum p99 of an alert.
ALERTS_P99_MS = 500.0
# A figure beyond its target by this factor need not be measured a second time.
DECISIVE = 2.0
# How many seconds of input may wait before a step is given up.
HOPELESS_LAG_S = 10.0
# A part is named if it takes at least this share of the time that is too long.
LARGE_SHARE = 0.5
# By how many per cent of its speed in the first step a machine may change without a remark.
SAME_SPEED_PCT = 10.0


class StepFigures(msgspec.Struct, kw_only=True):
    """What one step of a search measured. A figure that could not be measured is None. CPU is in per cent of a core."""

    kind: str
    """Why this rate was tried, as ``search.Kind``."""
    rate_per_s: float
    """What the step asked for."""
    sent_per_s: float
    """What Kafka acknowledged."""
    measured_s: float
    acknowledged_ms: Milliseconds
    windows_ms: Milliseconds
    windows_curve: Curve = []
    alerts_ms: Milliseconds
    """Of alerts on the event stream."""
    alerts_in_kafka_ms: Milliseconds
    page_ms: Milliseconds
    """How long the page took to answer."""
    lag: float | None = None
    """Messages that waited, on average."""
    lag_growth_per_s: float | None = None
    lag_grows: bool = False
    is_hopeless: bool = False
    """Whether it was given up because too much waited."""
    batch_s: float | None = None
    """Median time from one batch's results to the next."""
    spark_s: float | None = None
    """Median time in which Spark computes a batch."""
    database_s: float | None = None
    """Median time in which the results of a batch are written."""
    cpu_pct: dict[str, float] = {}
    """By process, as far as they run on this machine."""
    machine_cpu_pct: float | None = None
    machine_speed_pct: float | None = None
    """How fast the machine itself was; 100 is its speed in the first step."""
    held: bool = False
    gave_out: str = ""
    """What gave out first; empty if the step held."""
    why: str = ""
    """The figure that shows it."""


class Verdict(NamedTuple):
    """Whether a step held. ``part`` gave out first, as ``why`` shows; a ``decisive`` failure need not be repeated."""

    held: bool
    decisive: bool = False
    part: str = ""
    why: str = ""


def judge(step: StepFigures, target_p99_ms: float) -> Verdict:
    """Whether the system took the rate of a step, and if not, what gave out first."""
    windows, alerts = step.windows_ms.p99, step.alerts_ms.p99
    is_sent = step.sent_per_s >= SENT * step.rate_per_s
    too_late = [
        over for over in (_beyond(windows, target_p99_ms), _beyond(alerts, ALERTS_P99_MS)) if over is None or over > 1
    ]
    if is_sent and not too_late and not step.lag_grows and not step.is_hopeless:
        return Verdict(True)
    decisive = step.is_hopeless or any(over is None or over > DECISIVE for over in too_late)
    part, why = _first_part(step, target_p99_ms, is_sent)
    return Verdict(False, decisive, part, why + _busy(step))


def _beyond(value_ms: float | None, target_ms: float) -> float | None:
    """A latency as a multiple of its target; None if nothing arrived."""
    return None if value_ms is None else value_ms / target_ms


def _first_part(step: StepFigures, target_p99_ms: float, is_sent: bool) -> tuple[str, str]:
    windows, alerts = step.windows_ms.p99, step.alerts_ms.p99
    acknowledged, in_kafka, page = step.acknowledged_ms.p99, step.alerts_in_kafka_ms.p99, step.page_ms.p99
    is_windows_late = windows is None or windows > target_p99_ms
    # What an early part may take before it, and not a later one, makes the result late.
    budget_ms = LARGE_SHARE * (target_p99_ms if is_windows_late or not is_sent or step.lag_grows else ALERTS_P99_MS)
    if acknowledged is not None and acknowledged > budget_ms:
        return "the broker", f"acknowledgements took p99 {in_ms(acknowledged)}"
    if not is_sent:
        return "the producer", f"it sent {step.sent_per_s:,.0f} of {step.rate_per_s:,.0f} readings/s"
    if is_windows_late or step.lag_grows or step.is_hopeless:
        if page is not None and page > budget_ms and not (step.lag_grows or step.is_hopeless):
            return "the page", f"it answered in p99 {in_ms(page)}"
        return _spark_or_database(step)
    if in_kafka is not None and in_kafka <= ALERTS_P99_MS and alerts is not None:
        return "the page", f"alerts were in Kafka in p99 {in_ms(in_kafka)}, on the event stream in p99 {in_ms(alerts)}"
    return "Spark's alerts query", f"alerts took p99 {in_ms(in_kafka if in_kafka is not None else alerts)}"


def _spark_or_database(step: StepFigures) -> tuple[str, str]:
    windows = f"windows came in p99 {in_ms(step.windows_ms.p99)}" if step.windows_ms.p99 else "no window came in time"
    if step.lag_grows and step.lag_growth_per_s is not None:
        windows += f", and lag grew by {step.lag_growth_per_s:,.0f}/s"
    if step.spark_s is None or step.database_s is None:
        batch = "" if step.batch_s is None else f"; results came every {step.batch_s:.2g} s"
        return "Spark's batch or the database", f"{windows}{batch}; Spark's UI does not tell them apart"
    split = f"{windows}; a batch took Spark {step.spark_s:.2g} s and the database {step.database_s:.2g} s"
    return "Spark's batch" if step.spark_s >= step.database_s else "the database", split


def speed_varied(steps: Sequence[StepFigures]) -> str:
    """A sentence about the machine's own speed, if it changed by more than ``SAME_SPEED_PCT``; otherwise empty."""
    speeds = [step.machine_speed_pct for step in steps if step.machine_speed_pct is not None]
    if not speeds or max(speeds) - min(speeds) <= SAME_SPEED_PCT:
        return ""
    return (
        f"the machine itself did not keep its speed: {min(speeds):.0f} to {max(speeds):.0f} % of that in the first "
        "step; the maximum rate is no more exact than that"
    )


def _busy(step: StepFigures) -> str:
    """The processes that had the machine, if it had nothing left."""
    if step.machine_cpu_pct is None or step.machine_cpu_pct < 90:
        return ""
    most = sorted(step.cpu_pct.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{role} {pct:.0f} %" for role, pct in most)
    return f"; the machine was {step.machine_cpu_pct:.0f} % busy" + (f" ({shares} of a core)" if shares else "")
