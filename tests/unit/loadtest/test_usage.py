"""CPU and memory of processes."""

from __future__ import annotations

import os
import time

from iot.loadtest.usage import Usage


def test_cpu_and_memory_of_this_process(eventually):
    begun_s = time.monotonic()
    usage = Usage([os.getpid()], begun_s)

    def works() -> bool:
        sum(range(3_000_000))
        usage.look(0, time.monotonic())
        return usage.cpu_s >= 0.1

    eventually(works)
    assert usage.cpu_s <= time.monotonic() - begun_s + 0.05
    assert usage.memory_peak_mb > 10
    assert usage.machine_cpu_pct is None or 0 <= usage.machine_cpu_pct <= 100
    assert all(a.at_s < b.at_s for a, b in zip(usage.samples, usage.samples[1:], strict=False))


def test_an_ended_process_keeps_the_cpu_time_it_used():
    usage = Usage([2**22 + 1], time.monotonic() - 1)
    usage.look(5, time.monotonic())
    assert usage.cpu_s == 0
    assert usage.samples[0].acknowledged == 5


def test_a_test_that_is_too_short_has_no_figure_of_its_cpu():
    usage = Usage([os.getpid()], time.monotonic())
    usage.look(1_000, time.monotonic())
    assert usage.cpu_pct(0.015) is None
    assert usage.per_cpu_pct(1_000) is None
    assert usage.machine_cpu_pct is None


def test_a_long_test_that_uses_little_cpu_has_a_share_but_no_rate_per_cpu():
    usage = Usage([os.getpid()], time.monotonic())
    usage.look(1_000, time.monotonic() + 60)
    assert usage.cpu_pct(60) == 0
    assert usage.per_cpu_pct(1_000) is None
