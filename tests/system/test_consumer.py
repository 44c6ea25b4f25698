"""The consumer: what it judges and prints, and how it behaves in its group and when Kafka or itself is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO
from unittest.mock import Mock

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.coordinator.base import MemberState

import iot_consumer
from iot.alerts import DEFAULT_RULES
from iot.broker.broker import Broker, find_free_port
from iot.readings import Message, encode
from iot.settings import UserError
from iot.statistics import Stats, Tally
from iot_consumer import Group, lag_text, parse_args, process

integration = pytest.mark.integration
ROOT = Path(__file__).parents[2]
TIMESTAMP = "2026-11-24T02:15:07.123456+00:00"
KAFKA_MS = 1_795_486_507_123

# What the rules say about tests/data/known_readings.jsonl, worked out by hand: 50 °F are 10 °C, 95 °F are 35 °C.
KNOWN_READINGS = (ROOT / "tests/data/known_readings.jsonl").read_bytes().splitlines()
KNOWN_ALERTS = [
    "LOW_TEMPERATURE t-low 14.999999999999998 celsius < 15.0",
    "HIGH_TEMPERATURE t-high 30.000000000000004 celsius > 30.0",
    "LOW_TEMPERATURE t-cold -40.0 celsius < 15.0",
    "HIGH_TEMPERATURE t-no-unit 31.7 celsius > 30.0",
    "LOW_TEMPERATURE t-degree-sign 12.25 celsius < 15.0",
    "HIGH_TEMPERATURE t-f-high 35.0 celsius > 30.0",
    "LOW_TEMPERATURE t-f-low 10.0 celsius < 15.0",
    "LOW_HUMIDITY h-low 29.99 percent < 30.0",
    "HIGH_HUMIDITY h-high 70.01 percent > 70.0",
    "LOW_HUMIDITY h-zero 0.0 percent < 30.0",
    "LOW_PRESSURE p-low 999.99 hPa < 1000.0",
    "HIGH_PRESSURE p-high 1030.01 hPa > 1030.0",
    "LOW_PRESSURE p-pa-low 999.5 hPa < 1000.0",
    "HIGH_PRESSURE p-pa-high 1030.5 hPa > 1030.0",
    "HIGH_TEMPERATURE t twice 30.5 celsius > 30.0",
]


def temperature(value: float, sensor_id: str = "sensor_0") -> bytes:
    return encode(Message(sensor_id, "temperature", value, TIMESTAMP))


# Without a broker ----------------------------------------------------------------------------------------------------


def records(values: Iterable[bytes | None]) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(topic="t", partition=1, offset=offset, timestamp=KAFKA_MS, value=value)
        for offset, value in enumerate(values, start=7)
    ]


def test_process_prints_and_counts():
    tally = Tally(0.0)
    late = encode(Message("sensor_1", "light", 380.0, "2020-01-01T00:00:00Z"))
    early = encode(Message("sensor_1", "light", 380.0, "2026-11-24T02:16:08Z"))
    values = [temperature(30.0), temperature(31.7), late, None, early, temperature(14.0)]
    assert process(records(values), DEFAULT_RULES, tally, 1.0) == [
        f"ALERT HIGH_TEMPERATURE sensor_0 31.7 celsius > 30.0, unknown, {TIMESTAMP}",
        "MALFORMED t partition 1 offset 10: empty message",
        "MALFORMED t partition 1 offset 11: future timestamp",
        f"ALERT LOW_TEMPERATURE sensor_0 14.0 celsius < 15.0, unknown, {TIMESTAMP}",
    ]
    assert tally.run.messages == 6
    assert tally.run.stats == {
        "temperature": Stats(3, 30.0 + 31.7 + 14.0, 14.0, 31.7),
        "light": Stats(1, 380, 380, 380),
    }
    assert tally.malformed == {"empty message": 1, "future timestamp": 1}
    assert tally.alerts == {"HIGH_TEMPERATURE": 1, "LOW_TEMPERATURE": 1}


def test_a_flood_of_malformed_messages_hides_nothing_else():
    tally = Tally(0.0)
    cut = [temperature(20.0)[:length] for length in range(1, 41)]
    lines = process(records([*cut, b"", temperature(99.0)]), DEFAULT_RULES, tally, 1.0)
    shown = [line for line in lines if "not JSON" in line]
    assert len(shown) == 10
    assert [line.endswith("; more of this kind are only counted") for line in shown] == [False] * 9 + [True]
    assert lines[-2].startswith("MALFORMED t partition 1 offset 47: empty message")
    assert lines[-1].startswith("ALERT HIGH_TEMPERATURE")
    assert tally.malformed.total() == 41
    # The next poll goes on where this one stopped.
    assert process(records(cut), DEFAULT_RULES, tally, 2.0) == []


@pytest.mark.parametrize(
    ("lag", "text"),
    [
        ({}, "? (no partitions assigned)"),
        ({0: 0, 1: 0}, "0 (0: 0, 1: 0)"),
        ({0: 1200, 2: 34}, "1,234 (0: 1,200, 2: 34)"),
        ({0: 5, 1: None}, "? (0: 5, 1: ?)"),
    ],
)
def test_lag_text(lag, text):
    assert lag_text(lag) == text


def test_joins_anew_when_joining_is_stuck():
    consumer = Mock()
    group = Group(consumer, "t", from_beginning=False)

    def joins(state: MemberState, now_s: float) -> int:
        consumer.group_metadata.return_value.state = state
        group.rejoin_if_stuck(now_s)
        return int(consumer.subscribe.call_count)

    assert joins(MemberState.REBALANCING, 100.0) == 0
    assert joins(MemberState.STABLE, 114.0) == 0
    assert joins(MemberState.REBALANCING, 120.0) == 0
    assert joins(MemberState.REBALANCING, 134.9) == 0
    assert joins(MemberState.REBALANCING, 135.1) == 1
    assert joins(MemberState.REBALANCING, 136.0) == 1, "that takes its time, too"


@pytest.mark.parametrize("wrong", [["--max-messages", "0"], ["--max-messages", "x"], ["--group", " "], ["--unknown"]])
def test_bad_flags_exit_2(wrong, refuses):
    refuses(parse_args, wrong)


def test_a_bad_rules_file_is_one_line(tmp_path):
    (tmp_path / "rules.toml").write_text('[[rule]]\nsensor_type = "temperature"\nunit = "celsius"\nmax = "30"\n')
    with pytest.raises(UserError, match=r"rules.toml, line 4: max is '30'; expected a finite number$"):
        iot_consumer.run(parse_args(["--rules", str(tmp_path / "rules.toml")]), threading.Event())


# With a broker -------------------------------------------------------------------------------------------------------


class Running:
    """A consumer that runs as a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process, self._out, self._err = process, out, err

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def alerts(self) -> list[str]:
        """Type, sensor, value and bound of each alert printed so far."""
        return re.findall(r"^ALERT (.*), [^,\n]*, [^,\n]*$", self.out, re.MULTILINE)

    def values(self) -> list[float]:
        return [float(alert.split(" ")[2]) for alert in self.alerts()]

    def partitions(self) -> set[int]:
        """The partitions of the last line on them."""
        told = re.findall(r"^assigned partitions (.*)$", self.out, re.MULTILINE)
        return set(map(int, told[-1].split(", "))) if told else set()

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


