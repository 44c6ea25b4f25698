"""The windows query: what happens to each batch of messages, in the order in which it happens.

    messages   key, value, partition, offset, timestamp_ms        a row per message of the topic
       │ fold      a task per partition, in Python over Arrow: validate each message, fold the readings   iot.spark.fold
    folded     partition, partials, report                        the partials of the partition, and a report on it
       │ judge     one task: judge lateness, reading by reading, across partitions                    iot.spark.lateness
    judged     event_time, missed_until, sensor_type, …           rows to count in windows, and one with the Outcome
       │ window    Spark's own: 30 s long, every 10 s, with a watermark and a state store
    windows    end, sensor_type, location, count, total, …        the windows that this batch changed, and the Outcome
       │ keep      in the driver: split off the outcome, hand windows and report to the caller, store the next context

Spark moves its watermark between batches only. Of a backlog that comes as one batch nothing would be late, and what one
partition delivers a little later would be dropped by chance. So lateness is judged before Spark's windows, against what
was written to the topic earlier, and the result is the same however the batches are cut.

With rules for alarms, ``fold`` also selects the readings that may change an alarm: see ``iot.spark.candidates``. They
reach the caller in the report.

A batch must know a little of the batches before it: its ``Context``. ``iot.spark.contexts`` carries it from the end of
one batch to the tasks of the next, and across a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from iot.batches import BatchReport
from iot.settings import SLIDE_S, WATERMARK_S, WINDOW_S
from iot.spark import contexts, fold, lateness
from iot.spark.batch_ends import batch_ends
from iot.spark.candidates import Sides, sides_of
from iot.spark.codegen import NO_WHOLE_STAGE_CODEGEN, codegen_chooser, with_settings
from iot.spark.contexts import Watched
from iot.spark.lateness import Outcome
from iot.spark.remote_path import AnyPath, location

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery

    from iot.alerts import Rules

# How much longer than the watermark Spark keeps the state of a window. Spark's watermark may run ahead of the moment at
# which a reading was written, by what another partition delivered earlier; what was judged on time must find its state.
STATE_SLACK_S = 60

OnBatch = Callable[[int, pa.Table, BatchReport], None]
"""Called for each batch with its id, the windows that it changed, and the report."""


def messages(topic: DataFrame) -> DataFrame:
    """Columns: ``key``, ``value``, ``partition``, ``offset``, ``timestamp_ms`` (Kafka's)."""
    from pyspark.sql import functions as f

    return topic.select("key", "value", "partition", "offset", f.unix_millis("timestamp").alias("timestamp_ms"))


def folded(
    messages: DataFrame,
    on_rejected: fold.OnRejected | None = None,
    sensors: bool = False,
    alarm_sides: Sides | None = None,
) -> DataFrame:
    """Columns: as ``fold.FOLDED``; a task per partition of the topic, which hands on rejected messages as it goes."""
    return messages.mapInArrow(partial(_fold, on_rejected, sensors, alarm_sides), _ddl(fold.FOLDED))


def judged(folded: DataFrame, state_slack_s: int = STATE_SLACK_S) -> DataFrame:
    """Columns: as ``lateness.JUDGED``; one small task."""
    return folded.repartition(1).mapInArrow(partial(_judge, state_slack_s), _ddl(lateness.JUDGED))


def over_all_locations(judged: DataFrame) -> DataFrame:
    """For windows by sensor type alone: ``location`` is null."""
    from pyspark.sql import functions as f

    return judged.withColumn("location", f.lit(None).cast("string"))


def windows(judged: DataFrame, state_slack_s: int = STATE_SLACK_S) -> DataFrame:
    """Windows by sensor type and location, those that a batch changed; and a row with its ``Outcome``.

    Columns: ``end`` (of the window), ``sensor_type``, ``location``, ``unit``, ``count``, ``total``, ``min``, ``max``,
    ``batch_id``, ``outcome``; the last two are null in the rows of windows.
    """
    from pyspark.sql import functions as f

    window = f.window("event_time", f"{WINDOW_S} seconds", f"{SLIDE_S} seconds")
    return (
        judged.withWatermark("event_time", f"{WATERMARK_S + state_slack_s} seconds")
        .withColumn("window", window)
        .where("window.end > missed_until")
        # The outcomes of all batches share one group in each window, because they have no sensor type.
        .groupBy("window", "sensor_type", "location")
        .agg(
            f.max_by("unit", "event_time").alias("unit"),
            f.sum("count").alias("count"),
            f.sum("total").alias("total"),
            f.min("min").alias("min"),
            f.max("max").alias("max"),
            f.max("batch_id").alias("batch_id"),
            f.max_by("outcome", "batch_id").alias("outcome"),
        )
        .select(
            f.col("window.end").alias("end"),
            *("sensor_type", "location", "unit", "count", "total", "min", "max", "batch_id", "outcome"),
        )
    )


def start_windows(
    topic: DataFrame,
    checkpoint: AnyPath,
    on_batch: OnBatch,
    *,
    trigger: Mapping[str, Any],
    on_rejected: fold.OnRejected | None = None,
    sensors: bool = False,
    by_location: bool = True,
    alarm_rules: Rules | None = None,
    watched: Callable[[], Watched] = dict,
    on_done: Callable[[float], None] = lambda _: None,
    state_slack_s: int = STATE_SLACK_S,
    clock: Callable[[], float] = time.monotonic,
) -> StreamingQuery:
    """Start the query that validates, counts and windows the readings of a topic.

    Args:
        topic: a stream, see ``iot.spark.queries.read_topic``.
        checkpoint: a folder; with an earlier checkpoint the query continues where it was.
        on_batch: keeps the results. It is called again with the same batch when the process ended before Spark
            committed that batch; an id that it has seen before must change nothing.
        trigger: as ``DataStreamWriter.trigger`` takes it.
        on_rejected: called in the tasks, with rejected messages.
        sensors: whether reports name the latest reading of each sensor.
        by_location: whether windows are by sensor type and location, or by sensor type alone.
        alarm_rules: with these and ``sensors``, reports have the candidates for alarms.
        watched: returns the sensors that have an active alarm now. It is called at the start, and after each
            ``on_batch``.
        on_done: called after each batch, with the seconds that it took.
        state_slack_s: see ``STATE_SLACK_S``.
        clock: in seconds.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    spark = topic.sparkSession
    files = contexts.ContextFiles(checkpoint)
    known = files.read()
    choose_codegen = codegen_chooser(clock)
    alarm_sides = sides_of(alarm_rules) if alarm_rules else None

    def keep(frame: DataFrame, batch_id: int) -> None:
        # Spark computes the batch when its rows are asked for, below.
        begun_s = clock()
        choose_codegen(frame.sparkSession)
        of_windows, outcome = split_outcome(frame.toArrow(), batch_id)
        if outcome is None:
            context = contexts.require(known, batch_id)
            report = BatchReport(sensor_types=context.sensor_types, locations=context.locations)
            outcome = Outcome(report, context.progress)
        outcome.report.next_offsets |= batch_ends(checkpoint, batch_id)
        on_batch(batch_id, of_windows, outcome.report)
        files.write(batch_id + 1, outcome.next_context)
        known.clear()
        known[batch_id + 1] = outcome.next_context
        publish()
        on_done(clock() - begun_s)

    def publish() -> None:
        contexts.publish(spark, known)
        if alarm_sides:
            contexts.publish_watched(spark, watched())

    publish()
    of_readings = judged(folded(messages(topic), on_rejected, sensors, alarm_sides), state_slack_s)
    changed = windows(of_readings if by_location else over_all_locations(of_readings), state_slack_s)
    where = location(checkpoint)
    query = changed.writeStream.queryName("windows").outputMode("update").option("checkpointLocation", where)
    with with_settings(spark, NO_WHOLE_STAGE_CODEGEN):
        started = query.foreachBatch(keep).trigger(**trigger).start()
    # The query has a thread of its own by now, with its own copy.
    contexts.publish(spark, {})
    contexts.publish_watched(spark, {})
    return started


def split_outcome(rows: pa.Table, batch_id: int) -> tuple[pa.Table, Outcome | None]:
    """The rows of windows, and the outcome of the batch if it is among them."""
    import pyarrow.compute as pc

    of_windows = rows.filter(pc.is_null(rows.column("batch_id"))).drop_columns(["batch_id", "outcome"])
    outcomes = rows.filter(pc.equal(rows.column("batch_id"), batch_id)).column("outcome")
    return of_windows, lateness.decode_outcome(outcomes[0].as_py()) if len(outcomes) else None


def _fold(
    on_rejected: fold.OnRejected | None,
    sensors: bool,
    alarm_sides: Sides | None,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    _, context = contexts.current()
    watched = contexts.current_watched() if alarm_sides else {}
    return fold.fold(batches, context, on_rejected, sensors, alarm_sides, watched)


def _judge(state_slack_s: int, folded: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    batch_id, context = contexts.current()
    return lateness.judge(folded, context, batch_id, state_slack_s)


_DDL = {
    pa.int32(): "int",
    pa.int64(): "long",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "binary",
    pa.timestamp("us", "UTC"): "timestamp",
}


def _ddl(schema: pa.Schema) -> str:
    return ", ".join(f"`{field.name}` {_DDL[field.type]}" for field in schema)
