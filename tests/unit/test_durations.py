"""Durations as people write them."""

from __future__ import annotations

import pytest

from iot.durations import seconds


@pytest.mark.parametrize(
    ("text", "found_s"),
    [
        ("0s", 0),
        ("3s", 3),
        ("500ms", 0.5),
        ("5m", 300),
        ("1.5h", 5_400),
        ("1h30m", 5_400),
        ("1w2d3h4m5s6ms", 788_645.006),
        (" 24h ", 86_400),
        ("36500d", 36_500 * 86_400),
    ],
)
def test_seconds_of_a_duration(text, found_s):
    assert seconds(text) == pytest.approx(found_s)


@pytest.mark.parametrize(
    "text", ["", " ", "5", "s", "-3s", "1m1h", "1s1s", "5 m", "5M", "1e3s", ".5s", "٣s", "36501d", "9" * 5_000 + "s"]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=r"is not a duration|is longer than 36500d"):
        seconds(text)
