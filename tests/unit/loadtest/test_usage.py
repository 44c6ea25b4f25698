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
    assert 0 <= usage.machine_cpu_pct <= 100
    assert all(a.at_s < b.at_s for a, b in zip(usage.samples, usage.samples[1:], strict=False))


def test_an_ended_process_keeps_the_cpu_time_it_used():
    usage = Usage([2**22 + 1], time.monotonic() - 1)
    usage.look(5, time.monotonic())
    assert usage.cpu_s == 0
    assert usage.samples[0].acknowledged == 5
