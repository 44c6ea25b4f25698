"""The windows query against the independent reference: one batch, live, as a backlog, and with kills."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark import TaskContext

from iot.alerts import DEFAULT_RULES
from iot.batches import BatchReport
from iot.kafka.offsets import start_offsets
from iot.kafka.topics import ensure_topics
from iot.readings import Message, encode, format_timestamp
from iot.settings import Kafka
from iot.spark import codegen, queries, windows
from iot.spark.fold import PARTIALS
from iot.spark.rejected import RejectedWriter
from tests.support import oracle
from tests.support.cases import CASES, bytes_of
from tests.support.oracle import Window
from tests.support.scripts import ROOT, started
from tests.support.streams import Results, start_query, stream, write

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def rejected_topic(broker, topic):
    name = f"{topic}-rejected"
    ensure_topics(broker.kafka, [name])
    return name


def test_half_a_million_readings_in_one_batch_are_exact(spark, broker, topic, rejected_topic, tmp_path):
    write(broker.kafka, topic, stream(500_000, seed=1, span_s=600, late=0.01))
    records = oracle.read_topic(broker.bootstrap_servers, topic)
    wanted = oracle.expected(records)
    assert wanted.late > 1_000
    assert wanted.rejected > 4_000
    results = Results()
    writer = RejectedWriter(broker.kafka, rejected_topic, topic)
    query = start_query(spark, broker, topic, tmp_path, results, trigger={"availableNow": True}, on_rejected=writer)
    assert query.awaitTermination(120)
    assert results.batches == 1
    results.require(wanted)
    # The topic of rejected messages has every malformed message, byte for byte, with its origin.
    malformed = {(r.partition, r.offset): (r.key, r.value) for r in records if oracle.parse(r.value) is None}
    found = {}
    for record in oracle.read_topic(broker.bootstrap_servers, rejected_topic):
        headers = dict(record.headers)
        assert headers["reason"]
        assert headers["source.topic"].decode() == topic
        found[int(headers["source.partition"]), int(headers["source.offset"])] = (record.key, record.value)
    assert found == malformed


def test_live_and_as_a_backlog_the_windows_are_the_same(spark, broker, topic, tmp_path):
    # Two sensors write to two partitions at unequal rates. The third partition gets one reading, which is late.
    messages = list(stream(30_000, seed=2, span_s=300, sensors=2))
    live = Results()
    query = start_query(spark, broker, topic, tmp_path / "live", live, trigger={"processingTime": "0 seconds"})
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
    query = start_query(spark, broker, topic, tmp_path / "later", caught_up, trigger={"availableNow": True})
    assert query.awaitTermination(60)
    assert caught_up.batches == 1
    caught_up.require(wanted)


@pytest.mark.long
@pytest.mark.parametrize("kills", [2, 5])
def test_windows_are_exact_after_kills_at_random_moments(broker, topic, tmp_path, eventually, kills):
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
        with started(
            [*command, str(checkpoint), str(results)], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                eventually(lambda: processed() >= written or process.poll() is not None, 120)  # noqa: B023  # called here
                assert process.poll() is None
                if kill < kills:
                    # Kill it at any moment while it processes the next part.
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
def test_workers_are_forked_with_their_imports_loaded(spark):
    def look(_: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
        shared = Path(f"/proc/{os.getppid()}/maps").read_text()
        found = {"daemon": parent[2].decode(), "arrow": "libarrow_compute" in shared, "aside": gc.get_freeze_count()}
        yield pa.RecordBatch.from_pylist([found])

    (found,) = spark.range(1, numPartitions=1).mapInArrow(look, "daemon string, arrow boolean, aside long").collect()
    assert (found.daemon, found.arrow) == ("iot.spark.worker", True)
    assert found.aside > 10_000, "after each task, garbage collection also scans the imported modules"


def test_whole_stage_code_generation_is_off_for_windows_only(spark, broker, topic, tmp_path, eventually, capfd):
    results = Results()
    query = start_query(spark, broker, topic, tmp_path, results, trigger={"processingTime": "100 milliseconds"})
    try:
        # The dashboard recognises an idle query by this message.
        eventually(lambda: query.status["message"].startswith("Waiting for"))
        write(broker.kafka, topic, stream(10, seed=3, span_s=10))
        eventually(lambda: results.batches)
        query.explain()
    finally:
        query.stop()
    plan = capfd.readouterr().out
    assert "StateStoreSave" in plan
    assert "*(" not in plan
    assert spark.conf.get("spark.sql.codegen.wholeStage") == "true", "other queries are affected"


def test_a_small_batch_is_interpreted(spark, broker, topic, tmp_path):
    """A batch counts as small if it follows the previous one soon. The first two do not: they may wait for Spark."""
    file, now_s = tmp_path / "settings", [0.0]
    durations_s: list[float] = []

    def note(_: pa.RecordBatch, __: list[tuple[int, str]]) -> None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{TaskContext.get().getLocalProperty(codegen.FACTORY_MODE)}\n")

    write(broker.kafka, topic, [(b"bad", b"{")])
    query = start_query(
        spark,
        broker,
        topic,
        tmp_path / "checkpoint",
        Results(),
        trigger={"processingTime": "100 milliseconds"},
        on_rejected=note,
        on_done=durations_s.append,
        clock=lambda: now_s[0],
    )
    try:
        query.processAllAvailable()
        for now_s[0] in (1.0, 3.0, 7.0, 9.0):
            write(broker.kafka, topic, [(b"bad", b"{")])
            query.processAllAvailable()
    finally:
        query.stop()
    # This clock stands still during a batch.
    assert durations_s == [0.0] * 5
    compiled, interpreted = codegen.COMPILED, codegen.INTERPRETED
    assert file.read_text().split() == [compiled, compiled, interpreted, compiled, interpreted]
    assert spark.conf.get(codegen.FACTORY_MODE) == compiled, "other queries are affected"


@pytest.mark.parametrize(("said", "taken"), [({}, "10000"), ({"max.poll.records": "77"}, "77")])
def test_what_was_fetched_is_taken_at_once_unless_the_client_properties_differ(spark, broker, said, taken):
    frame = queries.read_topic(spark, Kafka(broker.bootstrap_servers, said), "readings", {0: 0})
    options = frame._jdf.queryExecution().analyzed().collectLeaves().head().extraOptions()
    assert options.get("kafka.max.poll.records") == taken


@pytest.mark.parametrize(
    ("trigger", "said", "wait_ms"),
    [
        ({"realTime": "1 minute"}, {}, "100"),
        ({"realTime": "1 minute"}, {"fetch.max.wait.ms": "77"}, "77"),
        ({"realTime": "1 minute"}, {"fetch.min.bytes": "1"}, None),
        ({"availableNow": True}, {}, None),
    ],
)
def test_in_real_time_mode_fetches_wait_for_more_messages_unless_the_client_properties_differ(
    spark, broker, trigger, said, wait_ms
):
    frame = queries.read_topic(spark, Kafka(broker.bootstrap_servers, said), "readings", {0: 0}, trigger)
    options = frame._jdf.queryExecution().analyzed().collectLeaves().head().extraOptions()
    assert options.get("kafka.fetch.max.wait.ms") == wait_ms
    assert (options.get("kafka.fetch.min.bytes") == "500000") == (wait_ms == "100")


def test_every_case_of_the_table_gets_the_verdict_of_the_validator(spark):
    cases = [case for case in CASES if "kafka_timestamp_ms" not in case]
    rows = [(b"k", bytes_of(case), 0, number, -1) for number, case in enumerate(cases)]
    frame = spark.createDataFrame(rows, "key binary, value binary, partition int, offset long, timestamp_ms long")
    rows = windows.folded(frame.coalesce(1)).toArrow().column("partials").drop_null().to_pylist()
    folded = [pa.ipc.read_record_batch(pa.py_buffer(row), PARTIALS) for row in rows]
    assert sum(sum(batch.column("count").to_pylist()) for batch in folded) == sum("accept" in case for case in cases)


def test_windows_over_all_locations(spark, broker, topic, tmp_path):
    write(broker.kafka, topic, stream(3_000, seed=5, span_s=3))
    wanted = oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic)).windows
    results = Results()
    query = start_query(spark, broker, topic, tmp_path, results, trigger={"availableNow": True}, by_location=False)
    assert query.awaitTermination(60)
    found = {(end_s, sensor_type): window for (end_s, sensor_type, _), window in results.windows.items()}
    assert oracle.differences(found, oracle.over_all_locations(wanted)) == []


def test_tasks_know_the_rules_and_the_watched_sensors(spark, broker, topic, tmp_path):
    at_us = int(time.time() * 1e6)
    reports: list[BatchReport] = []
    asked: list[int] = []

    def keep(_: int, __: pa.Table, report: BatchReport) -> None:
        reports.append(report)

    def watched() -> dict[tuple[str, str], int]:
        asked.append(len(reports))
        first_messages = sum(report.messages for report in reports) < 2
        return {("t" if first_messages else "s", "temperature"): at_us}

    def send(*readings: tuple[str, float]) -> None:
        messages = [Message(name, "temperature", value, format_timestamp(at_us)) for name, value in readings]
        write(broker.kafka, topic, iter([(b"k", encode(message)) for message in messages]))

    send(("s", 31.0), ("t", 20.0))
    start = start_offsets(broker.kafka, topic, "earliest")
    query = windows.start_windows(
        queries.read_topic(spark, broker.kafka, topic, start),
        tmp_path,
        keep,
        trigger={"processingTime": "0 seconds"},
        sensors=True,
        alarm_rules=DEFAULT_RULES,
        watched=watched,
    )
    try:
        query.processAllAvailable()
        send(("t", 20.0))
        query.processAllAvailable()
        send(("s", 20.0), ("t", 20.0))
        query.processAllAvailable()
    finally:
        query.stop()
    candidates = [(one.sensor_id, one.value) for report in reports for one in report.candidates]
    assert candidates == [("s", 31.0), ("t", 20.0), ("s", 20.0)]
    assert asked == list(range(len(reports) + 1))


def test_state_does_not_grow_while_event_time_stands_still(spark, broker, topic, tmp_path):
    results = Results()
    query = start_query(spark, broker, topic, tmp_path, results, trigger={"processingTime": "0 seconds"})
    moment = format_timestamp(int(time.time()) * 1_000_000)
    try:
        for number in range(8):
            stuck = Message("sensor_0", "temperature", float(number), moment, "hall")
            write(broker.kafka, topic, [(b"sensor_0", encode(stuck))])
            query.processAllAvailable()
        rows = query.lastProgress["stateOperators"][0]["numRowsTotal"]
    finally:
        query.stop()
    assert results.batches >= 8
    # Three windows, and one row for the outcomes of all batches.
    assert rows == 4
    results.require(oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic)))
