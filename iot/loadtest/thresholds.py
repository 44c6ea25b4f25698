"""Thresholds, in the manner of k6: ``--threshold 'p99<500'`` fails a run whose figure crosses the bound.

Latencies are in milliseconds. A threshold counts for every test of the run that has its figure.
"""

from __future__ import annotations

import argparse
import operator
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from iot.loadtest.results import Result, ThresholdOutcome

# The status with which k6 exits, too.
EXIT_STATUS = 99
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
LATENCIES = ("mean", "p50", "p95", "p99", "p99_9", "max")
FIGURES = (
    "throughput_per_s",
    "success_rate_pct",
    "cpu_pct",
    "machine_cpu_pct",
    "throughput_per_cpu_pct",
    "memory_peak_mb",
    "duration_s",
    "max_rate_per_s",
    "drain_s",
    "drain_rate_per_s",
)
METRICS = (*LATENCIES, *FIGURES)
# Figures that only one test has.
ONLY_OF = {"max_rate_per_s": "max-rate", "drain_s": "backlog", "drain_rate_per_s": "backlog"}

_NUMBER = r"[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_EXPRESSION = re.compile(rf"\s*([A-Za-z_][\w.]*)\s*(<=|>=|==|!=|<|>)\s*({_NUMBER})\s*")


class Threshold(NamedTuple):
    """One bound of the command line."""

    metric: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.operator}{self.bound:.10g}"

    def is_kept_by(self, value: float) -> bool:
        return OPERATORS[self.operator](value, self.bound)


def threshold(text: str) -> Threshold:
    """argparse type: an expression such as ``p99<500``."""
    if not (found := _EXPRESSION.fullmatch(text)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no threshold: write a figure, one of {' '.join(OPERATORS)}, and a number, such as p99<500"
        )
    metric, sign, bound = found.groups()
    metric = metric.replace("p99.9", "p99_9")
    if metric not in METRICS:
        raise argparse.ArgumentTypeError(f"no figure is named {metric!r}: choose one of {', '.join(METRICS)}")
    return Threshold(metric, sign, float(bound))


def check(thresholds: Sequence[Threshold], tests: Sequence[Result]) -> list[ThresholdOutcome]:
    """Compare each threshold with each test that should have its figure.

    A threshold for which no test has run is crossed too: a gate that checks nothing must not open.
    """
    outcomes = []
    for one in thresholds:
        only = ONLY_OF.get(one.metric)
        of = [test for test in tests if only is None or test.test == only]
        for test in of:
            value = getattr(test.latency_ms if one.metric in LATENCIES else test, one.metric)
            ok = value is not None and one.is_kept_by(value)
            outcomes.append(ThresholdOutcome(str(one), test.test, test.client, test.threads, value, ok))
        if not of:
            outcomes.append(ThresholdOutcome(str(one), only or "no test", "", 0, None, False))
    return outcomes
