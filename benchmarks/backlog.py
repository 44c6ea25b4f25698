"""Fill a topic with readings, and read and parse it with plain Spark queries: the baseline of other benchmarks."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from iot.kafka.sender import make_sender
from iot.kafka.topics import ensure_topics
from iot.sensors.fleet import Fleet
from iot.settings import REJECTED_TOPIC, Kafka, UserError
from iot.spark import queries

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SENSORS = 1_000
BATCH = 2_000
SPAN_S = 600
# How far the event time of a late reading is behind, at most.
LATE_S = 60
# How often a message is malformed: the first of every 1,000 in a batch.
MALFORMED_EVERY = 1_000
FIELDS = (
    "sensor_id string, sensor_type string, location string, value double, unit string, timestamp timestamp, "
    "quality string, run_id string, sequence long"
)


def fill(
    kafka: Kafka,
    topic: str,
    messages: int,
    partitions: int | None = None,
    *,
    span_s: int = SPAN_S,
    late_ratio: float = 0.0,
) -> None:
    """Create the topic and send readings of a fleet to it, some of them malformed.

    Args:
        span_s: the event times are spread over this time, which ends now.
        late_ratio: the ratio of readings whose event time is up to ``LATE_S`` earlier.

    Raises:
        UserError: Not all messages were acknowledged.
    """
    ensure_topics(kafka, [topic, REJECTED_TOPIC], {topic: partitions})
    fleet, stop = Fleet(SENSORS, 1, "benchmark"), threading.Event()
    sender = make_sender("confluent-kafka", kafka, topic)
    end_us = time.time_ns() // 1000
    times_us = end_us - span_s * 1_000_000 + np.arange(messages) * (span_s * 1_000_000) // messages
    rng = np.random.default_rng(1)
    is_late = rng.random(messages) < late_ratio
    times_us[is_late] -= rng.integers(0, LATE_S * 1_000_000, is_late.sum())
    for at in range(0, messages, BATCH):
        records = fleet.records(times_us[at : at + BATCH])
        for record in records[::MALFORMED_EVERY]:
            record["value"] = record["value"][:-9]
        sender.send(records, stop)
    if sender.flush(120) or sender.failed:
        raise UserError(f"cannot fill topic {topic}: {sender.last_error}")
    sender.close()


def read(spark: SparkSession, kafka: Kafka, topic: str) -> DataFrame:
    """Return the messages of the whole topic, with one binary column ``value``."""
    source = spark.read.format("kafka").options(**queries.kafka_options(kafka))
    return source.option("subscribe", topic).option("startingOffsets", "earliest").load().select("value")


def from_json(spark: SparkSession, kafka: Kafka, topic: str) -> None:
    """Read the whole topic and parse it as Spark users usually do; the result is discarded."""
    from pyspark.sql import functions as f

    parsed = read(spark, kafka, topic).select(f.from_json(f.col("value").cast("string"), FIELDS).alias("r"))
    parsed.select("r.*").write.format("noop").mode("overwrite").save()