Consumer = Callable[..., Running]


@pytest.fixture
def consumer(tmp_path: Path) -> Iterator[Consumer]:
    """Starts a consumer with these flags; killed at the end of the test if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def output(name: str) -> Iterator[tuple[Path, IO[bytes]]]:
        path = tmp_path / f"{len(started)}.{name}"
        with path.open("wb") as file:
            yield path, file

    def start(servers: str, topic: str, *flags: object) -> Running:
        command = [sys.executable, str(ROOT / "iot_consumer.py"), "--bootstrap-servers", servers, "--topic", topic]
        with output("out") as (out, stdout), output("err") as (err, stderr):
            started.append(subprocess.Popen([*command, *map(str, flags)], stdout=stdout, stderr=stderr))
        return Running(started[-1], out, err)

    yield start
    for each in started:
        each.kill()
        each.wait()


def send(servers: str, topic: str, values: Iterable[bytes], partition: int | None = None) -> None:
    producer = KafkaProducer(bootstrap_servers=servers)
    for value in values:
        producer.send(topic, value, partition=partition)
    producer.flush()
    producer.close()


def offsets(broker: Broker, topic: str, group: str) -> tuple[list[int], list[int]]:
    """The end offsets of the topic's partitions, and what the group has committed."""
    reader = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group)
    partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic))]
    ends = reader.end_offsets(partitions)
    committed = [reader.committed(partition) for partition in partitions]
    reader.close(autocommit=False)
    return [ends[partition] for partition in partitions], committed


