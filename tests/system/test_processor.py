"""The processor as a user runs it: totals, alerts and windows on the terminal, and one line for each error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from iot.broker.broker import Broker, find_free_port
from iot.kafka.topics import ensure_topics
from iot.readings import Message, encode, format_timestamp
from tests.support.scripts import ROOT, started
from tests.support.streams import stream, write

pytestmark = pytest.mark.timeout(600)


class Run:
    """A running processor, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out, self.err = "", ""
        self._readers = [
            threading.Thread(target=self._read, args=("out", process.stdout)),
            threading.Thread(target=self._read, args=("err", process.stderr)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, pipe: IO[str]) -> None:
        for line in pipe:
            setattr(self, name, getattr(self, name) + line)

    def ended(self, timeout_s: float = 150) -> int:
        """Wait until it ends; return its exit status."""
        status = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join()
        return status

    def error(self) -> str:
        """Wait until it fails; return its error, which must be one line."""
        assert self.ended() == 1, self.out
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ")
        return self.err


class Processor:
    """Starts processors that keep all their state in one folder."""

    def __init__(self, broker: Broker, topic: str, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.flags = ["--bootstrap-servers", broker.bootstrap_servers, "--topic", topic]
        self.flags += ["--checkpoint-dir", str(self.checkpoints), "--starting-offsets", "earliest"]

    @contextmanager
    def running(self, *flags: str, **environment: str) -> Iterator[Run]:
        known = os.environ | {"IOT_LOG_DIR": str(self.folder / "log")} | environment
        command = [sys.executable, str(ROOT / "structured_streaming_processor.py"), *self.flags, *flags]
        with started(
            command, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            run = Run(process)
            try:
                yield run
            finally:
                process.kill()
                run.ended()


@pytest.fixture
def processor(broker, topic, tmp_path):
    return Processor(broker, topic, tmp_path)


@pytest.fixture
def admin(broker):
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    yield client
    client.close()


def test_available_now_counts_every_message_and_expired_messages_are_an_error(broker, topic, processor, admin):
    write(broker.kafka, topic, stream(5_000, seed=21, span_s=100))
    with processor.running("--available-now", "--by-location") as run:
        assert run.ended() == 0, run.err
    partitions = [TopicPartition(topic, number) for number in range(3)]
    with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers) as consumer:
        ends = consumer.end_offsets(partitions)
    [readings, rejected] = re.findall(r"^([\d,]+) readings, ([\d,]+) rejected", run.out, re.MULTILINE)[-1]
    assert int(readings.replace(",", "")) + int(rejected.replace(",", "")) == sum(ends.values()) == 5_000
    assert "alerts to iot-alerts in micro-batches: real-time mode has no end, and --available-now does" in run.out
    newest = r"^\d\d:\d\d:\d\d–\d\d:\d\d:\d\d {3}co2 +room \d +\d+( +-?\d+\.\d\d){3}  ppm$"
    assert re.search(newest, run.out, re.MULTILINE)
    # No output of Spark's own.
    assert "WARN" not in run.out + run.err
    # Messages are written and expire before the processor reads them.
    write(broker.kafka, topic, stream(500, seed=22, span_s=100))
    admin.delete_records(dict.fromkeys(partitions, -1))
    with processor.running("--available-now") as run:
        assert "expired" in run.error()
    assert f"; to reset: rm -r -- {processor.checkpoints}/" in run.err


def test_live_output_restart_and_a_deleted_topic(broker, tmp_path, admin, eventually):
    topic = f"test-{tmp_path.name}"
    processor = Processor(broker, topic, tmp_path)
    # It creates the missing topic.
    with processor.running() as run:
        eventually(lambda: "in real-time mode" in run.out or run.process.poll() is not None, 150)
        assert "Spark UI http://127.0.0.1:" in run.out
        now_us = int(time.time() * 1e6)
        hot = Message("oven\x1b[31m", "temperature", 99.5, format_timestamp(now_us), "kitchen")
        mild = Message("sofa", "temperature", 20.5, format_timestamp(now_us), "kitchen")
        write(broker.kafka, topic, iter([(b"oven", encode(hot)), (b"sofa", encode(mild)), (b"x", b"{")]))
        eventually(lambda: "ALERT HIGH_TEMPERATURE" in run.out, 100)
        totals = re.compile(r"2 readings, 1 rejected.*^\S+ +temperature .*\n", re.DOTALL | re.MULTILINE)
        eventually(lambda: totals.search(run.out), 100)
        # Its results come before the end of the batch; a batch that has not ended is repeated after a restart.
        checkpoint = processor.checkpoints / "spark-windows-checkpoint"
        eventually(lambda: numbers(checkpoint / "offsets") == numbers(checkpoint / "commits"), 100)
        assert r"oven\x1b[31m 99.5 celsius > 30.0" in run.out
        assert re.search(r"temperature +2 +60\.00 +20\.50 +99\.50 +celsius", run.out)
        run.process.send_signal(signal.SIGINT)
        assert run.ended() == 0
    assert run.err == ""
    assert re.search(r"^2 readings, 1 rejected, 0 late, 1 alerts$", run.out, re.M)
    # It continues after its last batch, and reports when its topic is deleted.
    with processor.running() as run:
        eventually(lambda: "in real-time mode" in run.out, 150)
        write(broker.kafka, topic, iter([(b"sofa", encode(mild))]))
        eventually(lambda: "1 readings, 0 rejected" in run.out, 150)
        admin.delete_topics([topic])
        assert "query failed: " in run.error()
    # A topic that was deleted and created again is another topic, although its name is the same.
    ensure_topics(broker.kafka, [topic])
    assert "is of an earlier topic" in failure(processor)
    assert "to reset: rm -r" in failure(processor)


def numbers(folder: Path) -> set[str]:
    """The batches of which a checkpoint has begun, or ended, the work."""
    return {path.name for path in folder.glob("[0-9]*")}


def failure(of: Processor, *flags: str) -> str:
    """The error of a processor that fails before it starts Spark."""
    with of.running(*flags) as run:
        message = run.error()
    assert "starting Spark" not in run.out
    return message


def test_a_checkpoint_of_another_topic_or_program_is_an_error(broker, topic, processor, tmp_path):
    folder = processor.checkpoints / "spark-windows-checkpoint"
    (folder / "offsets").mkdir(parents=True)
    assert "is a checkpoint of another program; choose another folder with --checkpoint-dir" in failure(processor)
    (folder / "iot-notes.json").write_text('{"identity": {"topic": "elsewhere", "topic_id": "x"}, "start": {}}')
    assert f"is of topic elsewhere, not {topic}" in failure(processor)
    (folder / "iot-notes.json").write_text('{"identity": {"topic": "elsew')
    assert "cannot read " in failure(processor)


def test_without_a_broker_the_error_names_its_address(processor):
    address = f"localhost:{find_free_port()}"
    assert f"no Kafka broker answers at {address}" in failure(processor, "--bootstrap-servers", address)


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        ((), {"IOT_DRIVER_MEMORY": "64m"}, "IOT_DRIVER_MEMORY"),
        (("--master", "nonsense"), {}, "not a Spark master; for example local[8] or spark://HOST:7077"),
    ],
)
def test_wrong_settings_of_spark_are_an_error(processor, flags, environment, said):
    with processor.running(*flags, **environment) as run:
        assert said in run.error()
