"""Streams from Kafka, and the alerts query; the windows query is in ``iot.spark.windows``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from iot.addresses import join
from iot.batches import Offsets
from iot.kafka.dial import servers_to_dial
from iot.settings import Kafka
from iot.spark.cluster import slots
from iot.spark.remote_path import AnyPath, location

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

# In real-time mode Spark fetches message by message, and at a thousand a second that costs more than everything else.
# So messages gather for a moment. While none come, that costs Spark and the broker 0.04 of a core; with 50 ms it
# is 0.08, and with 10 ms 0.2. So many bytes gather only above 25,000 readings a second in each partition.
GATHERED = {"kafka.fetch.max.wait.ms": "100", "kafka.fetch.min.bytes": "500000"}
# How many messages Spark takes at once of those that Kafka's client has fetched, which are up to 1 MiB. Each time,
# Spark moves its reader to both ends of the topic to look where they are. So what it did not take is thrown away, and
# is fetched again: with Kafka's default, 500, nine tenths. Reading 1.5 million readings took 3.4 s, and the broker
# 1.6 s of CPU; with 5,000 or 20,000 it took 2.5 s, and the broker 0.7 s.
TAKEN_AT_ONCE = {"kafka.max.poll.records": "10000"}
# How long alerts wait for others, to be written in one request.
LINGER_MS = "10"
# How long Kafka's client waits for a server that does not accept the connection; its default is 10 s for each.
CONNECT_MS = "3000"
# How long Kafka's client waits for an answer, and in all for what it asks, if another server may answer. It goes on
# asking a server that has died until then. With its defaults, 30 s and 60 s, a batch stands still for a minute.
ANSWER_MS = {"kafka.request.timeout.ms": "3000", "kafka.default.api.timeout.ms": "3000"}
# How often Kafka's client asks which server leads a partition. By default it does every five minutes, and else once a
# server that it asks does not answer.
LEADERS_MS = "1000"
# So Spark asks again, in all for about half a minute, until another server has taken over.
ASK_AGAIN = {"fetchOffset.numRetries": "10", "fetchOffset.retryIntervalMs": "250"}
# In real-time mode a batch is only how often progress is stored, and alerts pause for about a second meanwhile.
REAL_TIME = {"realTime": "2 minutes"}


def kafka_options(kafka: Kafka) -> dict[str, str]:
    """The connection as options of Spark's Kafka source and sink."""
    options = {f"kafka.{key}": value for key, value in kafka.properties.items()}
    options.setdefault("kafka.socket.connection.setup.timeout.ms", CONNECT_MS)
    # The second must not be shorter than the first, so what the user gives of one goes for both.
    if not options.keys() & ANSWER_MS.keys():
        options |= ANSWER_MS | ASK_AGAIN
    options.setdefault("kafka.metadata.max.age.ms", LEADERS_MS)
    return options | {"kafka.bootstrap.servers": join(servers_to_dial(kafka.bootstrap_servers))}


def read_topic(
    spark: SparkSession, kafka: Kafka, topic: str, start: Offsets, trigger: Mapping[str, Any] | None = None
) -> DataFrame:
    """The topic from ``start`` on, as a stream of Kafka's own columns. Data that expired unread is an error.

    Args:
        trigger: of the query, if it may run in real-time mode. Messages are then ``GATHERED``, unless ``kafka`` itself
            says how they are fetched.
    """
    options = TAKEN_AT_ONCE | kafka_options(kafka)
    if "realTime" in (trigger or {}) and not options.keys() & GATHERED.keys():
        options |= GATHERED
    source = spark.readStream.format("kafka").options(**options)
    offsets = {topic: {str(partition): offset for partition, offset in start.items()}}
    source = source.option("subscribe", topic).option("startingOffsets", json.dumps(offsets))
    return source.load()


def start_alerts(
    alerts: DataFrame, kafka: Kafka, topic: str, checkpoint: AnyPath, trigger: Mapping[str, Any]
) -> StreamingQuery:
    """Start the query that writes alerts to their topic.

    Args:
        alerts: of ``iot.spark.alerts``.
    """
    where = location(checkpoint)
    query = alerts.writeStream.queryName("alerts").outputMode("update").option("checkpointLocation", where)
    options = {"kafka.linger.ms": LINGER_MS} | kafka_options(kafka)
    query = query.format("kafka").options(**options).option("topic", topic)
    return query.trigger(**trigger).start()


def why_no_real_time(spark: SparkSession, micro_batch: Mapping[str, Any], partitions: int) -> str:
    """Why alerts cannot be raised in real-time mode; empty where they can.

    Args:
        partitions: of the topic. Each keeps a task slot busy, and the windows query needs two.
    """
    if "availableNow" in micro_batch:
        return "real-time mode has no end, and --available-now does"
    if (there := slots(spark)) < partitions + 2:
        return f"real-time mode needs {partitions + 2} task slots for {partitions} partitions, and Spark has {there}"
    return ""
