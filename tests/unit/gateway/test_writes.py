"""A request ends when all of its parts have ended."""

from __future__ import annotations

import threading

from iot.gateway.writes import Write


def test_it_ends_with_its_last_part():
    write = Write()
    ended: list[Write] = []
    write.on_end(ended.append)
    one, other = write.begin_part(), write.begin_part()
    one(True)
    write.end_part()
    assert not write.is_done
    other(True)
    assert ended == [write]
    assert write.is_acknowledged


def test_one_failed_part_is_enough_to_fail():
    write = Write()
    one, other = write.begin_part(), write.begin_part()
    one(False)
    other(True)
    write.end_part()
    assert write.is_done
    assert not write.is_acknowledged


def test_who_asks_late_is_told_at_once():
    write = Write()
    ended: list[Write] = []
    write.end_part()
    write.on_end(ended.append)
    assert ended == [write]
    assert write.wait(0)


def test_a_repeat_ends_with_the_write_that_it_repeats():
    for is_acknowledged in (True, False):
        first, repeat = Write(), Write()
        part = first.begin_part()
        first.end_part()
        repeat.wait_for(first)
        repeat.end_part()
        assert not repeat.wait(0.01)
        threading.Thread(target=part, args=(is_acknowledged,)).start()
        assert repeat.wait(30)
        assert repeat.is_acknowledged == is_acknowledged
