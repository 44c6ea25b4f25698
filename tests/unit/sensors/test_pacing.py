"""When sends are due, their wall clock time, and percentiles of their delays."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from iot.sensors.pacing import Delays, Schedule, WallClock


class Clock:
    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("after_s", "due"), [(-1, 0), (-0.001, 0), (0, 1), (0.249, 1), (0.25, 2), (1, 5), (1_000_000, 4_000_001)]
)
def test_sends_are_due_at_start_plus_n_over_rate(after_s, due):
    clock = Clock(100 + after_s)
    assert Schedule(4, 100, clock).due_by_now() == due
    assert Schedule(4, 100, clock).due_s(np.array([0, 1, 8])).tolist() == [100, 100.25, 102]


@pytest.mark.parametrize("rate", [3, 0.7, 1234.5, 1e7])
def test_due_by_now_agrees_with_due_s(rate):
    clock = Clock(0)
    schedule = Schedule(rate, 50, clock)
    for number in (0, 1, 17, 100_003):
        due_s = float(schedule.due_s(np.array([number]))[0])
        clock.now_s = due_s + 1e-9
        assert schedule.due_by_now() >= number + 1
        clock.now_s = due_s - 0.01 / rate
        assert schedule.due_by_now() <= number


class Stop(threading.Event):
    """An event that records the timeout of ``wait``."""

    waited_s = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s = timeout or 0.0
        return False


@pytest.mark.parametrize(("number", "waited_s"), [(0, 0.005), (4, 1.0), (400, 10.0), (10**300, 10.0)])
def test_waiting_for_a_send_keeps_within_the_limits(number, waited_s):
    stop = Stop()
    Schedule(4, 100, Clock(100)).wait_for(number, 0.005, 10, stop)
    assert stop.waited_s == waited_s


def test_the_wall_clock_is_steady_and_follows_a_jump():
    monotonic, wall = Clock(10), Clock(1_000_000_000)
    clock = WallClock(monotonic, wall)
    assert clock.time_us(np.array([10, 11.5])).tolist() == [1_000_000_000_000_000, 1_000_000_001_500_000]
    # Small differences are noise: the two clocks are read one after the other.
    wall.now_s += 0.01
    assert clock.time_us(np.array([10.0])).tolist() == [1_000_000_000_000_000]
    # The machine slept for an hour, and the monotonic clock stood still.
    wall.now_s += 3600
    assert clock.time_us(np.array([10.0])).tolist() == [1_000_003_600_010_000]


def test_percentiles_are_exact_to_two_percent():
    delays = Delays()
    assert (delays.percentile_s(50), delays.max_s) == (0, 0)
    samples = np.random.default_rng(1).lognormal(-6, 2, 10_000)
    for part in np.split(samples, 10):
        delays.add(part)
    for percent in (1, 50, 99, 99.9):
        assert delays.percentile_s(percent) == pytest.approx(np.percentile(samples, percent), rel=0.03)
    assert delays.percentile_s(100) == pytest.approx(samples.max(), rel=0.02)
    assert delays.max_s == samples.max()


@pytest.mark.parametrize("delay_s", [0, -1e-9, 1e-9, 5e-3, 1e9])
def test_every_delay_has_a_bucket(delay_s):
    delays = Delays()
    delays.add(np.array([delay_s]))
    assert 0 <= delays.percentile_s(50) <= max(delay_s, 1e-5)


def test_delays_of_several_threads_add_up():
    delays = Delays()

    def add() -> None:
        for _ in range(200):
            delays.add(np.full(10, 0.1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert delays._counts.sum() == 8_000


def test_the_wall_clock_agrees_with_the_system_clock():
    now_us = WallClock().time_us(np.array([time.monotonic()]))[0]
    assert abs(now_us - time.time_ns() // 1000) < 1_000_000
