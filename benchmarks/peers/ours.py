"""The windows by this project's own query: with validation, the dead-letter topic, and exact lateness."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.output import parse_args, say, say_window
from iot.kafka.offsets import start_offsets
from iot.kafka.topics import ensure_topics
from iot.pipeline import pipeline
from iot.settings import REJECTED_TOPIC, Kafka
from iot.spark import queries
from iot.spark import session as spark_session
from iot.spark.rejected import RejectedWriter
from iot.spark.windows import start_windows


def process(spark: Any, kafka: Kafka, topic: str, live: bool, loud: bool) -> None:
    """Process a topic, to its end or for ever."""

    def give_out(_: int, windows: Any, _report: Any) -> None:
        if loud:
            for row in windows.to_pylist():
                mean = row["total"] / row["count"]
                say_window(row["end"].timestamp(), row["sensor_type"], row["count"], mean, row["min"], row["max"])

    with tempfile.TemporaryDirectory(prefix="iot-benchmark-") as checkpoint:
        query = start_windows(
            queries.read_topic(spark, kafka, topic, start_offsets(kafka, topic, "earliest")),
            Path(checkpoint),
            give_out,
            trigger=pipeline.TRIGGER if live else {"availableNow": True},
            on_rejected=RejectedWriter(kafka, REJECTED_TOPIC, topic),
            by_location=False,
        )
        query.awaitTermination()


def main() -> None:
    args = parse_args(__doc__)
    kafka = Kafka(args.bootstrap_servers)
    ensure_topics(kafka, [REJECTED_TOPIC])
    spark = spark_session.start("benchmark-peers", spark_session.MASTER)
    if args.warm_up:
        process(spark, kafka, args.warm_up, live=False, loud=False)
    say(ready=True)
    begun_s = time.perf_counter()
    process(spark, kafka, args.topic, args.live, args.windows or args.live)
    say(seconds=time.perf_counter() - begun_s)
    spark.stop()


if __name__ == "__main__":
    main()