@integration
def test_raises_exactly_the_alerts_of_known_readings(broker, topic, consumer):
    send(broker.bootstrap_servers, topic, KNOWN_READINGS)
    flags = ("--group", topic, "--from-beginning", "--max-messages", len(KNOWN_READINGS))
    # The second time although the group has read and committed all of it.
    for _ in range(2):
        ran = consumer(broker.bootstrap_servers, topic, *flags)
        assert ran.process.wait(60) == 0
        assert ran.err == ""
        assert sorted(ran.alerts()) == sorted(KNOWN_ALERTS)
        assert f"\nprocessed {len(KNOWN_READINGS)} messages in " in ran.out
        assert f"\nalerts: {len(KNOWN_ALERTS)}\n        4  " in ran.out
        assert re.search(r"\nmalformed: 5\n( {8}1  .*\n){5}", ran.out)
        for why in ("not JSON: ", "value: expected", "timestamp: expected", "sensor_id: expected", "future timestamp"):
            assert len(re.findall(rf"^MALFORMED {topic} partition \d offset \d+: {why}", ran.out, re.MULTILINE)) == 1
        ends, committed = offsets(broker, topic, topic)
        assert committed == ends


@integration
def test_stops_after_as_many_messages_as_told_and_says_what_is_left(broker, topic, consumer):
    for partition, count in enumerate((400, 30, 2)):
        send(broker.bootstrap_servers, topic, [temperature(20.0)] * count, partition)
    ran = consumer(broker.bootstrap_servers, topic, "--group", topic, "--from-beginning", "--max-messages", 100)
    assert ran.process.wait(60) == 0
    ends, committed = offsets(broker, topic, topic)
    assert sum(committed) == 100
    left = [end - position for end, position in zip(ends, committed, strict=True)]
    assert f"\nlag: 332 (0: {left[0]}, 1: {left[1]}, 2: {left[2]})\n" in ran.out


@integration
def test_killed_it_repeats_and_never_loses(broker, topic, consumer, eventually):
    first = consumer(broker.bootstrap_servers, topic, "--group", topic)
    eventually(lambda: first.partitions() == {0, 1, 2})
    wanted = [100.0 + number for number in range(200)]
    send(broker.bootstrap_servers, topic, map(temperature, wanted[:100]))
    eventually(first.alerts)
    first.process.kill()
    send(broker.bootstrap_servers, topic, map(temperature, wanted[100:]))
    second = consumer(broker.bootstrap_servers, topic, "--group", topic)
    eventually(lambda: {*first.values(), *second.values()} == set(wanted), 60)
    assert second.interrupt() == 0
    third = consumer(broker.bootstrap_servers, topic, "--group", topic)
    eventually(lambda: third.partitions() == {0, 1, 2})
    assert third.interrupt() == 0
    assert not third.alerts(), "what was committed is not repeated"


@integration
def test_killed_before_the_first_message_it_loses_none(broker, topic, consumer, eventually):
    send(broker.bootstrap_servers, topic, [temperature(99.0)])
    first = consumer(broker.bootstrap_servers, topic, "--group", topic)
    eventually(lambda: first.partitions() == {0, 1, 2})
    first.process.kill()
    send(broker.bootstrap_servers, topic, [temperature(100.0)])
    second = consumer(broker.bootstrap_servers, topic, "--group", topic, "--max-messages", 1)
    assert second.process.wait(60) == 0
    assert (first.values(), second.values()) == ([], [100.0]), "a new group starts at the end"


