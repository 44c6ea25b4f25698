"""Each thread sends and measures its own readings, and threads take turns."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

import pytest

from iot.kafka.sender import Mark
from iot.loadtest import lane as lane_module
from iot.loadtest.lane import Lane, Turns
from iot.loadtest.plan import Plan, make_plan
from iot.loadtest.protocol import WorkerJob
from iot.readings import decode
from iot.sensors.pacing import Schedule
from iot.settings import UserError
from tests.support.senders import Memory


class Marking(Memory):
    """A sender to memory that acknowledges its records on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[Mark] = []

    def send(self, records, stop):
        accepted = super().send(records, stop)
        self.marks += [record["callback"] for record in records[:accepted] if "callback" in record]
        return accepted

    def acknowledge(self) -> None:
        while self.marks:
            self.marks.pop()(None, None)
            self.confirmed += 1


def lane(plan: Plan, sender: Memory, thread: int = 0) -> Lane:
    return Lane(
        WorkerJob(plan, "", {}, "topic", "run1", list(range(plan.threads))), thread, sender, threading.Event(), Turns()
    )


@pytest.mark.parametrize("threads", [1, 7])
def test_every_reading_is_a_real_one_with_a_sequence_of_its_own(threads):
    memory = Marking()
    plan = make_plan("custom", "kafka-python", messages=4_001, threads=threads)
    for thread in range(threads):
        lane(plan, memory, thread).send_flat_out()
    found = defaultdict(list)
    for record in memory.sent:
        reading = decode(record["value"], time.time_ns() // 1_000_000)
        assert (reading.run_id, reading.sensor_id) == ("run1", record["key"].decode())
        found[reading.sensor_id].append(reading.sequence)
    assert sum(map(len, found.values())) == 4_001
    assert all(sequences == list(range(len(sequences))) for sequences in found.values())
    assert len({record["value"] for record in memory.sent}) == 4_001


def test_waiting_threads_take_turns_in_order(eventually):
    turns, had = Turns(), []

    def take(number: int) -> None:
        with turns:
            had.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with turns:
        for waiting, thread in enumerate(threads, 1):
            thread.start()
            eventually(lambda waiting=waiting: len(turns._waiting) == waiting)
        assert had == []
    for thread in threads:
        thread.join()
    assert had == [0, 1, 2, 3, 4]


def test_a_turn_ends_when_the_sender_fails():
    turns = Turns()
    with pytest.raises(UserError), turns:
        raise UserError("gone")
    with turns:
        pass


def test_every_thread_sends_its_own_readings_in_its_turns(monkeypatch, eventually):
    monkeypatch.setattr(lane_module, "TURN_S", 0)
    memory, turns = Marking(), Turns()
    plan = make_plan("custom", "confluent-kafka", messages=20_000, threads=3)
    job = WorkerJob(plan, "", {}, "topic", "run1", [0, 1, 2])
    lanes = [Lane(job, thread, memory, threading.Event(), turns) for thread in job.threads]
    threads = [threading.Thread(target=lane.send_flat_out) for lane in lanes]
    with turns:
        for thread in threads:
            thread.start()
        eventually(lambda: len(turns._waiting) == 3)
    for thread in threads:
        thread.join()
    # Sensor n is one of thread n modulo 3.
    owners = [int(record["key"].removeprefix(b"sensor_")) % 3 for record in memory.sent]
    turns_of = [owner for number, owner in enumerate(owners) if number == 0 or owners[number - 1] != owner]
    # Seven batches of at most 1,000 readings each, always in the same order.
    assert turns_of == turns_of[:3] * 7
    assert set(turns_of) == {0, 1, 2}
    assert len(owners) == 20_000


def test_warm_up_is_sent_and_not_measured():
    memory = Marking()
    sending = lane(make_plan("custom", "kafka-python", messages=1_000, threads=1), memory)
    sending.send_flat_out()
    memory.acknowledge()
    assert len(memory.sent) == 1_000
    assert len(sending.latencies_s) == 950


def test_the_fastest_test_marks_one_reading_in_a_hundred():
    memory = Marking()
    sending = lane(make_plan("custom", "confluent-kafka", messages=20_000, threads=1), memory)
    sending.send_flat_out()
    assert [decode(record["value"]).sequence for record in memory.sent if "callback" in record] == list(range(200))
    memory.acknowledge()
    assert len(sending.latencies_s) == 190


def test_a_failed_reading_has_no_latency():
    memory = Marking()
    sending = lane(make_plan("custom", "kafka-python", messages=10, threads=1), memory)
    sending.send_flat_out()
    memory.marks.pop()(OSError("gone"), None)
    memory.acknowledge()
    assert len(sending.latencies_s) == 9


def test_a_thread_has_no_more_readings_in_flight_than_its_window(eventually):
    memory = Marking()
    sending = lane(make_plan("custom", "kafka-python", messages=30, threads=1, in_flight=4), memory)
    thread = threading.Thread(target=sending.send_flat_out)
    thread.start()
    most = 0
    while thread.is_alive():
        eventually(lambda: len(memory.marks) == 4 or len(memory.sent) == 30 or not thread.is_alive())
        most = max(most, len(memory.marks))
        memory.acknowledge()
    thread.join()
    assert (most, len(memory.sent)) == (4, 30)


def test_the_latency_of_a_late_reading_counts_from_when_it_was_due():
    memory = Marking()
    sending = lane(make_plan("custom", "kafka-python", messages=50, threads=1, rate_per_s=1_000.0), memory)
    sending.send_paced(Schedule(1_000.0, time.monotonic() - 10))
    memory.acknowledge()
    assert min(sending.latencies_s) > 9.9
    assert min(sending.delays_s) > 9.9
    # Without the warm-up of both.
    assert len(sending.latencies_s) == len(sending.delays_s) == 48


def test_the_delays_of_a_load_are_not_kept():
    memory = Marking()
    plan = Plan(test="load", client="confluent-kafka", messages=5_000, threads=1, rate_per_s=1_000.0, is_load=True)
    sending = lane(plan, memory)
    sending.send_paced(Schedule(1_000.0, time.monotonic() - 10))
    assert (len(memory.sent), sending.delays_s) == (5_000, [])
