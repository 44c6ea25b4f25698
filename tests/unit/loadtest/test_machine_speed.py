"""The machine's own speed, relative to its first figure."""

from __future__ import annotations

from itertools import accumulate

import pytest

from iot.loadtest.machine_speed import EVERY_S, MachineSpeed


def speed_of(took_s: list[float]) -> MachineSpeed:
    """Measures a machine on which the work takes so long, time after time. Between the works the clock stands still."""
    ends_s = accumulate(took_s)
    moments = iter([moment for end, took in zip(ends_s, took_s, strict=True) for moment in (end - took, end)])
    return MachineSpeed(moments.__next__)


def test_the_speed_is_relative_to_the_first_figure():
    speed = speed_of([0.004, 0.004, 0.004, 0.005, 0.005, 0.002])
    for second in range(3):
        speed.look_if_due(second)
    assert speed.pct_since(0) == 100
    speed.look_if_due(3)
    speed.look_if_due(4)
    assert speed.pct_since(3) == pytest.approx(80)
    speed.look_if_due(5)
    assert speed.pct_since(5) == pytest.approx(200)


def test_one_slow_moment_is_not_the_speed():
    speed = speed_of([0.004, 0.004, 0.090, 0.004, 0.004])
    for second in range(5):
        speed.look_if_due(second)
        if second == 1:
            assert speed.pct_since(0) == 100
    assert speed.pct_since(2) == pytest.approx(100)


def test_it_works_at_most_once_in_a_while():
    speed = speed_of([0.004])
    speed.look_if_due(0)
    speed.look_if_due(EVERY_S - 0.1)
    assert speed.pct_since(0) == 100


def test_without_work_since_a_moment_the_speed_is_unknown():
    speed = speed_of([0.004])
    assert speed.pct_since(0) is None
    speed.look_if_due(0)
    assert speed.pct_since(1) is None


def test_the_work_takes_time_on_the_real_clock():
    speed = MachineSpeed()
    speed.look_if_due(0)
    assert speed.pct_since(0) == 100
