"""The consumer as a process: alerts and summary, its group, and what happens when Kafka or the consumer is killed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from iot.broker.broker import Broker, find_free_port
from tests.support.readings import temperature

ROOT = Path(__file__).parents[2]

# The alerts for tests/data/known_readings.jsonl, worked out by hand: 50 °F are 10 °C, 95 °F are 35 °C.
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


class Running:
    """A consumer that runs in its own process."""

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
        """The partitions in the last line that lists them."""
        told = re.findall(r"^assigned partitions (.*)$", self.out, re.MULTILINE)
        return set(map(int, told[-1].split(", "))) if told else set()

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


Consumer = Callable[..., Running]


@pytest.fixture
def consumer(tmp_path: Path) -> Iterator[Consumer]:
    """``consumer(servers, topic, *flags)`` starts a consumer. It is killed at the end of the test if it still runs."""
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
    """The end offset and the committed offset of each partition."""
    reader = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group)
    partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic))]
    ends = reader.end_offsets(partitions)
    committed = [reader.committed(partition) for partition in partitions]
    reader.close(autocommit=False)
    return [ends[partition] for partition in partitions], committed


def test_prints_exactly_the_alerts_of_the_known_readings(broker, topic, consumer):
    send(broker.bootstrap_servers, topic, KNOWN_READINGS)
    flags = ("--group", topic, "--from-beginning", "--max-messages", len(KNOWN_READINGS))
    # --from-beginning also overrides what the group committed in the first run.
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


def test_stops_after_max_messages_and_prints_the_lag(broker, topic, consumer):
    for partition, count in enumerate((400, 30, 2)):
        send(broker.bootstrap_servers, topic, [temperature(20.0)] * count, partition)
    ran = consumer(broker.bootstrap_servers, topic, "--group", topic, "--from-beginning", "--max-messages", 100)
    assert ran.process.wait(60) == 0
    ends, committed = offsets(broker, topic, topic)
    assert sum(committed) == 100
    left = [end - position for end, position in zip(ends, committed, strict=True)]
    assert f"\nlag: 332 (0: {left[0]}, 1: {left[1]}, 2: {left[2]})\n" in ran.out


def test_a_killed_consumer_repeats_messages_and_loses_none(broker, topic, consumer, eventually):
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
    assert not third.alerts(), "committed messages are not repeated"


def test_a_consumer_killed_before_its_first_message_loses_none(broker, topic, consumer, eventually):
    send(broker.bootstrap_servers, topic, [temperature(99.0)])
    first = consumer(broker.bootstrap_servers, topic, "--group", topic)
    eventually(lambda: first.partitions() == {0, 1, 2})
    first.process.kill()
    send(broker.bootstrap_servers, topic, [temperature(100.0)])
    second = consumer(broker.bootstrap_servers, topic, "--group", topic, "--max-messages", 1)
    assert second.process.wait(60) == 0
    assert (first.values(), second.values()) == ([], [100.0]), "a new group starts at the end"


def test_two_members_share_the_partitions(broker, topic, consumer, eventually):
    one = consumer(broker.bootstrap_servers, topic, "--group", topic)
    eventually(lambda: one.partitions() == {0, 1, 2})
    two = consumer(broker.bootstrap_servers, topic, "--group", topic)
    # The first member prints its smaller assignment later than the second prints its own.
    eventually(lambda: two.partitions() and sorted([*one.partitions(), *two.partitions()]) == [0, 1, 2])
    wanted = [100.0 + number for number in range(90)]
    for partition in range(3):
        send(broker.bootstrap_servers, topic, map(temperature, wanted[partition::3]), partition)
    eventually(lambda: len(one.values()) + len(two.values()) >= len(wanted))
    # One member leaves, and the other takes over without repeating a message.
    assert two.interrupt() == 0
    assert re.search(rf"\nprocessed {len(two.values())} messages in .*\nmalformed: 0\nalerts: ", two.out)
    eventually(lambda: one.partitions() == {0, 1, 2})
    send(broker.bootstrap_servers, topic, [temperature(500.0)])
    eventually(lambda: 500.0 in one.values())
    assert one.interrupt() == 0
    assert sorted(one.values() + two.values()) == [*wanted, 500.0]
    ends, committed = offsets(broker, topic, topic)
    assert committed == ends


def test_reports_an_outage_of_kafka_once_and_continues_after_it(tmp_path, topic, consumer, eventually):
    with Broker(find_free_port(), tmp_path / "broker") as broker:
        servers = broker.bootstrap_servers
        ran = consumer(servers, "iot-sensors")
        eventually(lambda: ran.partitions() == {0, 1, 2})
        send(servers, "iot-sensors", [temperature(100.0)])
        eventually(lambda: ran.values() == [100.0])
        os.kill(broker.pid, signal.SIGKILL)
        outage = f"\nKafka at {servers} does not answer (it refuses connections); retrying until it does\n"
        eventually(lambda: outage in ran.out)
        broker.stop()
        broker.start()
        eventually(lambda: f"\nKafka at {servers} is back\n" in ran.out)
        send(servers, "iot-sensors", [temperature(200.0)])
        eventually(lambda: 200.0 in ran.values())
        assert ran.interrupt() == 0
        assert set(ran.values()) == {100.0, 200.0}
        assert (ran.out.count("does not answer"), ran.out.count("is back"), ran.err) == (1, 1, "")
        assert ran.out.endswith("\nlag: 0 (0: 0, 1: 0, 2: 0)\n")


def test_creates_a_missing_topic_and_warns_about_one_that_differs(broker, topic, consumer, eventually):
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


def test_without_a_broker_the_error_is_one_line(consumer):
    begun_s = time.monotonic()
    port = find_free_port()
    ran = consumer(f"localhost:{port}", "iot-sensors")
    assert ran.process.wait(30) == 1
    assert time.monotonic() - begun_s < 10
    assert ran.out == ""
    assert re.fullmatch(rf"error: no Kafka broker answers at localhost:{port}; .*python -m iot.broker .*\n", ran.err)


def test_a_closed_pipe_ends_the_consumer_without_a_traceback(broker, topic):
    script = f"{shlex.quote(sys.executable)} iot_consumer.py"
    command = f"{script} --bootstrap-servers {broker.bootstrap_servers} --topic {topic} | head -1"
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.startswith(f"reading {topic} at ")
