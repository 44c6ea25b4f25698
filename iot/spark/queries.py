"""The streams: from messages in Kafka to windows, a report on each batch, and alerts; from DataFrame to DataFrame.

    messages   key, value, partition, offset, timestamp_ms        a row per message of the topic
    partials   slot, sensor type, location, count, total, …       a row per group of readings, validated and folded
    judged     the same by event time, less what came too late    and one row with the report on the batch
    windows    window, sensor type, location, count, avg, …       kept by Spark, 30 s long, one every 10 s

``iot.spark.fold`` and ``iot.spark.lateness`` do the second and third step in Python over Arrow; the windows, their
watermark and their state are Spark's own. The alerts take a way of their own, ``iot.spark.alerts``.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from iot.batches import Context, Offsets, Report, decode_report
from iot.settings import LATENESS_S, PARTITIONS, SLIDE_S, WINDOW_S, Kafka
from iot.spark import fold, lateness
from iot.spark.rejected import RejectedWriter
from iot.spark.session import slots

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

CONTEXTS = "iot.contexts"
BATCH_ID = "streaming.sql.batchId"
# Once folded, a batch is a few thousand rows: compiling a program for them takes longer than the rows do. A backlog,
# where it would be for millions of messages too, is worked off no slower.
PLAIN = {"spark.sql.codegen.wholeStage": "false"}
# What is left of programs is written out anew for each batch, to find it compiled: that is half of what the tasks of a
# small batch do. Interpreted, a large one takes a fifth longer. It is an internal setting of Spark's, to be looked at
# with each new version.
PROGRAMS, INTERPRETED, COMPILED = "spark.sql.codegen.factoryMode", "NO_CODEGEN", "FALLBACK"
# A batch has what was sent since the one before began; if that is no longer ago, it is small. Not so the second after a
# start: the first may be one that was cut off, and then the second has all that came since.
SMALL_S, STARTING_BATCHES = 3.0, 2
# In real-time mode each message is fetched by itself, and at a thousand a second that costs Spark and the broker more
# than all else about it. So messages gather for some milliseconds; when hardly any come, that costs 0.07 of a core.
GATHERED = {"kafka.fetch.max.wait.ms": "10", "kafka.fetch.min.bytes": "50000"}
# In real-time mode a batch is only how often progress is kept, and alerts stand still for about a second meanwhile.
REAL_TIME_BATCH = "2 minutes"

Contexts = dict[int, Context]
"""What a batch has to know of those before it, by the id of that batch."""

_encode_contexts = msgspec.json.encode
_decode_contexts = msgspec.json.Decoder(Contexts, strict=False).decode


def kafka_options(kafka: Kafka) -> dict[str, str]:
    """The connection as options of Spark's Kafka source and sink."""
    options = {f"kafka.{key}": value for key, value in kafka.properties.items()}
    return options | {"kafka.bootstrap.servers": kafka.bootstrap_servers}


def read_topic(
    spark: SparkSession, kafka: Kafka, topic: str, start: Offsets, trigger: Mapping[str, Any] | None = None
) -> DataFrame:
    """The topic as a stream of Kafka's own columns, from ``start`` on; what was not read yet must not have expired.

    Args:
        trigger: of the query, if that may run in real-time mode: then messages are ``GATHERED``, unless ``kafka`` says
            itself how they are fetched.
    """
    options = kafka_options(kafka)
    if "realTime" in (trigger or {}) and not options.keys() & GATHERED.keys():
        options |= GATHERED
    source = spark.readStream.format("kafka").options(**options)
    offsets = {topic: {str(partition): offset for partition, offset in start.items()}}
    source = source.option("subscribe", topic).option("startingOffsets", json.dumps(offsets))
    return source.load()


def messages(topic: DataFrame) -> DataFrame:
    """What the validator looks at: ``key``, ``value``, ``partition``, ``offset``, ``timestamp_ms``."""
    from pyspark.sql import functions as f

    return topic.select("key", "value", "partition", "offset", f.unix_millis("timestamp").alias("timestamp_ms"))


def partials(messages: DataFrame, rejected: RejectedWriter | None = None, sensors: bool = False) -> DataFrame:
    """Messages validated and folded, a task per partition of the topic; rejected ones are written as they are met."""
    return messages.mapInArrow(partial(_digest, rejected, sensors), _ddl(fold.PARTIALS))


def judged(partials: DataFrame) -> DataFrame:
    """Partials of all partitions, judged together: one small task."""
    return partials.repartition(1).mapInArrow(_judge, _ddl(lateness.JUDGED))


def over_all_locations(judged: DataFrame) -> DataFrame:
    """For windows by sensor type alone."""
    from pyspark.sql import functions as f

    return judged.withColumn("location", f.lit(None).cast("string"))


def windows(judged: DataFrame) -> DataFrame:
    """Windows by sensor type and location, those that a batch changed; and a row with the report on the batch.

    Columns: ``end`` (of the window), ``sensor_type``, ``location``, ``unit``, ``count``, ``total``, ``min``, ``max``,
    ``batch_id``, ``report``; the last two null but on the row of the report.
    """
    from pyspark.sql import functions as f

    window = f.window("event_time", f"{WINDOW_S} seconds", f"{SLIDE_S} seconds")
    return (
        judged.withWatermark("event_time", f"{LATENESS_S} seconds")
        .withColumn("window", window)
        .where("window.end > missed_until")
        .groupBy("window", "sensor_type", "location", "batch_id")
        .agg(
            f.max_by("unit", "event_time").alias("unit"),
            f.sum("count").alias("count"),
            f.sum("total").alias("total"),
            f.min("min").alias("min"),
            f.max("max").alias("max"),
            f.first("report").alias("report"),
        )
        .select(
            f.col("window.end").alias("end"),
            *("sensor_type", "location", "unit", "count", "total", "min", "max", "batch_id", "report"),
        )
    )


