"""Which notifications are due when, by the rules of Alertmanager."""

from __future__ import annotations

import msgspec
import pytest

from iot.alarms.grouping import Entry, Routing, begun, decode_entry, delivered, encode_entry, group_key, plan, rejected
from iot.alarms.matching import parse_matcher
from iot.alarms.model import Matcher
from iot.alarms.notify_file import REPORTING
from tests.support.alarms import alarm, at, resolved

ROUTING = Routing()
RULE = '{}:{rule="HIGH_TEMPERATURE"}'


class Told:
    """Delivers what is due at once, like a receiver that never fails, and notes what it was told."""

    def __init__(self, routing=ROUTING):
        self.routing, self.entries = routing, {}

    def at(self, now_s, *alarms):
        """What was told at this time: a list of (ids that fire, ids that ended)."""
        planned = plan(self.routing, alarms, self.entries, now_s)
        self.entries.update(planned.entries)
        for notification in planned.due:
            entry = begun(self.entries[notification.group_key], notification)
            self.entries[notification.group_key] = delivered(entry, notification, now_s)
        self.entries = {
            key: decode_entry(encode_entry(entry)) for key, entry in self.entries.items() if entry is not None
        }
        ids = [[[one.alarm_id for one in alarms] for alarms in (due.firing, due.resolved)] for due in planned.due]
        return [(firing, ended) for firing, ended in ids]


def test_a_new_group_waits_for_group_wait():
    told, a, b = Told(), alarm("a"), alarm("b", fired=at(5))
    assert told.at(100, a) == []
    assert told.at(129.9, a, b) == []
    assert told.at(130, a, b) == [(["a", "b"], [])]
    assert told.at(131, a, b) == []


def test_a_further_alarm_waits_for_group_interval_and_comes_first():
    told, a, b = Told(), alarm("a"), alarm("b", fired=at(500))
    told.at(100, a)
    told.at(130, a)
    assert told.at(140, a, b) == []
    assert told.at(429, a, b) == []
    assert told.at(430, a, b) == [(["b", "a"], [])]


def test_a_change_long_after_the_last_message_waits_for_group_wait():
    told, a, b = Told(), alarm("a"), alarm("b")
    told.at(100, a)
    told.at(130, a)
    assert told.at(1000, a, b) == []
    assert told.at(1030, a, b) == [(["b", "a"], [])]


def test_a_group_without_changes_is_repeated():
    told, a = Told(), alarm("a")
    told.at(100, a)
    told.at(130, a)
    assert told.at(130 + 4 * 3600 - 1, a) == []
    assert told.at(130 + 4 * 3600, a) == [(["a"], [])]
    assert told.at(130 + 4 * 3600 + 1, a) == []


def test_an_end_is_told_once_and_only_to_those_who_know_the_beginning():
    told, a, b = Told(), alarm("a"), alarm("b")
    told.at(100, a)
    told.at(130, a)
    assert told.at(200, resolved(a), resolved(b)) == []
    assert told.at(430, resolved(a), resolved(b)) == [([], ["a"])]
    assert told.entries == {}
    assert told.at(10_000, resolved(a), resolved(b)) == []


def test_an_alarm_that_ends_within_group_wait_is_not_told():
    told, a = Told(), alarm("a")
    told.at(100, a)
    assert told.at(120, resolved(a)) == []
    assert told.entries == {}
    assert told.at(130, resolved(a)) == []


def test_an_alarm_that_fires_again_under_a_new_id_is_told_again():
    told, a, b = Told(), alarm("a"), alarm("b", sensor_id="sensor_a")
    told.at(100, a)
    told.at(130, a)
    told.at(140, resolved(a), b)
    assert told.at(430, resolved(a), b) == [(["b"], ["a"])]


def test_a_pending_alarm_is_not_told():
    told = Told()
    told.at(100, alarm("a", state="pending", fired=None))
    assert told.at(500, alarm("a", state="pending", fired=None)) == []
    assert told.entries == {}


def test_an_alarm_that_was_told_and_is_pending_is_not_over():
    told, a = Told(), alarm("a")
    told.at(100, a)
    told.at(130, a)
    told.at(500, alarm("a", state="pending"))
    assert told.at(530, alarm("a", state="pending")) == []
    told.at(540, resolved(a))
    assert told.at(570, resolved(a)) == [([], ["a"])]


