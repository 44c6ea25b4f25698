"""When a system that has just started is warm."""

from __future__ import annotations

import pytest

from iot.loadtest.stepper import is_warm


@pytest.mark.parametrize(
    ("medians_s", "expected"),
    [
        ([], False),
        ([1.0, 1.0], False),
        ([1.0, 1.0, 1.0], True),
        ([6.0, 3.0, 1.5], False),
        ([6.0, 1.5, 1.4, 1.4], True),
        # What it missed while it started comes first.
        ([2.0, 4.0, 5.0], False),
        ([2.0, 4.0, 5.0, 3.0, 1.9, 1.0], False),
        ([2.0, 4.0, 5.0, 3.0, 1.9, 1.0, 1.1, 0.9], True),
    ],
)
def test_a_system_is_warm_when_it_is_in_time_and_no_longer_gets_faster(medians_s, expected):
    assert is_warm(medians_s, 2.0) is expected
