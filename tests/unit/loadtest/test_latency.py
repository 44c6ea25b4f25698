"""Histograms of latencies."""

from __future__ import annotations

import random

import numpy as np
import pytest

from iot.loadtest import latency
from iot.loadtest.latency import Latencies, Milliseconds, over_time


def test_percentiles_are_those_of_the_sorted_values():
    chance = random.Random(1)
    values_s = [chance.lognormvariate(-6, 1.5) for _ in range(20_000)]
    latencies = Latencies()
    for begin in range(0, len(values_s), 999):
        latencies.add(values_s[begin : begin + 999])
    measured = latencies.milliseconds()
    for name, percent in {"p50": 50, "p95": 95, "p99": 99, "p99_9": 99.9, "max": 100}.items():
        true_ms = 1000 * float(np.percentile(values_s, percent, method="inverted_cdf"))
        assert getattr(measured, name) == pytest.approx(true_ms, rel=0.01, abs=0.001), name
    assert measured.mean == pytest.approx(1000 * np.mean(values_s), rel=0.002)


def test_histograms_of_several_processes_add_up():
    both, parts = Latencies(), [Latencies(), Latencies()]
    for number, part in enumerate(parts):
        part.add([0.001 + 0.01 * number] * 50)
        both.add_encoded(part.encode())
    assert both.count == 100
    assert both.milliseconds().p50 == pytest.approx(1.0, rel=0.002)
    assert both.milliseconds().max == pytest.approx(11.0, rel=0.002)


@pytest.mark.parametrize("microseconds", [1, 2, 1023, 1024, 2047, 2048, 2049, 4095, 4096, 123_457, 3_599_999_999])
def test_each_value_is_exact_to_a_thousandth(microseconds):
    latencies = Latencies()
    latencies.add([microseconds / 1e6])
    measured = latencies.milliseconds()
    for value in (measured.mean, measured.p50, measured.max):
        assert value == pytest.approx(microseconds / 1000, rel=0.001)


@pytest.mark.parametrize(("latency_s", "expected_ms"), [(-1.0, 0.001), (0.0, 0.001), (1e9, 3_600_000)])
def test_a_latency_outside_counts_as_the_nearest(latency_s, expected_ms):
    latencies = Latencies()
    latencies.add([latency_s])
    assert latencies.count == 1
    assert latencies.milliseconds().max == pytest.approx(expected_ms, rel=0.001)


def test_percentiles_are_ranks():
    latencies = Latencies()
    latencies.add([0.001] * 95 + [0.002] * 5)
    measured = latencies.milliseconds()
    assert (measured.p50, measured.p95, measured.p99, measured.max) == (1.0, 1.0, 2.0, 2.0)


def test_an_empty_histogram_has_no_percentiles():
    empty = Latencies()
    empty.add([])
    assert empty.milliseconds() == Milliseconds()
    assert latency.spread(empty.milliseconds()).count("-") == 6


def test_the_curve_rises_through_the_percentiles_to_the_longest_latency():
    latencies = Latencies()
    latencies.add([0.001 * number for number in range(1, 1_025)])
    curve = latencies.curve()
    assert [point[0] for point in curve] == sorted({point[0] for point in curve})
    assert [point[1] for point in curve] == sorted(point[1] for point in curve)
    assert list(curve[0]) == pytest.approx([1.0, 1.0], rel=0.002)
    assert dict(curve)[2.0] == latencies.milliseconds().p50
    assert curve[-1] == (1_024.0, latencies.milliseconds().max)
    assert Latencies().curve() == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_latencies_have_a_curve_too(count):
    latencies = Latencies()
    latencies.add([0.005] * count)
    assert {in_ms for _, in_ms in latencies.curve()} == {latencies.milliseconds().max}


def test_latencies_over_time_are_grouped_by_when_they_began():
    samples = over_time([(100.1, 0.010), (100.3, 0.030), (101.2, 0.500)], 100.0)
    assert [sample.at_s for sample in samples] == [0.5, 1.5]
    assert (samples[0].p50, samples[0].max) == pytest.approx((10, 30), rel=0.002)
    assert samples[1].p99 == pytest.approx(500, rel=0.002)
    assert over_time([], 100.0) == []
    many = over_time([(float(second), 0.1) for second in range(1_000)], 0.0)
    assert 100 <= len(many) <= 121