def test_without_send_resolved_ends_are_not_told_and_the_next_alarm_is():
    told, a, b = Told(Routing(send_resolved=False)), alarm("a"), alarm("b")
    told.at(100, a)
    told.at(130, a)
    assert told.at(500, resolved(a)) == []
    assert told.entries == {}
    told.at(510, b)
    assert told.at(540, b) == [(["b"], [])]


def test_a_silenced_alarm_is_told_when_the_silence_ends():
    told, a = Told(), alarm("a")
    assert told.at(100, alarm("a", silenced_by=["s"])) == []
    assert told.at(500, alarm("a", silenced_by=["s"])) == []
    assert told.at(600, a) == []
    assert told.at(630, a) == [(["a"], [])]


def test_an_alarm_told_before_its_silence_is_not_told_again_after_it():
    told, a = Told(), alarm("a")
    told.at(100, a)
    told.at(130, a)
    assert told.at(500, alarm("a", silenced_by=["s"])) == []
    assert told.at(1000, a) == []
    assert told.at(500_000, alarm("a", silenced_by=["s"])) == []
    assert told.at(500_001, a) == [(["a"], [])], "a repetition that the silence held back"


def test_an_alertmanager_hears_of_what_it_knows_also_during_a_silence():
    """It takes an alarm of which it hears nothing for resolved, and would tell so, though the alarm fires."""
    told, a, b = Told(REPORTING), alarm("a"), alarm("b", silenced_by=["s"])
    assert told.at(100, a, b) == [(["a"], [])]
    a = alarm("a", silenced_by=["s"])
    assert told.at(110, a, b) == []
    assert told.at(160, a, b) == [(["a"], [])]
    assert told.at(165, resolved(a, silenced_by=["s"]), b) == [([], ["a"])]
    assert told.at(1_000, b) == []
    assert told.at(1_001, alarm("b")) == [(["b"], [])]


def test_the_end_of_a_silenced_alarm_is_told_to_nobody_as_in_alertmanager():
    told, a, b = Told(), alarm("a"), alarm("b")
    told.at(100, a)
    told.at(130, a)
    assert told.at(500, resolved(a, silenced_by=["s"])) == []
    assert told.at(1000, resolved(a)) == []
    told.at(1010, resolved(a), b)
    assert told.at(1040, resolved(a), b) == [(["b"], [])], "the silence swallows no further alarm"


def test_groups_are_made_by_the_fields_of_group_by():
    a, b, c = alarm("a"), alarm("b", location="roof"), alarm("c", rule="LOW_TEMPERATURE", location="roof")
    by = {(): 1, ("rule",): 2, ("location",): 2, ("rule", "location"): 3, ("sensor_id",): 3}
    for group_by, number in by.items():
        told = Told(Routing(group_by=group_by))
        told.at(0, a, b, c)
        assert len(told.at(30, a, b, c)) == number, group_by


def test_a_group_key_has_the_form_of_alertmanager():
    assert group_key({"rule": 'say "x"', "location": "lab"}) == r'{}:{location="lab", rule="say \"x\""}'
    assert group_key({}) == "{}:{}"


def test_a_long_group_key_is_cut_and_still_differs():
    keys = [group_key({"location": 128 * "😀", "sensor_id": 512 * "😀" + end}) for end in ("a", "b")]
    assert keys[0] != keys[1]
    assert {len(key) for key in keys} == {500}


def test_an_alarm_keeps_its_group_and_location_until_its_end_is_told():
    told = Told(Routing(group_by=("location",)))
    told.at(100, alarm("a"))
    told.at(130, alarm("a"))
    moved = alarm("a", location="roof")
    assert told.at(500, moved) == []
    planned = plan(told.routing, [resolved(moved)], told.entries, 600)
    assert list(planned.entries) == ['{}:{location="lab"}']
    assert told.at(600, resolved(moved)) == []
    (due,) = plan(told.routing, [resolved(moved)], told.entries, 630).due
    assert due.resolved[0].location == "lab"


def test_an_alarm_that_was_told_and_is_known_no_more_counts_as_resolved():
    told = Told()
    told.at(100, alarm("a"))
    told.at(130, alarm("a"))
    told.at(500)
    (due,) = plan(told.routing, [], told.entries, 530).due
    assert due.resolved == (resolved(alarm("a"), 530),)


def test_other_rules_of_grouping_after_a_restart_repeat_nothing():
    told = Told(Routing(group_by=("rule",)))
    told.at(100, alarm("a"))
    told.at(130, alarm("a"))
    told.routing = Routing(group_by=("sensor_id",), severity=("critical",))
    assert told.at(500, alarm("a")) == []
    told.at(510, resolved(alarm("a")))
    assert told.at(540, resolved(alarm("a"))) == [([], ["a"])]


