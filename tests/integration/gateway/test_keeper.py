"""Taking a topic over: after a kill, from a client that failed, and from another gateway."""

from __future__ import annotations

import pytest

from iot.gateway import keeper as keeper_module
from iot.gateway.journal import Journal, journal_topic
from iot.gateway.keeper import Keeper, TakenOver
from iot.gateway.writer import MAX_IN_FLIGHT, Full, Refusal, Unavailable, Writer
from iot.kafka.topics import ensure_topics
from iot.readings import Message, encode
from iot.settings import REJECTED_TOPIC
from tests.support.gateway import TIME, sequences
from tests.support.streams import write
from tests.support.topics import read_back


@pytest.fixture
def make(broker, topic, monkeypatch):
    """``make()`` starts a gateway's writer and keeper on a new topic. A kill is to do nothing more with it."""
    monkeypatch.setattr(keeper_module, "SETTLE_S", 0.2)
    ensure_topics(broker.kafka, [topic, journal_topic(topic)], {journal_topic(topic): 1})
    made = []

    def started(**patch) -> tuple[Writer, Keeper]:
        lines: list[str] = []
        writer = Writer(broker.kafka, topic, lines.append)
        keeper = Keeper(broker.kafka, topic, writer, lines.append)
        keeper.lines = lines  # type: ignore[attr-defined]
        made.append((writer, keeper))
        keeper.open()
        return writer, keeper

    yield started
    for writer, keeper in made:
        keeper._stop.set()
        writer.close("the test ends")


def message(sequence: int | None, sensor: str = "s", kind: str = "temperature", run: str = "r") -> Message:
    return Message(sensor, kind, 1.0, TIME, run_id=run, sequence=sequence)


def written(writer: Writer, *messages: Message) -> int:
    """Write, wait for the acknowledgement, and return how many were no repeats."""
    made = writer.write(messages)
    assert made.wait(30)
    assert made.is_acknowledged
    return made.readings


def test_repeats_are_recognised_after_a_kill_at_any_moment(broker, topic, make):
    writer, keeper = make()
    assert written(writer, *map(message, range(5))) == 5
    assert written(writer, message(4), message(5), message(5)) == 1
    # Killed before anything was saved.
    writer, keeper = make()
    assert written(writer, message(5), message(6)) == 1
    keeper._saved_s = -1000.0
    keeper._look_after()
    # Killed between the two steps of saving.
    writer, keeper = make()
    assert written(writer, message(6), message(7)) == 1
    keeper._saved_s = -1000.0
    keeper._look_after()
    keeper._look_after()
    # Killed after saving, with more behind it.
    assert written(writer, message(8)) == 1
    writer, keeper = make()
    assert written(writer, message(8), message(9)) == 1
    assert any("not stopped cleanly" in line for line in keeper.lines)
    keeper.close()
    writer, keeper = make()
    assert keeper.lines == []
    assert written(writer, message(9), message(10)) == 1
    assert sequences(broker.kafka, topic) == {"s": list(range(11))}


def test_half_an_object_that_was_written_is_completed(broker, topic, make):
    writer, _ = make()
    assert written(writer, message(1)) == 1
    writer, _ = make()
    assert written(writer, message(1), message(1, kind="humidity")) == 1


def test_what_others_wrote_before_the_first_start_is_not_read(broker, topic, make):
    write(broker.kafka, topic, [(b"s", b'{"sensor_id": "s"}')])
    writer, _ = make()
    assert written(writer, message(0)) == 1


def test_after_a_clean_stop_what_others_wrote_meanwhile_is_not_read(broker, topic, make):
    writer, keeper = make()
    assert written(writer, message(1)) == 1
    keeper.close()
    write(broker.kafka, topic, [(b"s", encode(message(5)))])
    writer, _ = make()
    assert written(writer, message(1), message(2)) == 1


