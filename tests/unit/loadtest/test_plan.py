"""The numbers of a test."""

from __future__ import annotations

import pytest

from iot.loadtest.end_to_end import EndToEndPlan
from iot.loadtest.plan import PRESETS, SAMPLE, Plan, make_plan


@pytest.mark.parametrize("test", PRESETS)
def test_a_preset_keeps_its_numbers_without_flags(test):
    plan = make_plan(test, "kafka-python")
    assert (plan.messages, plan.threads, plan.rate_per_s) == PRESETS[test]


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        ({"rate_per_s": 50.0}, 3_000),
        ({"duration_s": 3.0}, 300),
        ({"rate_per_s": 10_000.0, "duration_s": 30.0}, 300_000),
        ({"rate_per_s": 30.0, "duration_s": 0.1}, 3),
        ({"messages": 7}, 7),
    ],
)
def test_number_of_messages_of_a_paced_test(flags, messages):
    assert make_plan("sustained", "kafka-python", **flags).messages == messages


def test_load_follows_few_readings_even_at_a_fixed_rate():
    plan = Plan(test="max-rate", client="confluent-kafka", messages=100, threads=1, rate_per_s=5.0)
    assert plan.follows_every == 1
    load = Plan(test="max-rate", client="confluent-kafka", messages=100, threads=1, rate_per_s=5.0, is_load=True)
    assert load.follows_every == SAMPLE


@pytest.mark.parametrize(
    ("more", "waits_ms"),
    [
        ({}, 5),
        ({"rate_per_s": 100.0}, 0),
        ({"in_flight": 1}, 0),
        ({"in_flight": 10}, 5),
        ({"rate_per_s": 100.0, "gathers": True}, 5),
    ],
)
@pytest.mark.parametrize(("client", "name"), [("confluent-kafka", "linger.ms"), ("kafka-python", "linger_ms")])
def test_readings_gather_where_that_adds_no_latency_or_is_wanted(client, name, more, waits_ms):
    assert Plan(test="custom", client=client, messages=1, threads=1, **more).tuning[name] == waits_ms


def test_the_end_to_end_test_sends_as_the_producer_does():
    wanted = EndToEndPlan(dashboard_url="http://localhost:5000", topic="t", client="confluent-kafka", rate_per_s=100)
    assert wanted.plan.tuning["linger.ms"] == 5