def test_a_receiver_gets_only_its_severities_and_what_its_matchers_match():
    routing = Routing(severity=("critical",), matchers=(Matcher("location", "lab|roof", is_regex=True),))
    told = Told(routing)
    alarms = (
        alarm("a", severity="critical"),
        alarm("b"),
        alarm("c", severity="critical", location="laboratory"),
    )
    told.at(0, *alarms)
    assert told.at(30, *alarms) == [(["a"], [])]


def test_restarts_do_not_put_the_first_message_off():
    """What waits is in the log, so a program that runs for 10 s at a time still sends it."""
    entries: dict[str, Entry] = {}
    for now_s in range(100, 130, 10):
        planned = plan(ROUTING, [alarm("a")], entries, now_s)
        assert planned.due == []
        entries |= {key: decode_entry(encode_entry(entry)) for key, entry in planned.entries.items() if entry}
    assert len(plan(ROUTING, [alarm("a")], entries, 130).due) == 1


def test_a_clock_that_is_set_back_puts_nothing_off():
    told, a, b = Told(), alarm("a"), alarm("b")
    told.at(10_000, a)
    told.at(10_030, a)
    told.at(100, a, b)
    assert told.at(400, a, b) == [(["b", "a"], [])]


def waiting_entry():
    """The entry of a group with an alarm since 100."""
    entry = plan(ROUTING, [alarm("a")], {}, 100).entries[RULE]
    assert entry is not None
    return entry


def test_an_alarm_of_a_delivery_with_unknown_result_is_told_again_or_as_resolved():
    waiting = waiting_entry()
    (due,) = plan(ROUTING, [alarm("a")], {RULE: waiting}, 130).due
    unsure = begun(waiting, due)
    (again,) = plan(ROUTING, [alarm("a")], {RULE: unsure}, 131).due
    assert [one.alarm_id for one in again.firing] == ["a"]
    assert begun(unsure, again) == unsure
    (end,) = plan(ROUTING, [resolved(alarm("a"))], {RULE: unsure}, 131).due
    assert [one.alarm_id for one in end.resolved] == ["a"]
    assert delivered(unsure, end, 131) is None


def test_a_rejected_message_waits_for_group_interval():
    entry = rejected(waiting_entry(), ROUTING, 130)
    assert plan(ROUTING, [alarm("a")], {RULE: entry}, 429).due == []
    assert len(plan(ROUTING, [alarm("a")], {RULE: entry}, 430).due) == 1


def test_a_rejected_repetition_waits_too():
    entry = Entry({"rule": "HIGH_TEMPERATURE"}, (alarm("a"),), sent_s=0.0)
    assert len(plan(ROUTING, [alarm("a")], {RULE: entry}, 20_000).due) == 1
    entry = rejected(entry, ROUTING, 20_000)
    assert plan(ROUTING, [alarm("a")], {RULE: entry}, 20_001).due == []
    assert len(plan(ROUTING, [alarm("a")], {RULE: entry}, 20_300).due) == 1


def test_an_idle_group_writes_nothing():
    told = Told()
    told.at(100, alarm("a"))
    told.at(130, alarm("a"))
    assert plan(ROUTING, [alarm("a", value=40.0)], told.entries, 200) == ({}, [])


def test_a_damaged_entry_is_an_error():
    with pytest.raises(msgspec.DecodeError):
        decode_entry(b"{")
    with pytest.raises(msgspec.DecodeError):
        decode_entry(b'{"told": 1}')


@pytest.mark.parametrize(
    ("text", "matcher"),
    [
        ("location=lab", Matcher("location", "lab")),
        ('location = "building a"', Matcher("location", "building a")),
        ("rule =~ HIGH_.*", Matcher("rule", "HIGH_.*", is_regex=True)),
        ('severity != "info"', Matcher("severity", "info", is_equal=False)),
        ('sensor_id !~ "test.*"', Matcher("sensor_id", "test.*", is_regex=True, is_equal=False)),
        ('location = ""', Matcher("location", "")),
    ],
)
def test_matchers_are_written_as_in_alertmanager(text, matcher):
    assert parse_matcher(text) == matcher


@pytest.mark.parametrize("text", ["", "location", "location ~ lab", "value = 3", "rule =~ (", 'rule = "a" b', "rule ="])
def test_a_wrong_matcher_says_what_is_expected(text):
    with pytest.raises(ValueError, match=r"expected|is not a regular expression"):
        parse_matcher(text)
