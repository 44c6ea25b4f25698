"""A broker whose clock is wrong is found by the timestamps of readings that cannot have waited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.alarms.clocks import LOOKS_MS, MAX_DIFFERENCE_MS, BrokerClocks
from iot.batches import Latest


def reading(offset: int, heard_ms: int, partition: int = 0, first_ms: int | None = None) -> Latest:
    name = f"s{partition}-{offset}"
    first_ms = heard_ms if first_ms is None else first_ms
    return Latest(0, offset, partition, name, "temperature", "hall", 20.0, "celsius", heard_ms, first_ms)


@given(
    st.integers(-20_000, 20_000),
    st.lists(st.tuples(st.integers(0, 3_000), st.sampled_from(["look", "send", "send", "read"])), max_size=60),
)
def test_a_clock_is_distrusted_only_if_it_differs_and_soon_if_it_does(ahead_ms, course):
    """Sensors send, batches read what is there, and looks see the end, in any order."""
    clocks, now_ms, end = BrokerClocks(), 1_000_000, 0
    waiting, looked_ms, sent_after_look = [], None, False
    for pause_ms, what in course:
        now_ms += pause_ms
        if what == "look":
            clocks.look(now_ms, {0: end})
            looked_ms, sent_after_look = now_ms, False
        elif what == "send":
            waiting.append(reading(end, now_ms + ahead_ms))
            end += 1
            sent_after_look = looked_ms is not None
        else:
            clocks.compare(waiting, now_ms)
            if waiting and sent_after_look:
                # What was read arrived between the look and now.
                slack_ms = now_ms - looked_ms
                if abs(ahead_ms) > MAX_DIFFERENCE_MS + slack_ms:
                    assert clocks.ahead_ms.keys() == {0}
            waiting = []
        if abs(ahead_ms) <= MAX_DIFFERENCE_MS:
            assert clocks.problem() is None
        for found_ms in clocks.ahead_ms.values():
            # It is not said to be worse than it is, nor on the other side.
            assert found_ms * ahead_ms > 0
            assert abs(found_ms) <= abs(ahead_ms)


def test_the_line_names_the_clock_and_the_partitions():
    clocks = BrokerClocks()
    clocks.look(0, {0: 5, 1: 5, 2: 5})
    clocks.compare([reading(5, -600_000), reading(5, -590_000, 2), reading(5, 500, 1)], 1_000)
    assert clocks.ahead_ms == {0: -600_000, 2: -590_000}
    assert clocks.problem() == (
        "the clock of the Kafka broker with partition 0 is 600 s behind this machine's: set both by NTP; until then no "
        "sensor in partition 0, 2 counts as silent"
    )
    clocks.compare([reading(6, 1_500)], 2_000)
    assert clocks.ahead_ms.keys() == {2}
    clocks.compare([reading(6, 90_000, 2)], 2_000)
    assert "is 88 s ahead of this machine's" in (clocks.problem() or "")


@pytest.mark.parametrize("at_ms", [100_000, 100_000 + LOOKS_MS + 1])
def test_what_waited_says_nothing(at_ms):
    clocks = BrokerClocks()
    clocks.compare([reading(0, 0)], at_ms)
    clocks.look(at_ms - LOOKS_MS - 1, {0: 0})
    clocks.look(at_ms, {0: 10})
    clocks.compare([reading(0, 0), reading(9, 0)], at_ms + 1_000)
    assert clocks.problem() is None
    clocks.compare([reading(10, 0)], at_ms + 1_000)
    assert clocks.ahead_ms == {0: -at_ms}


def test_timestamps_of_producers_that_contradict_each_other_say_nothing():
    clocks = BrokerClocks()
    clocks.look(0, {0: 0})
    clocks.compare([reading(0, 500), reading(1, -600_000), reading(2, 600_000)], 1_000)
    assert clocks.problem() is None


def test_a_clock_of_this_machine_that_is_set_back_starts_again():
    clocks = BrokerClocks()
    clocks.look(1_000_000, {0: 0})
    clocks.compare([reading(0, 1_000)], 1_000_500)
    assert clocks.ahead_ms == {0: -999_000}
    clocks.look(2_000, {0: 1})
    assert clocks.problem() is None
    clocks.compare([reading(1, 2_500)], 3_000)
    assert clocks.problem() is None
