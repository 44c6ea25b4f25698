"""How a trial splits its threads into processes."""

from __future__ import annotations

import pytest

from iot.loadtest.trial import share_out


@pytest.mark.parametrize(
    ("threads", "cores", "shares"),
    [
        (1, 64, [[0]]),
        (4, 1, [[0, 1, 2, 3]]),
        (4, 2, [[0, 1, 2, 3]]),
        (5, 3, [[0, 2, 4], [1, 3]]),
        (3, 8, [[0], [1], [2]]),
    ],
)
def test_threads_are_split_into_one_process_per_core_except_one(threads, cores, shares):
    assert share_out(threads, cores) == shares
