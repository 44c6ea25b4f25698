"""When a process that has ended is started again."""

from __future__ import annotations

from iot.restarts import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S, Restarts


def test_pauses_double_while_a_process_keeps_ending():
    restarts, now_s, pauses = Restarts(0), 0.0, []
    for _ in range(7):
        now_s += 1
        pause_s = restarts.ended(now_s)
        assert pause_s
        pauses.append(pause_s)
        assert restarts.ended(now_s) is None
        assert not restarts.is_due(now_s + pause_s - 0.01)
        now_s += pause_s
        assert restarts.is_due(now_s)
        assert not restarts.is_due(now_s)
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_process_that_ran_for_long_is_started_again_after_the_first_pause():
    restarts = Restarts(0)
    assert restarts.ended(1) == FIRST_PAUSE_S
    assert restarts.is_due(2)
    assert restarts.ended(3) == 2 * FIRST_PAUSE_S
    assert restarts.is_due(5)
    assert restarts.ended(5 + STEADY_S + 1) == FIRST_PAUSE_S
