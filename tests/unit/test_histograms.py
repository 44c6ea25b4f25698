"""Histograms count as Prometheus expects."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.histograms import Histogram


def test_a_value_counts_below_its_bound_and_in_all_greater_ones():
    histogram = Histogram.of((0.1, 1.0, 10.0))
    for value in (0.05, 0.1, 0.5, 11.0, -3.0):
        histogram.add(value)
    assert histogram.cumulative() == [("0.1", 3), ("1.0", 4), ("10.0", 4), ("+Inf", 5)]
    # A negative value counts as 0.
    assert histogram.total == pytest.approx(11.65)
    assert msgspec.json.decode(msgspec.json.encode(histogram), type=Histogram) == histogram


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=5, unique=True).map(sorted),
    st.lists(st.floats(0, 2e6), max_size=20),
)
def test_each_bound_has_the_number_of_values_up_to_it(bounds, values):
    histogram = Histogram.of(bounds)
    for value in values:
        histogram.add(value)
    *found, (last, total) = histogram.cumulative()
    assert [(float(le), count) for le, count in found] == [(le, sum(value <= le for value in values)) for le in bounds]
    assert (last, total) == ("+Inf", len(values))
