"""The CPU of the processes of the system."""

from __future__ import annotations

import sys
import time

import pytest

from iot.loadtest.process_cpu import GENERATOR, Moment, ProcessCpu
from iot.loadtest.usage import SHORTEST_S
from tests.support.scripts import started

BUSY = "import time\nwhile True: sum(range(10_000))"


def test_a_process_counts_from_its_start_and_keeps_its_time_after_its_end(eventually):
    processes = ProcessCpu("broker.example:9092", "http://dashboard.example:5000", [], time.monotonic())
    assert processes.usages() == []
    with started([sys.executable, "-c", BUSY]) as child:
        processes.generators.add(child.pid)
        eventually(lambda: processes.look(time.monotonic()).cpu_s.get(GENERATOR, 0.0) >= 0.1)
    # Long enough after the beginning for a usage.
    ended = processes.look(time.monotonic() + 10 * SHORTEST_S).cpu_s[GENERATOR]
    assert ended >= 0.1
    (usage,) = processes.usages()
    assert (usage.role, len(usage.at_s)) == (GENERATOR, len(usage.cpu_pct))
    assert usage.mean_cpu_pct > 0


def test_cpu_between_two_moments_is_in_per_cent_of_a_core():
    before, after = Moment(10.0, {"JVM": 5.0}), Moment(12.0, {"JVM": 8.0, "workers": 1.0})
    assert after.cpu_pct_since(before) == pytest.approx({"JVM": 150.0, "workers": 50.0})
