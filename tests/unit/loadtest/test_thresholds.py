"""Which figures keep a threshold and which cross it."""

from __future__ import annotations

import pytest

from iot.loadtest.thresholds import check, threshold
from tests.support.load_results import make_result


@pytest.mark.parametrize(
    ("expression", "ok"),
    [
        ("p99<10", False),
        ("p99<=10", True),
        ("p99.9<21", True),
        ("mean==5", True),
        ("max>30", False),
        ("p50!=4", False),
        ("throughput_per_s>=2_000", True),
        ("success_rate_pct>99.9", True),
        ("cpu_pct<5e1", False),
    ],
)
def test_a_figure_is_compared_with_the_bound(expression, ok):
    (outcome,) = check([threshold(expression)], [make_result()])
    assert outcome.ok == ok
    assert ("kept" if ok else "CROSSED") in str(outcome)


def test_a_figure_that_was_not_measured_crosses_its_threshold():
    (outcome,) = check([threshold("cpu_pct<50")], [make_result(cpu_pct=None)])
    assert (outcome.ok, outcome.value) == (False, None)
    assert "not measured" in str(outcome)


def test_a_threshold_counts_for_each_test_that_has_its_figure():
    tests = [make_result(), make_result(test="max-rate", max_rate_per_s=50_000.0), make_result(threads=2)]
    assert [outcome.threads for outcome in check([threshold("p99<10")], tests)] == [4, 4, 2]
    (outcome,) = check([threshold("max_rate_per_s>40000")], tests)
    assert (outcome.test, outcome.value, outcome.ok) == ("max-rate", 50_000.0, True)


def test_a_threshold_without_a_test_is_crossed():
    (outcome,) = check([threshold("drain_s<10")], [make_result()])
    assert not outcome.ok
    assert str(outcome) == "threshold drain_s<10 CROSSED: not measured in backlog"