OnBatch = Callable[[int, pa.Table, Report], None]
"""Called for each batch with its id, the rows of the windows that it changed, and the report."""


def start_windows(
    spark: SparkSession,
    topic: DataFrame,
    checkpoint: str,
    on_batch: OnBatch,
    contexts: Contexts,
    trigger: Mapping[str, Any],
    rejected: RejectedWriter | None = None,
    sensors: bool = False,
    by_location: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> StreamingQuery:
    """Start the query that validates, counts and windows the readings of a topic.

    Args:
        topic: of ``read_topic``.
        checkpoint: a folder; with an old one the query goes on where it was.
        on_batch: keeps results. Called again with an id that it had before when the process ended in between; then
            it is given the same again. What it keeps has to come with ``report.context()``, see ``contexts``.
        contexts: of the batch that was last kept and the one after it, empty without a checkpoint.
        trigger: as ``DataStreamWriter.trigger`` takes it.
        rejected: where rejected messages go.
        sensors: whether reports name the latest reading of each sensor.
        by_location: whether windows are by sensor type and location, or by sensor type alone (``location`` null).
        clock: in seconds.
    """
    known = dict(contexts)
    begun_s: deque[float] = deque(maxlen=STARTING_BATCHES + 1)

    def keep(frame: DataFrame, batch_id: int) -> None:
        begun_s.append(clock())
        is_small = len(begun_s) > STARTING_BATCHES and begun_s[-1] - begun_s[-2] < SMALL_S
        frame.sparkSession.conf.set(PROGRAMS, INTERPRETED if is_small else COMPILED)
        rows = frame.toArrow()
        of_windows, report = split_report(rows, batch_id)
        if report is None:
            report = _unchanged(known.get(batch_id, Context()))
        on_batch(batch_id, of_windows, report)
        known.clear()
        known[batch_id + 1] = report.context()
        _publish(spark, known)

    _publish(spark, known)
    of_readings = judged(partials(messages(topic), rejected, sensors))
    query = windows(of_readings if by_location else over_all_locations(of_readings)).writeStream
    query = query.queryName("windows").outputMode("update").option("checkpointLocation", checkpoint)
    with _with_settings(spark, PLAIN):
        return query.foreachBatch(keep).trigger(**trigger).start()


@contextmanager
def _with_settings(spark: SparkSession, wanted: Mapping[str, str]) -> Iterator[None]:
    """Settings of what is started within: a query keeps those that it was started with."""
    before = {key: str(spark.conf.get(key)) for key in wanted}
    for key, value in wanted.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)


def split_report(rows: pa.Table, batch_id: int) -> tuple[pa.Table, Report | None]:
    """The rows of windows, and the report on the batch if it is among them."""
    import pyarrow.compute as pc

    of_windows = rows.filter(pc.is_null(rows.column("batch_id"))).drop_columns(["batch_id", "report"])
    reports = rows.filter(pc.equal(rows.column("batch_id"), batch_id)).column("report")
    return of_windows, decode_report(reports[0].as_py()) if len(reports) else None


def start_alerts(
    alerts: DataFrame, kafka: Kafka, topic: str, checkpoint: str, trigger: Mapping[str, Any]
) -> StreamingQuery:
    """Start the query that writes alerts, of ``iot.spark.alerts``, to their topic."""
    query = alerts.writeStream.queryName("alerts").outputMode("update").option("checkpointLocation", checkpoint)
    query = query.format("kafka").options(**kafka_options(kafka)).option("topic", topic)
    return query.trigger(**trigger).start()


def alerts_trigger(spark: SparkSession, micro_batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Real-time mode where it can run, else the trigger for micro-batches."""
    return micro_batch if why_no_real_time(spark, micro_batch) else {"realTime": REAL_TIME_BATCH}


def why_no_real_time(spark: SparkSession, micro_batch: Mapping[str, Any]) -> str:
    """Why alerts cannot be raised in real-time mode; empty where they can."""
    if "availableNow" in micro_batch:
        return "real-time mode has no end, and --available-now does"
    if slots(spark) < PARTITIONS + 2:
        return f"real-time mode needs {PARTITIONS + 2} task slots, and the master has {slots(spark)}"
    return ""


def _unchanged(context: Context) -> Report:
    return Report(newest_us=context.newest_us, sensor_types=context.sensor_types, locations=context.locations)


def _publish(spark: SparkSession, contexts: Contexts) -> None:
    """Hand contexts to the tasks of the query that this thread starts or runs: they are a property of its jobs."""
    spark.sparkContext.setLocalProperty(CONTEXTS, _encode_contexts(contexts).decode())


def _context() -> tuple[int, Context]:
    """In a task: the id of its batch, and the context; -1 and an empty one where no stream runs."""
    from pyspark import TaskContext

    task = TaskContext.get()
    batch_id = int((task and task.getLocalProperty(BATCH_ID)) or -1)
    contexts = _decode_contexts((task and task.getLocalProperty(CONTEXTS)) or "{}")
    return batch_id, contexts.get(batch_id, Context())


def _digest(
    rejected: RejectedWriter | None, sensors: bool, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    _, context = _context()
    return fold.digest(batches, context.newest_us, rejected, sensors)


def _judge(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    batch_id, context = _context()
    return lateness.judge(batches, context, batch_id)


_DDL = {
    pa.int64(): "long",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "binary",
    pa.timestamp("us", "UTC"): "timestamp",
}


def _ddl(schema: pa.Schema) -> str:
    return ", ".join(f"`{field.name}` {_DDL[field.type]}" for field in schema)
