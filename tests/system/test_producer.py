"""The whole producer against a real broker: every message arrives once and in order, despite outages and signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka import KafkaAdminClient

from iot.broker.broker import Broker, find_free_port
from iot.kafka.sender import CLIENTS
from iot.kafka.topics import TOPICS
from iot.readings import Reading, Rejected, decode
from tests.support.readings import valid_fields
from tests.support.scripts import read_until
from tests.support.topics import read_back

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parents[1] / "data"


def command(broker: Broker | int, flags: str) -> list[str]:
    port = broker if isinstance(broker, int) else broker.port
    return [sys.executable, "iot_producer.py", "--bootstrap-servers", f"localhost:{port}", *flags.split()]


def run(broker: Broker | int, flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(broker, flags), cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


def start(broker: Broker | int, flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(broker, flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def counts(summary: str) -> dict[str, int]:
    """Return the numbers of a summary by name."""
    names = "sent|acknowledged|failed|not acknowledged|malformed|late"
    return {name: int(number.replace(",", "")) for name, number in re.findall(rf"^({names}):? ([\d,]+)", summary, re.M)}


class Delivered(NamedTuple):
    """The content of a topic: readings and partitions by sensor, and the number of malformed messages."""

    readings: dict[str, list[Reading]]
    partitions: dict[str, set[int]]
    malformed: int

    @property
    def total(self) -> int:
        return sum(map(len, self.readings.values()))

    def prove_complete(self) -> None:
        """Assert that no reading is missing, doubled or out of order, and that a sensor has one partition."""
        for sensor_id, readings in self.readings.items():
            assert [reading.sequence for reading in readings] == list(range(len(readings))), sensor_id
            assert len({reading.run_id for reading in readings}) == 1
            assert len(self.partitions[sensor_id]) == 1


def delivered(broker: Broker, topic: str) -> Delivered:
    readings, partitions, malformed = defaultdict(list), defaultdict(set), 0
    for partition, found in read_back(broker.bootstrap_servers, topic).items():
        for key, value in found:
            try:
                reading = decode(value, time.time_ns() // 1_000_000)
            except Rejected:
                malformed += 1
                continue
            assert key == reading.sensor_id.encode()
            readings[reading.sensor_id].append(reading)
            partitions[reading.sensor_id].add(partition)
    return Delivered(readings, partitions, malformed)


@pytest.mark.parametrize("client", CLIENTS)
def test_it_delivers_exactly_the_requested_readings(client, broker, topic):
    ran = run(broker, f"--topic {topic} --client {client} --sensors 20 --rate 1000 --duration 2 --threads 3 --seed 1")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert counts(ran.stdout) == {"sent": 2_000, "acknowledged": 2_000, "failed": 0, "malformed": 0, "late": 0}
    found = delivered(broker, topic)
    found.prove_complete()
    assert (found.total, found.malformed, len(found.readings)) == (2_000, 0, 20)
    assert {len(readings) for readings in found.readings.values()} == {100}
    times_us = sorted(reading.time_us for readings in found.readings.values() for reading in readings)
    assert times_us[-1] - times_us[0] == pytest.approx(1_999_000, abs=1_000)


def test_injected_faults_are_counted_and_leave_no_gaps(broker, topic):
    ran = run(broker, f"--topic {topic} --rate 5000 --count 2000 --malformed-ratio 0.1 --late-ratio 0.1 --verbose")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = delivered(broker, topic)
    found.prove_complete()
    said = counts(ran.stdout)
    assert found.malformed == said["malformed"]
    assert found.total == 2_000 - said["malformed"]
    newest_us = max(reading.time_us for readings in found.readings.values() for reading in readings)
    late = [r for readings in found.readings.values() for r in readings if newest_us - r.time_us > 59_000_000]
    assert len(late) == said["late"] > 100
    assert len(re.findall(r'^\{"sensor_id":"sensor_\d', ran.stdout, re.M)) > found.total


def test_a_missing_topic_is_created_and_a_different_one_is_a_warning(broker):
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.create_topics({"one-partition": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    ran = run(broker, "--topic one-partition --rate 100 --count 3")
    assert ran.returncode == 0
    assert ran.stderr.splitlines() == [
        "warning: topic one-partition has 1 partitions, not 3",
        "warning: topic one-partition has message.timestamp.type=CreateTime, not LogAppendTime",
    ]
    assert run(broker, "--topic made-by-the-producer --rate 100 --count 3").stderr == ""
    assert delivered(broker, "made-by-the-producer").total == 3
    admin.close()


@pytest.mark.parametrize("file", ["readings.csv", "readings.jsonl"])
def test_it_replays_a_file(file, broker, topic):
    ran = run(broker, f"--topic {topic} --replay tests/data/{file} --rate 50 --timestamps recorded --threads 2")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = delivered(broker, topic)
    found.prove_complete()
    assert {sensor: [r.timestamp[:16] for r in readings] for sensor, readings in found.readings.items()} == {
        "buoy_1": ["2016-02-15T00:00", "2016-02-15T00:30"],
        "buoy_2": ["2016-02-15T00:10", "2016-02-15T00:20"],
        "vane_1": ["2016-02-15T01:20"],
    }


def test_a_bad_line_in_a_file_is_named_and_the_rest_is_sent(broker, topic, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_bytes((DATA / "readings.csv").read_bytes().replace(b"40.9", b"cold"))
    ran = run(broker, f"--topic {topic} --replay {bad} --rate 50")
    assert ran.returncode == 0
    assert ran.stderr == f"not sent: {bad}, line 6: value: 'cold' is not a number\n"
    assert f"{bad} was recognised as:\n  form" in ran.stdout
    found = delivered(broker, topic)
    found.prove_complete()
    assert found.total == 4


def test_a_published_file_is_sent_as_what_it_means(broker, topic):
    published = DATA / "forms" / "sensor-community" / "as-published.csv"
    ran = run(broker, f"--topic {topic} --replay {published} --rate 50 --timestamps recorded")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = delivered(broker, topic)
    found.prove_complete()
    expected = json.loads((published.parent / "expected.json").read_text(encoding="utf-8"))["readings"]
    [readings] = found.readings.values()
    assert [(r.sensor_id, r.sensor_type, r.location, r.value, r.unit, r.timestamp) for r in readings] == [
        tuple(each[name] for name in ("sensor_id", "sensor_type", "location", "value", "unit", "timestamp"))
        for each in expected
    ]


def test_a_file_that_nobody_can_tell_needs_a_map(broker, topic):
    folder = DATA / "forms" / "day-first"
    refused = run(broker, f"--topic {topic} --replay {folder / 'as-published.csv'}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert 'format = "day first"' in refused.stderr
    assert delivered(broker, topic).total == 0
    ran = run(broker, f"--topic {topic} --replay {folder / 'as-published.csv'} --map {folder / 'map.toml'}")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(delivered(broker, topic).readings) == {"Room Admin In", "Room Admin Out"}


def test_a_long_file_is_sent_completely_whatever_the_threads(broker, topic, tmp_path):
    long = tmp_path / "long.csv"
    rows = (f"s{number % 7},temperature,{number},{1_700_000_000 + number}\n" for number in range(120_000))
    long.write_text("sensor_id,sensor_type,value,timestamp\n" + "".join(rows))
    ran = run(broker, f"--topic {topic} --replay {long} --rate 1e6 --threads 3 --timestamps recorded")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "replaying 120,000 readings of " in ran.stdout
    found = delivered(broker, topic)
    found.prove_complete()
    assert found.total == 120_000
    assert all([r.value for r in each] == sorted(r.value for r in each) for each in found.readings.values())


def test_without_a_broker_it_says_how_to_start_one():
    port = find_free_port()
    begun_s = time.monotonic()
    ran = run(port, "")
    assert time.monotonic() - begun_s < 10
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(rf"error: no Kafka .*localhost:{port}; .*python -m iot.broker --port {port}\n", ran.stderr)


@pytest.mark.parametrize("client", CLIENTS)
def test_ctrl_c_stops_once_everything_is_acknowledged(client, broker, topic):
    process = start(broker, f"--topic {topic} --client {client} --rate 500 --verbose")
    for _ in range(300):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out = process.stdout.read()
    assert (process.wait(30), process.stderr.read()) == (0, "")
    said = counts(out)
    found = delivered(broker, topic)
    found.prove_complete()
    assert said["sent"] == said["acknowledged"] == found.total >= 299


@pytest.mark.parametrize(
    "source",
    [
        "--replay <(cat {file})",
        "--replay - < {file}",
        "--replay /dev/stdin < <(gzip -c {file})",
        "--replay <(cat <(head -500 {file} | gzip) <(tail -500 {file} | gzip))",
    ],
)
def test_a_recording_that_can_be_read_only_once_is_sent_completely(source, broker, topic, tmp_path):
    file = tmp_path / "thousand.jsonl"
    # Lines of 128 bytes: the beginning that tells the format ends with a line.
    lines = [json.dumps(valid_fields(sensor_id=f"s{number % 7}", value=number)) for number in range(1_000)]
    file.write_text("".join(f"{line:<127}\n" for line in lines))
    text = shlex.join(command(broker, f"--topic {topic} --rate 5000")) + " " + source.format(file=file)
    ran = subprocess.run(["bash", "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "replaying 1,000 readings of " in ran.stdout
    found = delivered(broker, topic)
    found.prove_complete()
    assert sorted(reading.value for readings in found.readings.values() for reading in readings) == list(range(1_000))


def test_a_closed_output_pipe_stops_it_without_losing_a_reading(broker, topic):
    process = start(broker, f"--topic {topic} --rate 500 --verbose")
    lines = [process.stdout.readline() for _ in range(100)]
    process.stdout.close()
    assert process.wait(30) == 1
    assert process.stderr.read() == ""
    found = delivered(broker, topic)
    found.prove_complete()
    assert found.total >= len(lines) - 1


@pytest.mark.long
def test_a_killed_broker_that_comes_back_loses_nothing(tmp_path, eventually):
    """Two producers continue. A third is stopped during the outage, and a fourth is stopped twice."""
    port = find_free_port()
    names = (*CLIENTS, "stopped", "ended")
    with Broker(port, tmp_path, topics=(*TOPICS, *names)) as killed:
        flags = "--sensors 20 --rate 300 --topic"
        processes = {client: start(port, f"{flags} {client} --client {client}") for client in CLIENTS}
        processes |= {name: start(port, f"{flags} {name}") for name in ("stopped", "ended")}
        for name in names:
            eventually(lambda name=name: delivered(killed, name).total > 200, 60)
        os.kill(killed.pid, signal.SIGKILL)
    for process in processes.values():
        read_until(process, r"Kafka at .* has acknowledged nothing for 3 s \(it refuses connections\); ")

    for name in ("stopped", "ended"):
        processes[name].send_signal(signal.SIGINT)
        read_until(processes[name], "stopping once ")
    with pytest.raises(subprocess.TimeoutExpired):
        # Signals within half a second are one request.
        processes["ended"].wait(0.6)
    processes["ended"].send_signal(signal.SIGINT)
    assert processes["ended"].wait(5) == 130
    assert processes["stopped"].wait(20) == 1
    said = counts(processes["stopped"].stdout.read())
    assert said["sent"] - said["acknowledged"] == said["not acknowledged"] > 0
    assert said["failed"] == 0

    with Broker(port, tmp_path) as again:
        for client in CLIENTS:
            read_until(processes[client], r"Kafka at .* is back after \d+ s$")
            processes[client].send_signal(signal.SIGINT)
            assert processes[client].wait(60) == 0
            found, summary = delivered(again, client), counts(processes[client].stdout.read())
            found.prove_complete()
            assert summary["sent"] == summary["acknowledged"] == found.total > 300 * 10
        assert said["acknowledged"] <= delivered(again, "stopped").total <= said["sent"]
    for process in processes.values():
        assert process.stderr.read() == ""
        process.stdout.close()
        process.stderr.close()
