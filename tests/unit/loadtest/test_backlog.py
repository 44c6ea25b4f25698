"""What is noted while a backlog is processed."""

from __future__ import annotations

from iot.loadtest.backlog import Counts, Drain, counted


def a_drain() -> Drain:
    return Drain(Counts(1_000, 10))


def test_times_count_from_when_the_query_runs():
    drain = a_drain()
    assert not drain.note(Counts(0, 0), 99.0)
    drain.runs_s = 100.0
    for moment_s, messages, alerts in ((100.5, 0, 0), (101.0, 400, 0), (103.0, 1_000, 4), (104.0, 1_000, 10)):
        drain.note(Counts(messages, alerts), moment_s)
    assert (drain.took_s(drain.counted_s), drain.took_s(drain.alerts_s)) == (3.0, 4.0)
    assert [(one.at_s, one.messages, one.alerts) for one in drain.samples] == [
        (0.5, 0, 0),
        (1.0, 400, 0),
        (3.0, 1_000, 4),
        (4.0, 1_000, 10),
    ]
    assert drain.error == ""


def test_alerts_may_be_stored_before_the_readings_are_counted():
    drain = a_drain()
    drain.runs_s = 100.0
    for moment_s, messages, alerts in ((100.5, 0, 0), (101.0, 0, 10), (103.0, 1_000, 10)):
        drain.note(Counts(messages, alerts), moment_s)
    assert (drain.took_s(drain.counted_s), drain.took_s(drain.alerts_s)) == (3.0, 1.0)


def test_what_is_counted_at_the_first_look_was_not_measured():
    drain = a_drain()
    drain.runs_s = 100.0
    assert drain.note(Counts(1_000, 10), 100.5)
    assert drain.took_s(drain.counted_s) is None
    assert "send more with --messages" in drain.error


def test_too_few_and_too_many_are_told_apart():
    assert [(one.lost, one.doubled) for one in (counted("a", 5, 3), counted("a", 5, 7))] == [(2, 0), (0, 2)]
