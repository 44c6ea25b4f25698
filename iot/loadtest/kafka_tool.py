"""Kafka's own load test, ``org.apache.kafka.tools.ProducerPerformance``, measured like our tests."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from iot.environment import jvm_options
from iot.java.jars import class_path, read_lock
from iot.java.runtime import java_executable
from iot.loadtest.latency import Milliseconds
from iot.loadtest.results import Result
from iot.loadtest.usage import Usage
from iot.processes import Stopped, spawn
from iot.sensors.fleet import Fleet
from iot.settings import Kafka, UserError

NAME = "ProducerPerformance"
MAIN_CLASS = f"org.apache.kafka.tools.{NAME}"
# The settings of ``ConfluentSender``.
BATCH_BYTES, LINGER_MS = 262_144, 5
# How often to check whether the tool has ended.
LOOK_S = 0.1

_SUMMARY = re.compile(
    r"(\d+) records sent, ([\d.]+) records/sec \([\d.]+ MB/sec\), ([\d.]+) ms avg latency, ([\d.]+) ms max latency, "
    r"(\d+) ms 50th, (\d+) ms 95th, (\d+) ms 99th, (\d+) ms 99.9th"
)


def record_size() -> int:
    """The average size of a reading, in bytes."""
    records = Fleet(100, 1, "deadbeef").records(time.time_ns() // 1000 + np.arange(10_000))
    return round(sum(len(record["value"]) for record in records) / len(records))


def run(kafka: Kafka, topic: str, messages: int, stop: threading.Event) -> Result:
    """Let the tool send this many records, each as large as a reading.

    Raises:
        UserError: the tool cannot run, or did not send all records.
    """
    with tempfile.TemporaryDirectory(prefix="iot-load-test-") as folder:
        command = [str(java_executable()), *jvm_options(), "-cp", class_path("tools"), MAIN_CLASS, "--topic", topic]
        command += ["--num-records", str(messages), "--record-size", str(record_size()), "--throughput", "-1"]
        command += ["--bootstrap-server", kafka.bootstrap_servers, "--command-config", _config(kafka, Path(folder))]
        said_file = Path(folder, "said")
        with open(said_file, "wb") as output:
            begun_s = time.monotonic()
            process = spawn(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            usage = Usage([process.pid], begun_s)
            while process.poll() is None:
                if stop.wait(LOOK_S):
                    process.kill()
                    process.wait()
                usage.look(0, time.monotonic())
        said = said_file.read_text(errors="replace")
    summaries = _SUMMARY.findall(said)
    if process.returncode or not summaries or int(summaries[-1][0]) != messages:
        if stop.is_set():
            raise Stopped("stopped before the comparison was complete")
        why = " ".join(said.split()[-40:]) or "it printed nothing"
        raise UserError(f"Kafka's {NAME} did not send {messages:,} records: {why}")
    return _result(topic, messages, [float(number) for number in summaries[-1]], usage)


def _config(kafka: Kafka, folder: Path) -> str:
    properties = kafka.properties | {
        "acks": "all",
        "enable.idempotence": "true",
        "batch.size": str(BATCH_BYTES),
        "linger.ms": str(LINGER_MS),
    }
    path = folder / "producer.properties"
    path.touch(mode=0o600)
    escaped = {key: value.replace("\\", "\\\\").replace("\n", "\\n") for key, value in properties.items()}
    path.write_text("".join(f"{key}={value}\n" for key, value in escaped.items()))
    return os.fspath(path)


def _result(topic: str, messages: int, numbers: list[float], usage: Usage) -> Result:
    _, per_s, mean, longest, p50, p95, p99, p99_9 = numbers
    return Result(
        test="compare",
        client=NAME,
        client_version=next(jar.version for jar in read_lock()["tools"] if jar.artifact == "kafka-tools"),
        threads=1,
        messages=messages,
        messages_sent=messages,
        messages_acknowledged=messages,
        messages_failed=0,
        success_rate_pct=100.0,
        duration_s=round(messages / per_s, 6),
        throughput_per_s=round(per_s, 3),
        latency_ms=Milliseconds(mean, p50, p95, p99, p99_9, longest),
        # It prints no more than these.
        latency_curve=[(2.0, p50), (20.0, p95), (100.0, p99), (1000.0, p99_9), (float(messages), longest)],
        latency_from="the hand-over to the client",
        latency_of_one_in=1,
        warm_up_pct=0,
        cpu_pct=usage.cpu_pct(messages / per_s),
        machine_cpu_pct=usage.machine_cpu_pct,
        throughput_per_cpu_pct=usage.per_cpu_pct(messages),
        memory_peak_mb=round(usage.memory_peak_mb, 1),
        batching=f"batches of up to {BATCH_BYTES:,} bytes, linger {LINGER_MS} ms",
        in_flight="5 batches per connection in flight, 32 MiB waiting",
        topic=topic,
        topic_grew_by=None,
        timeline=usage.samples,
    )
