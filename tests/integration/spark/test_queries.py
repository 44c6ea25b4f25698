"""Spark's windows against the independent reference: in one batch, live, catching up, and killed at random moments."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark import TaskContext
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from iot.batches import Report
from iot.broker.broker import Broker
from iot.kafka.offsets import start_offsets
from iot.kafka.sender import Record, make_sender
from iot.kafka.topics import ensure_topics
from iot.readings import Message, encode, format_timestamp
from iot.settings import Kafka
from iot.spark import queries
from iot.spark.rejected import RejectedWriter
from tests.support import oracle
from tests.support.oracle import Window
from tests.unit.test_readings import CASES, bytes_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[3]

TYPES = (
    ("temperature", "celsius"),
    ("humidity", "percent"),
    ("pressure", "hPa"),
    ("motion", "boolean"),
    ("co2", "ppm"),
)
MALFORMED = (b"{", b'{"sensor_id": "x"}', b"\xff\xfe", b"[1, 2]", b'{"sensor_id": 1, "sensor_type": "a", "value": 1}')


def stream(count: int, seed: int, span_s: int, late: float = 0.0, sensors: int = 100) -> Iterator[tuple[bytes, bytes]]:
    """Keys and messages in the order in which they are to be written: jitter, repeated times, 1 % malformed."""
    chance = random.Random(seed)
    begin_us = int(time.time() * 1e6) - span_s * 1_000_000
    sequence = [0] * sensors
    for number in range(count):
        sensor = chance.randrange(sensors)
        key = f"sensor_{sensor}".encode()
        if chance.random() < 0.01:
            yield key, chance.choice(MALFORMED)
            continue
        at_us = begin_us + number * span_s * 1_000_000 // count - chance.randrange(2_000_000)
        if number > count // 2 and chance.random() < late:
            at_us -= (100 + chance.randrange(100)) * 1_000_000
        if chance.random() < 0.05:
            at_us = at_us // 1_000_000 * 1_000_000
        sensor_type, unit = TYPES[sensor % len(TYPES)]
        value = round(chance.gauss(20, 8), 3)
        message = Message(
            key.decode(),
            sensor_type,
            value,
            format_timestamp(at_us),
            f"room {sensor % 7}",
            unit,
            "good",
            "r",
            sequence[sensor],
        )
        sequence[sensor] += 1
        yield key, encode(message)


def write(
    kafka: Any, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]], at_once: int = 1_000, **settings: Any
) -> None:
    """Write in an order that holds across partitions too: at most ``at_once`` are on their way."""
    sender = make_sender("confluent-kafka", kafka, topic, **{"linger.ms": 0}, **settings)
    stop = threading.Event()
    records = [Record(key=key, value=value) for key, value in messages]  # type: ignore[typeddict-item]
    # The first alone, and a millisecond before all others: Kafka's timestamps are to tell that it came before them.
    for at in (0, *range(1, len(records), at_once)):
        sender.send(records[at : at + at_once if at else 1], stop)
        assert sender.flush(60) == 0
        sent_ms = time.time_ns() // 1_000_000
        while not at and time.time_ns() // 1_000_000 == sent_ms:
            pass
    assert sender.failed == 0, sender.last_error
    sender.close()


class Results:
    """What ``start_windows`` hands on."""

    def __init__(self) -> None:
        self.windows: dict[tuple[int, str, str], Window] = {}
        self.batches = self.messages = self.rejected = self.late = 0

    def keep(self, _: int, rows: pa.Table, report: Report) -> None:
        self.batches += 1
        self.messages += report.messages
        self.rejected += report.rejected
        self.late += report.late
        for row in rows.to_pylist():
            key = (int(row["end"].timestamp()), row["sensor_type"], row["location"])
            self.windows[key] = Window(row["count"], row["total"] / row["count"], row["min"], row["max"])

    def require(self, wanted: oracle.Expected) -> None:
        assert (self.messages, self.rejected, self.late) == (wanted.readings, wanted.rejected, wanted.late)
        assert oracle.differences(self.windows, wanted.windows) == []


@pytest.fixture
def rejected_topic(broker, topic):
    name = f"{topic}-rejected"
    ensure_topics(broker.kafka, [name])
    return name


def windows_of(
    spark: SparkSession,
    broker: Broker,
    topic: str,
    folder: Path,
    results: Results,
    trigger: dict[str, Any],
    rejected: RejectedWriter | None = None,
) -> StreamingQuery:
    """The windows query over a topic from its beginning on."""
    start = start_offsets(broker.kafka, topic, "earliest")
    frame = queries.read_topic(spark, broker.kafka, topic, start)
    return queries.start_windows(spark, frame, str(folder), results.keep, {}, trigger, rejected)


def test_half_a_million_readings_in_one_batch(spark, broker, topic, rejected_topic, tmp_path):
    write(broker.kafka, topic, stream(500_000, seed=1, span_s=600, late=0.01))
    records = oracle.read_topic(broker.bootstrap_servers, topic)
    wanted = oracle.expected(records)
    assert wanted.late > 1_000
    assert wanted.rejected > 4_000
    results = Results()
    query = windows_of(
        spark,
        broker,
        topic,
        tmp_path,
        results,
        {"availableNow": True},
        rejected=RejectedWriter(broker.kafka, rejected_topic, topic),
    )
    assert query.awaitTermination(120)
    assert results.batches == 1
    results.require(wanted)
    # Each malformed message is in the topic of rejected ones, byte for byte, with where it came from.
    malformed = {(r.partition, r.offset): (r.key, r.value) for r in records if oracle.parse(r.value) is None}
    found = {}
    for record in oracle.read_topic(broker.bootstrap_servers, rejected_topic):
        headers = dict(record.headers)
        assert headers["reason"]
        assert headers["source.topic"].decode() == topic
        found[int(headers["source.partition"]), int(headers["source.offset"])] = (record.key, record.value)
    assert found == malformed


def test_catching_up_is_as_exact_as_living(spark, broker, topic, tmp_path):
    # Two sensors feed two of the partitions at unequal rates, the third stays idle but for one reading, far too late.
    messages = list(stream(30_000, seed=2, span_s=300, sensors=2))
    live = Results()
    query = windows_of(spark, broker, topic, tmp_path / "live", live, {"processingTime": "0 seconds"})
    try:
        for at in range(0, len(messages), 6_000):
            write(broker.kafka, topic, iter(messages[at : at + 6_000]), at_once=100)
            query.processAllAvailable()
        old_us = int(time.time() * 1e6) - 500_000_000
        late = Message("sensor_9", "temperature", 99.0, format_timestamp(old_us), "nowhere")
        write(broker.kafka, topic, iter([(b"sensor_9", encode(late))]))
        query.processAllAvailable()
    finally:
        query.stop()
    wanted = oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic))
    assert wanted.late == 1
    assert live.batches > 2
    live.require(wanted)
    caught_up = Results()
    frame = queries.read_topic(spark, broker.kafka, topic, start_offsets(broker.kafka, topic, "earliest"))
    query = queries.start_windows(spark, frame, str(tmp_path / "later"), caught_up.keep, {}, {"availableNow": True})
    assert query.awaitTermination(60)
    assert caught_up.batches == 1
    caught_up.require(wanted)


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.long)])
def test_killed_at_random_moments(broker, topic, tmp_path, eventually, kills):
    chance = random.Random(3)
    checkpoint, results = tmp_path / "checkpoint", tmp_path / "results"
    results.touch()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "IOT_LOG_DIR": str(tmp_path / "log")}
    command = [sys.executable, str(ROOT / "tests" / "support" / "windows_runner.py"), broker.bootstrap_servers, topic]
    messages = list(stream(44_000, seed=4, span_s=240, late=0.01))
    parts = [messages[at : at + 4_000] for at in range(0, len(messages), 4_000)]

    def processed() -> int:
        batches = {}
        for line in results.read_text().splitlines():
            batch = json.loads(line)
            batches[batch["batch"]] = batch["messages"] + batch["rejected"]
        return sum(batches.values())

    written = 0
    for kill in range(kills + 1):
        write(broker.kafka, topic, iter(parts[2 * kill]), at_once=150)
        written += len(parts[2 * kill])
        with subprocess.Popen(
            [*command, str(checkpoint), str(results)], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                eventually(lambda: processed() >= written or process.poll() is not None, 120)  # noqa: B023  # called here
                assert process.poll() is None
                if kill < kills:
                    # Killed at any moment of what it does with the next part.
                    feeder = threading.Thread(
                        target=write, args=(broker.kafka, topic, iter(parts[2 * kill + 1])), kwargs={"at_once": 150}
                    )
                    feeder.start()
                    time.sleep(2 * chance.random())
                    process.kill()
                    feeder.join()
                    written += len(parts[2 * kill + 1])
            finally:
                process.kill()
    kept = Results()
    counts = {}
    for line in results.read_text().splitlines():
        batch = json.loads(line)
        counts[batch["batch"]] = (batch["messages"], batch["rejected"], batch["late"])
        for end_s, sensor_type, location, count, total, low, high in batch["windows"]:
            kept.windows[int(end_s), sensor_type, location] = Window(count, total / count, low, high)
    kept.messages, kept.rejected, kept.late = map(sum, zip(*counts.values(), strict=True))
    kept.require(oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic)))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_workers_are_forked_with_all_that_they_import(spark):
    def look(_: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
        shared = Path(f"/proc/{os.getppid()}/maps").read_text()
        found = {"daemon": parent[2].decode(), "arrow": "libarrow_compute" in shared, "aside": gc.get_freeze_count()}
        yield pa.RecordBatch.from_pylist([found])

    (found,) = spark.range(1, numPartitions=1).mapInArrow(look, "daemon string, arrow boolean, aside long").collect()
    assert (found.daemon, found.arrow) == ("iot.spark.worker", True)
    assert found.aside > 10_000, "after each task, garbage is looked for in all that was imported"


def test_no_program_is_compiled_for_the_few_rows_of_a_batch(spark, broker, topic, tmp_path, eventually, capfd):
    results = Results()
    query = windows_of(spark, broker, topic, tmp_path, results, {"processingTime": "100 milliseconds"})
    try:
        # By these words the dashboard knows that it waits for nothing.
        eventually(lambda: query.status["message"].startswith("Waiting for"))
        write(broker.kafka, topic, stream(10, seed=3, span_s=10))
        eventually(lambda: results.batches)
        query.explain()
    finally:
        query.stop()
    plan = capfd.readouterr().out
    assert "StateStoreSave" in plan
    assert "*(" not in plan
    assert spark.conf.get("spark.sql.codegen.wholeStage") == "true", "other queries are not concerned"


def test_a_small_batch_is_interpreted(spark, broker, topic, tmp_path):
    """Small is what follows soon upon another, but for the first two: those may have waited for a start."""
    file, now_s = tmp_path / "settings", [0.0]

    def note(_: pa.RecordBatch, __: list[tuple[int, str]]) -> None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{TaskContext.get().getLocalProperty(queries.PROGRAMS)}\n")

    write(broker.kafka, topic, [(b"bad", b"{")])
    frame = queries.read_topic(spark, broker.kafka, topic, start_offsets(broker.kafka, topic, "earliest"))
    query = queries.start_windows(
        spark,
        frame,
        str(tmp_path / "checkpoint"),
        Results().keep,
        {},
        {"processingTime": "100 milliseconds"},
        rejected=note,  # type: ignore[arg-type]
        clock=lambda: now_s[0],
    )
    try:
        query.processAllAvailable()
        for now_s[0] in (1.0, 3.0, 7.0, 9.0):
            write(broker.kafka, topic, [(b"bad", b"{")])
            query.processAllAvailable()
    finally:
        query.stop()
    compiled, interpreted = queries.COMPILED, queries.INTERPRETED
    assert file.read_text().split() == [compiled, compiled, interpreted, compiled, interpreted]
    assert spark.conf.get(queries.PROGRAMS) == compiled, "other queries are not concerned"


@pytest.mark.parametrize(
    ("trigger", "said", "wait_ms"),
    [
        ({"realTime": "1 minute"}, {}, "10"),
        ({"realTime": "1 minute"}, {"fetch.max.wait.ms": "77"}, "77"),
        ({"realTime": "1 minute"}, {"fetch.min.bytes": "1"}, None),
        ({"availableNow": True}, {}, None),
    ],
)
def test_messages_gather_in_real_time_mode_unless_the_client_properties_say_how_they_come(
    spark, broker, trigger, said, wait_ms
):
    frame = queries.read_topic(spark, Kafka(broker.bootstrap_servers, said), "readings", {0: 0}, trigger)
    options = frame._jdf.queryExecution().analyzed().collectLeaves().head().extraOptions()
    assert options.get("kafka.fetch.max.wait.ms") == wait_ms
    assert (options.get("kafka.fetch.min.bytes") == "50000") == (wait_ms == "10")


def test_every_case_of_the_table_gets_the_validators_verdict(spark):
    cases = [case for case in CASES if "kafka_timestamp_ms" not in case]
    rows = [(b"k", bytes_of(case), 0, number, -1) for number, case in enumerate(cases)]
    frame = spark.createDataFrame(rows, "key binary, value binary, partition int, offset long, timestamp_ms long")
    folded = queries.partials(frame.coalesce(1)).toArrow()
    assert sum(count or 0 for count in folded.column("count").to_pylist()) == sum("accept" in case for case in cases)


def test_names_that_are_other_people_stay_apart(spark, broker, topic, tmp_path):
    """Windows by sensor type alone have no location, those by location do."""
    write(broker.kafka, topic, stream(3_000, seed=5, span_s=3))
    wanted = oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic)).windows
    results = Results()
    frame = queries.read_topic(spark, broker.kafka, topic, start_offsets(broker.kafka, topic, "earliest"))
    query = queries.start_windows(
        spark, frame, str(tmp_path), results.keep, {}, {"availableNow": True}, by_location=False
    )
    assert query.awaitTermination(60)
    found = {(end_s, sensor_type): window for (end_s, sensor_type, _), window in results.windows.items()}
    assert oracle.differences(found, oracle.over_all_locations(wanted)) == []
