"""Silences match and change as Alertmanager's do."""

from __future__ import annotations

import time
from types import SimpleNamespace

import msgspec
import pytest

from iot.alarms.model import Matcher, Silence
from iot.alarms.silences import InvalidSilence, PostedSilence, expire, put, silenced_by, state_of
from iot.readings import format_timestamp

NOW_US = 1_795_561_380_000_000
HOUR_US = 3_600_000_000


def alarm(**changes):
    fields = {
        "rule": "HIGH_TEMPERATURE",
        "severity": "warning",
        "sensor_id": "sensor_1",
        "sensor_type": "temperature",
        "location": "hall",
    }
    return SimpleNamespace(**(fields | changes))


def silence(*matchers: Matcher, silence_id: str = "x", from_us: int = -HOUR_US, to_us: int = HOUR_US) -> Silence:
    at = format_timestamp(NOW_US)
    return Silence(
        silence_id, list(matchers), format_timestamp(NOW_US + from_us), format_timestamp(NOW_US + to_us), "a", "", at
    )


@pytest.mark.parametrize(
    ("matcher", "matches"),
    [
        (Matcher("sensor_id", "sensor_1"), True),
        (Matcher("sensor_id", "sensor_"), False),
        (Matcher("sensor_id", "SENSOR_1"), False),
        (Matcher("sensor_id", "sensor_1", is_equal=False), False),
        (Matcher("sensor_id", "sensor_2", is_equal=False), True),
        # A regular expression must match the whole text.
        (Matcher("sensor_id", "sensor_", is_regex=True), False),
        (Matcher("sensor_id", "ensor_1", is_regex=True), False),
        (Matcher("sensor_id", "sensor_[0-9]+", is_regex=True), True),
        (Matcher("sensor_id", "x|sensor_1", is_regex=True), True),
        (Matcher("sensor_id", "sensor_1|x", is_regex=True, is_equal=False), False),
        (Matcher("sensor_id", r"(?i)SENSOR_\d", is_regex=True), True),
        (Matcher("sensor_id", "sensor.*", is_regex=True, is_equal=False), False),
        (Matcher("rule", "(HIGH|LOW)_TEMPERATURE", is_regex=True), True),
        (Matcher("severity", "warning"), True),
        (Matcher("sensor_type", "temperature"), True),
        (Matcher("location", "hall"), True),
        # A field that alarms do not have is empty, as in Alertmanager.
        (Matcher("team", "a"), False),
        (Matcher("team", "a", is_equal=False), True),
        (Matcher("team", ""), True),
        (Matcher("state", "firing"), False),
    ],
)
def test_a_matcher_matches_the_whole_text(matcher, matches):
    assert silenced_by([silence(matcher)], [alarm()]) == [["x"] if matches else []]


def test_all_matchers_of_a_silence_must_match():
    both = silence(Matcher("sensor_id", "sensor_1"), Matcher("location", "roof"), silence_id="both")
    one = silence(Matcher("location", "roof"), silence_id="one")
    assert silenced_by([one, both], [alarm(), alarm(location="roof"), alarm(sensor_id="s", location="roof")]) == [
        [],
        ["both", "one"],
        ["one"],
    ]
    assert silenced_by([one], []) == []
    assert silenced_by([], [alarm()]) == [[]]


def test_names_may_have_any_characters():
    odd = 'ä\n"\0\\'
    assert silenced_by([silence(Matcher("sensor_id", odd))], [alarm(sensor_id=odd), alarm()]) == [["x"], []]
    assert silenced_by([silence(Matcher("sensor_id", "a\nb$", is_regex=True))], [alarm(sensor_id="a\nb")]) == [["x"]]
    assert silenced_by([silence(Matcher("sensor_id", "a", is_regex=True))], [alarm(sensor_id="a\n")]) == [[]]


def test_no_pattern_takes_long():
    evil = silence(Matcher("sensor_id", "(a+)+b", is_regex=True))
    begun_s = time.monotonic()
    assert silenced_by([evil], [alarm(sensor_id="a" * 128)] * 100) == [[]] * 100
    assert time.monotonic() - begun_s < 10


