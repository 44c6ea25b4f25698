"""The comparison with Kafka's own tool and the course's method."""

from __future__ import annotations

from iot.loadtest import versus
from iot.loadtest.versus import Contender, messages_of
from tests.support.load_results import make_result


def contender(name: str, rates: list[float], seconds: float = 4.0) -> Contender:
    made = Contender(name, 1, 10, 10, lambda count, topic: make_result(), 100)
    made.results = [make_result(throughput_per_s=rate, duration_s=seconds) for rate in rates]
    return made


def test_ratios_use_medians_and_skip_short_runs():
    runs = [contender("tool", [100, 900, 200]), contender("course", [10, 10, 50]), contender("short", [400] * 3, 2.9)]
    tool, course, short = versus.ratios(runs)
    assert (tool.throughput_per_s, tool.times_kafka_tool, tool.times_course) == (200, 1, 20)
    assert (course.times_kafka_tool, course.times_course) == (0.05, 1)
    assert (short.times_kafka_tool, short.times_course) == (None, None)
    assert runs[0].median.throughput_per_s == 200


def test_number_of_messages_after_the_warm_up():
    assert messages_of(7_501, 1_000, 1_000) == 8_000
    assert messages_of(500_000, 3_000_000, 300_000) == 3_000_000
