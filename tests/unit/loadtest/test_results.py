"""When a test succeeds, what is written, and what a regression is."""

from __future__ import annotations

import json

import msgspec
import pytest

from iot.loadtest import details, results
from iot.loadtest.earlier import Earlier, read_earlier, regressions
from iot.loadtest.latency import Milliseconds
from iot.loadtest.results import Report, Stage
from iot.settings import UserError
from tests.support.load_results import make_result


@pytest.mark.parametrize(
    ("changes", "is_success"),
    [
        ({}, True),
        ({"topic_grew_by": 1_500}, True),
        ({"topic_grew_by": 999}, False),
        ({"topic_grew_by": None}, False),
        ({"messages_acknowledged": 999}, False),
        ({"error": "stopped"}, False),
        ({"stages": [Stage(name="a", expected=1, arrived=2, lost=0, doubled=1, latency_ms=Milliseconds())]}, False),
    ],
)
def test_a_test_succeeds_if_all_readings_are_acknowledged_and_in_the_topic(changes, is_success):
    made = make_result(**changes)
    assert made.is_success == is_success
    assert details.details(made)[0].startswith("success" if is_success else "FAILED")


def test_a_stage_without_a_latency_is_said_to_be_not_measured():
    none, some = Milliseconds(), Milliseconds(5, 4, 8, 10, 20, 30)
    stages = [
        Stage(name=name, expected=expected, arrived=0, lost=expected, doubled=0, latency_ms=latency)
        for name, expected, latency in (("alert", 3, some), ("alarm", 3, none), ("event", 0, none))
    ]
    said = [line for line in details.details(make_result(stages=stages)) if "not measured" in line]
    assert said == ["alarm: not measured, none of 3 arrived", "event: not measured, the test was too short"]


def test_the_output_has_every_field_of_the_contract():
    report = Report(environment=results.environment("iot-sensors", "localhost:9092"), tests=[make_result()])
    written = json.loads(results.encode(report))
    assert written["environment"]["cores"] >= 1
    (test,) = written["tests"]
    promised = "test client threads messages_sent messages_acknowledged messages_failed success_rate_pct duration_s"
    promised += " throughput_per_s latency_ms cpu_pct throughput_per_cpu_pct memory_peak_mb"
    assert set(promised.split()) <= test.keys()
    assert set(test["latency_ms"]) == {"mean", "p50", "p95", "p99", "p99_9", "max"}


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({}, 0),
        ({"throughput_per_s": 1_801.0}, 0),
        ({"throughput_per_s": 1_799.0}, 1),
        ({"throughput_per_s": 9_000.0}, 0),
        ({"success_rate_pct": 99.9}, 1),
        ({"latency_ms": Milliseconds(50, 40, 80, 100, 200, 300)}, 0),
        ({"rate_per_s": 100.0, "latency_ms": Milliseconds(5, 4, 8, 10.9, 20, 30)}, 0),
        ({"rate_per_s": 100.0, "latency_ms": Milliseconds(5, 4, 8, 11.1, 20, 30)}, 1),
    ],
)
def test_a_regression_is_worse_by_more_than_the_margin(now, found):
    old = make_result(rate_per_s=now.get("rate_per_s"))
    earlier = msgspec.json.decode(results.encode(Report(environment={}, tests=[old])), type=Earlier)
    lines, compared = regressions(earlier, [make_result(**now)], 0.1)
    assert (len(lines), compared) == (found, 1)


@pytest.mark.parametrize(
    ("test", "figure", "said"),
    [("max-rate", "max_rate_per_s", "maximum rate"), ("backlog", "drain_rate_per_s", "drain rate")],
)
def test_a_lower_rate_through_the_system_is_a_regression(test, figure, said):
    old = make_result(test=test, rate_per_s=40_000.0, **{figure: 40_000.0})
    earlier = msgspec.json.decode(results.encode(Report(environment={}, tests=[old])), type=Earlier)
    rate_per_s = 30_000.0 if test == "max-rate" else 40_000.0
    (line,), compared = regressions(earlier, [make_result(test=test, rate_per_s=rate_per_s, **{figure: 30_000.0})], 0.1)
    assert f"{said} 30,000/s, 25 % less than 40,000/s" in line
    assert compared == 1


def test_a_test_missing_from_the_earlier_run_is_not_compared():
    earlier = msgspec.json.decode(results.encode(Report(environment={}, tests=[make_result()])), type=Earlier)
    assert regressions(earlier, [make_result(threads=5), make_result(client="x"), make_result(test="y")], 0.1) == (
        [],
        0,
    )


@pytest.mark.parametrize(
    "content", [None, b"", b"[]", b'{"tests": [{"test": 1}]}', b'{"tests": []}', b"\xff\xfe", b"<html>"]
)
def test_an_unreadable_earlier_run_is_named_in_the_error(content, tmp_path):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"old\.json"):
        read_earlier(path)