def posted(*matchers: Matcher, **changes) -> PostedSilence:
    made = PostedSilence(
        list(matchers) or [Matcher("sensor_id", "s")],
        format_timestamp(NOW_US),
        format_timestamp(NOW_US + HOUR_US),
        "ann",
        "repair",
    )
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"matchers": []}, "matchers: at least one is needed"),
        ({"matchers": [Matcher("", "x")]}, "matchers: name is empty"),
        ({"matchers": [Matcher("rule", "(", is_regex=True)]}, "is not a regular expression"),
        ({"matchers": [Matcher("rule", "(?=x)", is_regex=True)]}, "is not a regular expression"),
        ({"matchers": [Matcher("rule", "\ud800", is_regex=True)]}, "is not a regular expression"),
        ({"matchers": [Matcher("rule", ".*", is_regex=True)]}, "at least one must not match an empty text"),
        ({"matchers": [Matcher("rule", "")]}, "at least one must not match an empty text"),
        ({"matchers": [Matcher("rule", "x")] * 51}, "at most 50"),
        ({"matchers": [Matcher("rule", "x" * 1_001)]}, "longer than 1000"),
        ({"comment": "x" * 1_001}, "longer than 1000"),
        ({"starts_at": "now"}, "startsAt: expected YYYY"),
        ({"ends_at": "2026-02-30T00:00:00Z"}, "endsAt: no such day"),
        ({"ends_at": format_timestamp(NOW_US)}, "endsAt: must be after startsAt"),
        (
            {"starts_at": format_timestamp(NOW_US - HOUR_US), "ends_at": format_timestamp(NOW_US - 1)},
            "endsAt: must not be in the past",
        ),
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(InvalidSilence, match=words) as refused:
        put(posted(**wrong), None, NOW_US)
    assert "\n" not in str(refused.value)


def test_a_silence_may_name_only_what_it_leaves_out():
    matchers = [
        Matcher("severity", "critical", is_equal=False),
        Matcher("rule", "LOW_.*", is_regex=True, is_equal=False),
    ]
    [made] = put(posted(*matchers), None, NOW_US, lambda: "new")
    assert made.matchers == matchers


def test_a_new_silence_starts_now_at_the_earliest():
    [made] = put(posted(starts_at="2020-01-01T00:00:00Z"), None, NOW_US, lambda: "new")
    assert (made.id, made.starts_at, made.updated_at) == ("new", *[format_timestamp(NOW_US)] * 2)
    assert state_of(made, NOW_US) == "active"
    assert state_of(made, NOW_US + HOUR_US) == "expired"
    later = format_timestamp(NOW_US + 1)
    [made] = put(posted(starts_at=later), None, NOW_US, lambda: "new")
    assert (made.starts_at, state_of(made, NOW_US)) == (later, "pending")


def test_a_silence_keeps_its_id_if_only_its_end_or_its_texts_change():
    [old] = put(posted(), None, NOW_US, lambda: "old")
    longer = posted(ends_at=format_timestamp(NOW_US + 2 * HOUR_US), comment="more", id="old")
    [new] = put(longer, old, NOW_US + 60_000_000)
    assert (new.id, new.comment, new.starts_at, new.ends_at) == ("old", "more", old.starts_at, longer.ends_at)


@pytest.mark.parametrize(
    "change", [{"matchers": [Matcher("rule", "x")]}, {"starts_at": format_timestamp(NOW_US + 600_000_000)}]
)
def test_another_change_makes_a_new_silence_and_ends_the_old_one(change):
    [old] = put(posted(), None, NOW_US, lambda: "old")
    new, ended = put(posted(id="old", **change), old, NOW_US + 60_000_000, lambda: "new")
    assert (new.id, ended.id) == ("new", "old")
    assert state_of(ended, NOW_US + 60_000_000) == "expired"


def test_an_expired_silence_is_replaced_and_a_pending_one_is_changed():
    [old] = put(posted(), None, NOW_US, lambda: "old")
    late_us = NOW_US + 2 * HOUR_US
    again = posted(id="old", ends_at=format_timestamp(late_us + HOUR_US))
    assert [one.id for one in put(again, old, late_us, lambda: "new")] == ["new"]
    [waiting] = put(posted(starts_at=format_timestamp(NOW_US + 60_000_000)), None, NOW_US, lambda: "old")
    [moved] = put(posted(starts_at=format_timestamp(NOW_US + 120_000_000), id="old"), waiting, NOW_US)
    assert (moved.id, moved.starts_at) == ("old", format_timestamp(NOW_US + 120_000_000))


def test_expiring_ends_a_silence_once():
    active, waiting = silence(Matcher("rule", "x")), silence(Matcher("rule", "x"), from_us=1)
    for one in (active, waiting):
        ended = expire(one, NOW_US)
        assert state_of(ended, NOW_US) == "expired"
        assert expire(ended, NOW_US + 1) == ended
