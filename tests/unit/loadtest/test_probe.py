"""The latencies of followed readings, and what did not arrive."""

from __future__ import annotations

import json

import pytest

from iot.alerts import Alert, encode
from iot.loadtest.dashboard_client import DashboardClient
from iot.loadtest.follow import Arrivals, WindowsFollower, window_ends
from iot.loadtest.load import Load
from iot.loadtest.probe import RATE_PER_S, AlertsInKafka, Interval, Probe, ProbeStream, latencies_s
from iot.readings import format_timestamp
from iot.settings import Kafka

START_S = 1_000.0


def a_probe() -> Probe:
    """A probe whose readings are due but not sent."""
    kafka, dashboard = Kafka("localhost:1"), DashboardClient("http://localhost:1", None)
    made = Probe(dashboard, kafka, "readings", {})
    made._load = Load(int(RATE_PER_S * 120), RATE_PER_S, "run", made.location, START_S)
    return made


def test_what_has_not_arrived_is_as_late_as_it_is_now():
    arrivals = Arrivals()
    arrivals.add("a", 11.0)
    arrivals.add("b", 12.0)
    due = {"a": [10.0], "b": [10.5, 10.7], "c": [10.9]}
    moments_s, late_s = zip(*latencies_s(due.items(), arrivals, 15.0), strict=True)
    assert moments_s == (10.0, 10.5, 10.7, 10.9)
    assert late_s == pytest.approx((1.0, 1.5, 4.3, 4.1))


@pytest.mark.parametrize(("begin_s", "end_s"), [(0, 0.1), (3.0, 4.0), (3.001, 3.004), (119.9, 130), (200, 300)])
def test_the_readings_of_an_interval_are_those_that_were_due_in_it(begin_s, end_s):
    probe = a_probe()
    interval = Interval(START_S + begin_s, START_S + end_s)
    wanted = [n for n, due_s in enumerate(probe._load.due_s) if interval.begin_s <= due_s < interval.end_s]
    found = list(probe._numbers(interval))
    # A reading at the very edge may belong to either side.
    assert set(found) ^ set(wanted) <= {wanted[0], wanted[0] - 1, wanted[-1], wanted[-1] + 1} if wanted else not found


def test_windows_are_followed_for_the_readings_of_an_interval_only():
    probe = a_probe()
    load = probe._load

    probe.windows = WindowsFollower(probe._dashboard, probe.location, 0)
    for number, due_s in enumerate(load.due_s):
        late_s = 0.5 if due_s < START_S + 50 else 0.8
        for end_s in window_ends(load.times_us[number]):
            probe.windows.arrivals.add((end_s, load.sensor_type(number)), due_s + late_s)
    found = [late for _, late in probe.window_latencies_s(Interval(START_S + 60, START_S + 61), START_S + 200)]
    assert len(found) == pytest.approx(3 * RATE_PER_S, abs=6)
    assert found == pytest.approx([0.8] * len(found))
    mixed = [late for _, late in probe.window_latencies_s(Interval(START_S + 49, START_S + 51), START_S + 200)]
    assert sorted({round(late, 3) for late in mixed}) == [0.5, 0.8]


def test_alerts_count_only_if_they_are_about_the_probe():
    probe = a_probe()
    numbers = [n for n in range(2_000) if probe._load.breaks_rule(n)]
    kafka, stream = probe.alerts, probe.stream
    for number in numbers:
        key, at = probe._load.key(number)[0], format_timestamp(probe._load.times_us[number])
        about = Alert("t-0-1", "HIGH", key, "temperature", probe.location, 34.0, "celsius", 30.0, at)
        other = Alert("t-0-2", "HIGH", key, "temperature", "elsewhere", 34.0, "celsius", 30.0, at)
        for alert in (about, other):
            kafka._note(0, 0, encode(alert), probe._load.due_s[number] + 0.1)
            stream._note("alert", json.loads(encode(alert)), probe._load.due_s[number] + 0.2)
    interval = Interval(START_S, START_S + 10)
    assert probe.alerts_in_kafka(interval, START_S + 20).max == pytest.approx(100, rel=0.01)
    assert probe.alerts_on_stream(interval, START_S + 20).max == pytest.approx(200, rel=0.01)
    assert isinstance(kafka, AlertsInKafka)
    assert kafka.arrivals.count == len(numbers)


def test_the_time_between_results_is_the_median_of_their_gaps():
    probe = a_probe()
    stream = probe.stream
    assert isinstance(stream, ProbeStream)
    for at_s, messages in ((0.0, 5), (1.0, 9), (1.5, 9), (2.1, 12), (3.1, 20), (3.2, 21)):
        stream._note("metrics", {"total_messages": messages, "rejected_messages": 1}, START_S + at_s)
    assert probe.batch_s(Interval(START_S, START_S + 10)) == pytest.approx(1.0)
    assert probe.batch_s(Interval(START_S + 5, START_S + 10)) is None
