"""Both clients behind the same interface: their counts, the order of records, and the partition of a key."""

from __future__ import annotations

import threading
from collections import defaultdict
from functools import partial
from typing import cast

import pytest

from iot.kafka.sender import CLIENTS, MarkedRecord, Record, make_sender
from iot.settings import UserError
from tests.support.topics import read_back

STOP = threading.Event()


def records(count: int, keys: int = 20) -> list[Record]:
    return [{"key": b"sensor_%d" % (number % keys), "value": b"%d" % number} for number in range(count)]


@pytest.mark.parametrize("client", CLIENTS)
def test_every_record_is_acknowledged_once_and_in_order(client, broker, topic):
    sender = make_sender(client, broker.kafka, topic)
    sent = records(5_000)
    for begin in range(0, len(sent), 700):
        assert sender.send(sent[begin : begin + 700], STOP) == len(sent[begin : begin + 700])
    assert sender.flush(30) == 0
    assert (sender.accepted, sender.acknowledged, sender.failed, sender.in_flight) == (5_000, 5_000, 0, 0)
    sender.close()
    found = read_back(broker.bootstrap_servers, topic)
    assert len(found) == 3
    assert sum(map(len, found.values())) == 5_000
    for in_partition in found.values():
        numbers = [int(value) for _, value in in_partition]
        assert numbers == sorted(numbers)


def test_both_clients_choose_the_same_partition_for_a_key(broker, topic):
    keys = [b"sensor_%d" % number for number in range(200)] + ["Fühler 7".encode(), b"\xff\x00", b"x"]
    for client in CLIENTS:
        sender = make_sender(client, broker.kafka, topic)
        sender.send([{"key": key, "value": client.encode()} for key in keys], STOP)
        assert sender.flush(30) == 0
        sender.close()
    partitions = defaultdict(set)
    for partition, found in read_back(broker.bootstrap_servers, topic).items():
        for key, _ in found:
            partitions[key].add(partition)
    assert partitions.keys() == set(keys)
    assert all(len(of_key) == 1 for of_key in partitions.values())


@pytest.mark.parametrize("client", CLIENTS)
def test_the_number_of_waiting_records_is_bounded(client, broker, topic):
    # The batch lingers longer than the test, so nothing is sent and there is never room.
    linger = {"linger_ms": 60_000} if client == "kafka-python" else {"linger.ms": 60_000}
    sender = make_sender(client, broker.kafka, topic, max_in_flight=100, **linger)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert sender.send(records(250), stop) == 100
    assert (sender.accepted, sender.in_flight) == (100, 100)
    assert sender.flush(0.1) == 100
    sender.close()
    assert (sender.acknowledged, sender.failed, sender.in_flight) == (0, 100, 0)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_full_sender_continues_when_there_is_room(client, broker, topic):
    sender = make_sender(client, broker.kafka, topic, max_in_flight=50)
    assert sender.send(records(1_000), STOP) == 1_000
    assert sender.flush(30) == 0
    sender.close()
    assert sum(map(len, read_back(broker.bootstrap_servers, topic).values())) == 1_000


@pytest.mark.parametrize("client", CLIENTS)
def test_several_threads_share_a_sender(client, broker, topic):
    sender = make_sender(client, broker.kafka, topic, max_in_flight=300)

    def work(name: int) -> None:
        of_thread = [Record(key=b"key %d" % name, value=b"%d" % number) for number in range(1_000)]
        for begin in range(0, 1_000, 100):
            sender.send(of_thread[begin : begin + 100], STOP)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sender.flush(30) == 0
    assert (sender.accepted, sender.acknowledged) == (4_000, 4_000)
    sender.close()
    by_key = defaultdict(list)
    for found in read_back(broker.bootstrap_servers, topic).values():
        for key, value in found:
            by_key[key].append(int(value))
    assert list(by_key.values()) == [list(range(1_000))] * 4


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_record_counts_as_failed(client, broker, topic):
    sender = make_sender(client, broker.kafka, topic)
    too_large = {"key": b"k", "value": b"x" * 1_048_500}
    sender.send([{"key": b"k", "value": b"1"}, too_large, {"key": b"k", "value": b"2"}], STOP)  # type: ignore[list-item]
    assert sender.flush(30) == 0
    sender.close()
    assert (sender.accepted, sender.acknowledged, sender.failed) == (3, 2, 1)
    assert sender.last_error


@pytest.mark.parametrize("client", CLIENTS)
def test_a_mark_reports_once_how_its_record_ended(client, broker, topic):
    sender = make_sender(client, broker.kafka, topic)
    ends: list[tuple[int, bool]] = []

    def note(number: int, acknowledged: bool) -> None:
        ends.append((number, acknowledged))

    sent = cast("list[MarkedRecord]", records(1_001))
    sent[500]["value"] = b"x" * 1_048_500
    for number in range(0, 1_001, 10):
        sent[number]["callback"] = sender.mark(partial(note, number))
    assert sender.send(cast("list[Record]", sent), STOP) == 1_001
    for number in range(0, 1_001, 10):
        del sent[number]["callback"]
    assert sender.flush(30) == 0
    sender.close()
    assert sorted(ends) == [(number, number != 500) for number in range(0, 1_001, 10)]
    assert (sender.acknowledged, sender.failed) == (1_000, 1)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_missing_topic_is_named_in_the_error(client, broker):
    with pytest.raises(UserError, match=r"cannot send to nowhere at localhost:\d+: "):
        make_sender(client, broker.kafka, "nowhere")