@integration
def test_two_members_share_the_partitions(broker, topic, consumer, eventually):
    one = consumer(broker.bootstrap_servers, topic, "--group", topic)
    eventually(lambda: one.partitions() == {0, 1, 2})
    two = consumer(broker.bootstrap_servers, topic, "--group", topic)
    # One says later that it has fewer than the other that it has some.
    eventually(lambda: two.partitions() and sorted([*one.partitions(), *two.partitions()]) == [0, 1, 2])
    wanted = [100.0 + number for number in range(90)]
    for partition in range(3):
        send(broker.bootstrap_servers, topic, map(temperature, wanted[partition::3]), partition)
    eventually(lambda: len(one.values()) + len(two.values()) >= len(wanted))
    # One leaves, the other takes over without a repeat.
    assert two.interrupt() == 0
    assert re.search(rf"\nprocessed {len(two.values())} messages in .*\nmalformed: 0\nalerts: ", two.out)
    eventually(lambda: one.partitions() == {0, 1, 2})
    send(broker.bootstrap_servers, topic, [temperature(500.0)])
    eventually(lambda: 500.0 in one.values())
    assert one.interrupt() == 0
    assert sorted(one.values() + two.values()) == [*wanted, 500.0]
    ends, committed = offsets(broker, topic, topic)
    assert committed == ends


@integration
def test_says_once_that_kafka_is_away_and_back_and_goes_on(tmp_path, topic, consumer, eventually):
    with Broker(find_free_port(), tmp_path / "broker") as broker:
        servers = broker.bootstrap_servers
        ran = consumer(servers, "iot-sensors")
        eventually(lambda: ran.partitions() == {0, 1, 2})
        send(servers, "iot-sensors", [temperature(100.0)])
        eventually(lambda: ran.values() == [100.0])
        os.kill(broker.pid, signal.SIGKILL)
        eventually(lambda: f"\nKafka at {servers} does not answer; trying until it does\n" in ran.out)
        broker.stop()
        broker.start()
        eventually(lambda: f"\nKafka at {servers} is back\n" in ran.out)
        send(servers, "iot-sensors", [temperature(200.0)])
        eventually(lambda: 200.0 in ran.values())
        assert ran.interrupt() == 0
        assert set(ran.values()) == {100.0, 200.0}
        assert (ran.out.count("does not answer"), ran.out.count("is back"), ran.err) == (1, 1, "")
        assert ran.out.endswith("\nlag: 0 (0: 0, 1: 0, 2: 0)\n")


@integration
def test_makes_a_missing_topic_and_warns_of_one_that_differs(broker, topic, consumer, eventually):
    missing, other = f"{topic}-missing", f"{topic}-other"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.create_topics({other: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    ran = consumer(broker.bootstrap_servers, missing, "--group", missing)
    eventually(lambda: ran.partitions() == {0, 1, 2})
    assert (ran.interrupt(), ran.err) == (0, "")
    ran = consumer(broker.bootstrap_servers, other, "--group", other)
    eventually(lambda: ran.partitions() == {0})
    assert ran.interrupt() == 0
    assert ran.err.startswith(f"warning: topic {other} has 1 partitions, not 3\nwarning: ")


def test_without_a_broker_it_is_one_line(consumer):
    begun_s = time.monotonic()
    port = find_free_port()
    ran = consumer(f"localhost:{port}", "iot-sensors")
    assert ran.process.wait(30) == 1
    assert time.monotonic() - begun_s < 10
    assert ran.out == ""
    assert re.fullmatch(rf"error: no Kafka broker answers at localhost:{port}; .*python -m iot.broker .*\n", ran.err)


@integration
def test_who_reads_its_output_may_leave(broker, topic):
    command = (
        f"{sys.executable} iot_consumer.py --bootstrap-servers {broker.bootstrap_servers} --topic {topic} | head -1"
    )
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.startswith(f"reading {topic} at ")
