"""Runs the windows query as a process that a test can kill, and appends the windows of each batch to a file.

Usage: windows_runner.py BOOTSTRAP_SERVERS TOPIC CHECKPOINT RESULTS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa

from iot.batches import BatchReport
from iot.kafka import offsets
from iot.settings import Kafka
from iot.spark import queries, windows
from iot.spark import session as spark


def main(bootstrap_servers: str, topic: str, checkpoint: str, results: str) -> None:
    kafka = Kafka(bootstrap_servers)
    start = offsets.start_offsets(kafka, topic, "earliest")
    session = spark.start("windows-runner", "local[2]", {"spark.ui.enabled": "false"})

    def keep(batch_id: int, rows: pa.Table, report: BatchReport) -> None:
        line = {
            "batch": batch_id,
            "late": report.late,
            "messages": report.messages,
            "rejected": report.rejected,
            "windows": [
                [row["end"].timestamp(), row["sensor_type"], row["location"], row["count"], row["total"], row["min"],
                 row["max"]]
                for row in rows.to_pylist()
            ],
        }  # fmt: skip
        with open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    topic_frame = queries.read_topic(session, kafka, topic, start)
    trigger = {"processingTime": "100 milliseconds"}
    query = windows.start_windows(topic_frame, Path(checkpoint), keep, trigger=trigger)
    print("running", flush=True)
    query.awaitTermination()


if __name__ == "__main__":
    main(*sys.argv[1:])