def test_a_client_that_failed_is_replaced_and_nothing_is_confirmed_meanwhile(broker, topic, make):
    writer, keeper = make()
    assert written(writer, message(1)) == 1
    # As if nobody knew what became of what is on its way.
    on_its_way = writer.write([message(2)])
    writer.failure = "a test"
    with pytest.raises(Unavailable):
        writer.write([message(3)])
    keeper._recover()
    assert on_its_way.is_done
    assert written(writer, message(2), message(3)) in (1, 2)
    assert sequences(broker.kafka, topic) == {"s": [1, 2, 3]}


def test_a_newer_gateway_ends_the_older_one(make):
    writer, keeper = make()
    newer, _ = make()
    with pytest.raises(TakenOver, match="another gateway"):
        keeper._look_after()
    keeper.start()
    assert newer.problem() == ""
    keeper._thread.join(30)
    assert isinstance(keeper.failure, TakenOver)
    with pytest.raises(Unavailable):
        writer.write([message(1)])


def test_nothing_is_accepted_that_could_not_be_checked(broker, topic, make, monkeypatch):
    writer, _ = make()
    monkeypatch.setattr(writer, "_clock", lambda: float("inf"))
    assert "does not answer" in writer.problem()
    with pytest.raises(Unavailable):
        writer.write([message(1)])


def test_a_topic_that_was_made_again_has_no_repeats_of_the_old_one(broker, topic, make):
    from iot.kafka.topics import make_admin

    writer, keeper = make()
    assert written(writer, message(5)) == 1
    keeper.close()
    with make_admin(broker.kafka) as admin:
        admin.delete_topics([topic])
    ensure_topics(broker.kafka, [topic])
    writer, keeper = make()
    assert written(writer, message(3)) == 1
    keeper.close()
    writer, keeper = make()
    assert written(writer, message(3), message(4)) == 1


def test_what_waits_is_bounded(make):
    writer, _ = make()
    # The second comes before the first is acknowledged.
    many = [message(None)] * (MAX_IN_FLIGHT // 2 + 1)
    writer.write(many)
    with pytest.raises(Full):
        writer.write(many)
    for write_ in writer.outstanding():
        assert write_.wait(30)
    assert writer.in_flight == 0
    assert written(writer, message(1)) == 1


def test_a_repeat_of_what_is_on_its_way_ends_with_it(make):
    writer, _ = make()
    first = writer.write([message(number) for number in range(5_000)])
    repeat = writer.write([message(4_999)])
    assert (repeat.readings, repeat.repeated) == (0, 1)
    assert repeat.wait(30)
    assert first.is_done
    assert repeat.is_acknowledged


def test_a_refused_message_is_kept_with_its_reason(broker, topic, make):
    writer, _ = make()
    refusals = [Refusal(b"\xffgarbage", "invalid UTF-8 (byte 0)", "d1"), Refusal(b"x" * (1 << 20), "why", "")]
    made = writer.write([], refusals)
    assert made.wait(30)
    assert made.is_acknowledged
    records = [each for records in read_back(broker.bootstrap_servers, REJECTED_TOPIC).values() for each in records]
    assert (b"d1", b"\xffgarbage") in records
    assert writer.counts["refused"] == 2


def test_a_refused_message_that_fits_nowhere_stops_nothing(make):
    writer, keeper = make()
    made = writer.write([message(1)], [Refusal(b"x" * (3 << 20), "why", "d1")])
    assert made.wait(30)
    assert made.is_acknowledged
    assert writer.failure == ""
    assert any("is dropped" in line or "cannot be sent" in line for line in keeper.lines)


def test_the_journal_is_read_as_it_was_written(broker, topic, make):
    writer, keeper = make()
    assert written(writer, message(7, "ü"), message(8, kind="humidity")) == 2
    keeper.close()
    saved = Journal(broker.kafka, topic, "other").read(from_beginning=True)
    assert {run: (last.sequence, last.types) for run, last in saved.changes.items()} == {
        ("r", "ü"): (7, ("temperature",)),
        ("r", "s"): (8, ("humidity",)),
    }
    assert saved.owner.is_closed
    assert sum(saved.known.offsets.values()) == 2
