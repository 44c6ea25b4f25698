"""Which readings are repeats, also after a restart in any state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.gateway.journal import Known, Owner, decode, encode_last, encode_run
from iot.gateway.sequences import Last, Sequences
from iot.readings import Message

TIME = "2026-11-24T02:15:07.123456+00:00"


def reading(sequence: int | None, sensor: str = "s", run: str | None = "r", kind: str = "temperature") -> Message:
    return Message(sensor, kind, 1.0, TIME, run_id=run, sequence=sequence)


def write(sequences: Sequences, *messages: Message) -> list[Message]:
    """Return those that are no repeats."""
    return [message for message in messages if sequences.enter(message) is None]


def test_a_sequence_that_is_not_greater_is_a_repeat():
    sequences = Sequences()
    assert write(sequences, reading(3)) != []
    for sequence in (3, 2, -1):
        assert write(sequences, reading(sequence)) == []
    assert write(sequences, reading(7)) != []


def test_runs_and_sensors_are_apart():
    sequences = Sequences()
    messages = [reading(3), reading(3, "other"), reading(3, run="other"), reading(1, "s r")]
    assert write(sequences, *messages) == messages


@pytest.mark.parametrize("message", [reading(None), reading(3, run=None)])
def test_without_run_or_sequence_nothing_is_a_repeat(message):
    assert write(Sequences(), message, message) == [message, message]


def test_the_readings_of_one_object_share_a_sequence():
    sequences = Sequences()
    both = [reading(3), reading(3, kind="humidity")]
    assert write(sequences, *both) == both
    assert write(sequences, *both) == []


def test_the_run_that_was_used_longest_ago_is_forgotten_and_its_record_deleted():
    sequences = Sequences(limit=2)
    write(sequences, reading(1, "a"), reading(1, "b"), reading(2, "a"), reading(1, "c"))
    assert len(sequences) == 2
    changes = sequences.take_changes()
    assert changes == {
        ("r", "a"): Last(2, ("temperature",)),
        ("r", "b"): None,
        ("r", "c"): Last(1, ("temperature",)),
    }
    assert write(sequences, reading(1, "a")) == []
    assert write(sequences, reading(1, "b")) != []


def test_changes_that_could_not_be_saved_are_taken_again():
    sequences = Sequences()
    write(sequences, reading(1, "a"))
    changes = sequences.take_changes()
    write(sequences, reading(2, "a"), reading(1, "b"))
    sequences.put_back(changes)
    assert sequences.take_changes() == {
        ("r", "a"): Last(2, ("temperature",)),
        ("r", "b"): Last(1, ("temperature",)),
    }
    assert sequences.take_changes() == {}


def test_what_an_older_gateway_saves_late_is_saved_again():
    sequences = Sequences()
    write(sequences, reading(7, "a"), reading(3, "b"))
    sequences.take_changes()
    sequences.check({("r", "a"): Last(5, ("temperature",)), ("r", "b"): Last(3, ("temperature",)), ("r", "c"): None})
    assert sequences.take_changes() == {("r", "a"): Last(7, ("temperature",))}


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 5), st.sampled_from("th"))),
    st.data(),
)
def test_after_a_kill_the_saved_sequences_and_the_tail_of_the_topic_are_enough(sent, data):
    """At any moment the offsets and the sequences up to them are saved; everything behind them is in the topic."""
    sequences = Sequences()
    topic: list[Message] = []
    journal: dict[bytes, bytes | None] = {}
    known = 0
    for run, sensor, sequence, kind in sent:
        topic += write(sequences, reading(sequence, sensor, run, kind))
        if data.draw(st.booleans()):
            at = len(topic)
            changes = sequences.take_changes()
            # The kill may come between the two.
            journal |= {encode_run(key): encode_last(last) for key, last in changes.items()}
            if data.draw(st.booleans()):
                known = at
    later = Sequences()
    for key, value in journal.items():
        found = decode(key, value)
        assert isinstance(found, tuple)
        later.restore(*found)
    for message in topic[known:]:
        later.enter(message)
    # In order, so that entering one does not make another a repeat.
    for run in "ab":
        for sensor in "xy":
            for sequence in range(7):
                for kind in "th":
                    message = reading(sequence, sensor, run, kind)
                    assert bool(later.enter(message)) == bool(sequences.enter(message))


@pytest.mark.parametrize("last", [Last(7, ("t",)), Last(-(10**30), ("t", "ü\n\x00")), None])
def test_a_record_of_the_journal_is_read_as_it_was_written(last):
    assert decode(encode_run(("r\x00[", "ü")), encode_last(last)) == (("r\x00[", "ü"), last)


@pytest.mark.parametrize("key", [None, b"", b"[", b"{}", b'["one"]', b"\xff", b"owner", b"known"])
def test_a_record_of_something_else_is_ignored(key):
    assert decode(key, b"\xff{") is None


def test_owner_and_offsets_are_read_as_they_were_written():
    import msgspec

    known, owner = Known("id", {0: 5, 2: 7}), Owner("me", True)
    assert decode(b"known", msgspec.json.encode(known)) == known
    assert decode(b"owner", msgspec.json.encode(owner)) == owner
