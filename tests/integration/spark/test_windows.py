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
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark import TaskContext

from iot.kafka.topics import ensure_topics
from iot.readings import Message, encode, format_timestamp
from iot.settings import Kafka
from iot.spark import codegen, queries, windows
from iot.spark.fold import PARTIALS
from iot.spark.rejected import RejectedWriter
from tests.support import oracle
from tests.support.oracle import Window
from tests.support.streams import Results, stream, windows_of, write
from tests.unit.test_readings import CASES, bytes_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def rejected_topic(broker, topic):
    name = f"{topic}-rejected"
    ensure_topics(broker.kafka, [name])
    return name


def test_half_a_million_readings_in_one_batch(spark, broker, topic, rejected_topic, tmp_path):
    write(broker.kafka, topic, stream(500_000, seed=1, span_s=600, late=0.01))
    records = oracle.read_topic(broker.bootstrap_servers, topic)
    wanted = oracle.expected(records)
    assert wanted.late > 1_000
    assert wanted.rejected > 4_000
    results = Results()
    writer = RejectedWriter(broker.kafka, rejected_topic, topic)
    query = windows_of(spark, broker, topic, tmp_path, results, trigger={"availableNow": True}, on_rejected=writer)
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
    query = windows_of(spark, broker, topic, tmp_path / "live", live, trigger={"processingTime": "0 seconds"})
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
    query = windows_of(spark, broker, topic, tmp_path / "later", caught_up, trigger={"availableNow": True})
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
    query = windows_of(spark, broker, topic, tmp_path, results, trigger={"processingTime": "100 milliseconds"})
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
            lines.write(f"{TaskContext.get().getLocalProperty(codegen.FACTORY_MODE)}\n")

    write(broker.kafka, topic, [(b"bad", b"{")])
    query = windows_of(
        spark,
        broker,
        topic,
        tmp_path / "checkpoint",
        Results(),
        trigger={"processingTime": "100 milliseconds"},
        on_rejected=note,
        clock=lambda: now_s[0],
    )
    try:
        query.processAllAvailable()
        for now_s[0] in (1.0, 3.0, 7.0, 9.0):
            write(broker.kafka, topic, [(b"bad", b"{")])
            query.processAllAvailable()
    finally:
        query.stop()
    compiled, interpreted = codegen.COMPILED, codegen.INTERPRETED
    assert file.read_text().split() == [compiled, compiled, interpreted, compiled, interpreted]
    assert spark.conf.get(codegen.FACTORY_MODE) == compiled, "other queries are not concerned"


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
    rows = windows.folded(frame.coalesce(1)).toArrow().column("partials").drop_null().to_pylist()
    folded = [pa.ipc.read_record_batch(pa.py_buffer(row), PARTIALS) for row in rows]
    assert sum(sum(batch.column("count").to_pylist()) for batch in folded) == sum("accept" in case for case in cases)


def test_names_that_are_other_people_stay_apart(spark, broker, topic, tmp_path):
    """Windows by sensor type alone have no location, those by location do."""
    write(broker.kafka, topic, stream(3_000, seed=5, span_s=3))
    wanted = oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic)).windows
    results = Results()
    query = windows_of(spark, broker, topic, tmp_path, results, trigger={"availableNow": True}, by_location=False)
    assert query.awaitTermination(60)
    found = {(end_s, sensor_type): window for (end_s, sensor_type, _), window in results.windows.items()}
    assert oracle.differences(found, oracle.over_all_locations(wanted)) == []


def edges(now_s: int) -> list[tuple[str, int, int]]:
    """(sensor, time, step) for readings that are late by 0 to 40 s, right at the edges of windows and of the watermark.

    Each step is written once the one before it has a smaller Kafka timestamp.
    """
    plan, step = [], 0
    # Where in its slot of ten seconds the newest reading is: on the edges, and a microsecond beside them.
    for newest_us in (now_s * 1_000_000 + at for at in (0, 1, 4_999_999, 5_000_000, 5_000_001, 9_999_999)):
        step += 1
        plan.append(("ahead", newest_us, step))
        for late_us in sorted(
            {edge * 1_000_000 + more for edge in (*range(41), *range(0, 41, 5)) for more in (-1, 0, 1)}
        ):
            if late_us >= 0:
                # The sensors are in partitions of their own, also in that of the newest reading.
                plan += [(f"sensor_{number}", newest_us - late_us, step + 1) for number in range(4)]
        step += 1
        now_s += 40
    return plan


def write_edges(kafka: Kafka, topic: str, plan: list[tuple[str, int, int]], wait: Callable[[], None]) -> None:
    for step in sorted({step for *_, step in plan}):
        rows = [(sensor, at_us) for sensor, at_us, of in plan if of == step]
        value = 20.0 + step
        written = [
            (sensor.encode(), encode(Message(sensor, "temperature", value, format_timestamp(at_us), "hall")))
            for sensor, at_us in rows
        ]
        write(kafka, topic, written)
        wait()


def test_lateness_from_0_to_40_s_is_exact_live_and_as_a_backlog(spark, broker, topic, tmp_path):
    plan = edges(int(time.time()) - 400)
    live = Results()
    query = windows_of(spark, broker, topic, tmp_path / "live", live, trigger={"processingTime": "0 seconds"})
    try:
        write_edges(broker.kafka, topic, plan, query.processAllAvailable)
    finally:
        query.stop()
    wanted = oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic))
    assert wanted.late > len(plan) / 2
    assert live.batches > 5
    live.require(wanted)
    backlog = Results()
    query = windows_of(spark, broker, topic, tmp_path / "backlog", backlog, trigger={"availableNow": True})
    assert query.awaitTermination(60)
    assert backlog.batches == 1
    backlog.require(wanted)


@pytest.mark.parametrize("slack_s", [0, 15, 3_600])
def test_how_long_spark_keeps_state_changes_no_result(spark, broker, topic, tmp_path, slack_s):
    results = Results()
    trigger = {"processingTime": "0 seconds"}
    query = windows_of(spark, broker, topic, tmp_path, results, trigger=trigger, state_slack_s=slack_s)
    try:
        write_edges(broker.kafka, topic, edges(int(time.time()) - 400), query.processAllAvailable)
    finally:
        query.stop()
    assert results.batches > 5
    results.require(oracle.expected(oracle.read_topic(broker.bootstrap_servers, topic)))
