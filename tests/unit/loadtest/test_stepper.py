"""When a system that has just started is warm."""

from __future__ import annotations

import pytest

from iot.loadtest.stepper import gets_faster


@pytest.mark.parametrize(
    ("medians_s", "expected"),
    [
        ([], True),
        ([2.0], True),
        ([6.0, 3.0, 1.5], True),
        ([6.0, 3.0, 2.9], False),
        ([1.0, 1.0], False),
        # A pause of the machine is not the end of it, but the system was as fast before.
        ([3.0, 1.0, 2.0], False),
    ],
)
def test_a_system_is_warm_when_it_no_longer_gets_faster(medians_s, expected):
    assert gets_faster(medians_s) is expected
