"""Writes generated readings to a topic, and runs the windows query over it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from iot.batches import BatchReport
from iot.broker.broker import Broker
from iot.kafka.offsets import start_offsets
from iot.kafka.sender import Record, make_sender
from iot.readings import Message, encode, format_timestamp
from iot.spark import queries, windows
from tests.support import oracle
from tests.support.oracle import Window

TYPES = (
    ("temperature", "celsius"),
    ("humidity", "percent"),
    ("pressure", "hPa"),
    ("motion", "boolean"),
    ("co2", "ppm"),
)
MALFORMED = (b"{", b'{"sensor_id": "x"}', b"\xff\xfe", b"[1, 2]", b'{"sensor_id": 1, "sensor_type": "a", "value": 1}')


def stream(count: int, seed: int, span_s: int, late: float = 0.0, sensors: int = 100) -> Iterator[tuple[bytes, bytes]]:
    """Generate keys and messages with jitter and equal event times; 1 % are malformed.

    Args:
        span_s: how much event time they cover, until now.
        late: share of the second half of the readings that are more than 100 s late.
    """
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
    """Write messages in order, also across partitions, but for the ``at_once`` that are in flight together."""
    sender = make_sender("confluent-kafka", kafka, topic, **{"linger.ms": 0}, **settings)
    stop = threading.Event()
    records = [Record(key=key, value=value) for key, value in messages]  # type: ignore[typeddict-item]
    # The first message gets a millisecond of its own, so that its Kafka timestamp is smaller than all others.
    for at in (0, *range(1, len(records), at_once)):
        sender.send(records[at : at + at_once if at else 1], stop)
        assert sender.flush(60) == 0
        sent_ms = time.time_ns() // 1_000_000
        while not at and time.time_ns() // 1_000_000 == sent_ms:
            pass
    assert sender.failed == 0, sender.last_error
    sender.close()


class Results:
    """Collects what the windows query passes on: windows, and counts of batches and messages."""

    def __init__(self) -> None:
        self.windows: dict[tuple[int, str, str], Window] = {}
        self.batches = self.messages = self.rejected = self.late = 0

    def keep(self, _: int, rows: pa.Table, report: BatchReport) -> None:
        self.batches += 1
        self.messages += report.messages
        self.rejected += report.rejected
        self.late += report.late
        for row in rows.to_pylist():
            key = (int(row["end"].timestamp()), row["sensor_type"], row["location"])
            self.windows[key] = Window(row["count"], row["total"] / row["count"], row["min"], row["max"])

    def require(self, wanted: oracle.Expected) -> None:
        """Raise AssertionError where results differ from those of the reference."""
        assert (self.messages, self.rejected, self.late) == (wanted.readings, wanted.rejected, wanted.late)
        assert oracle.differences(self.windows, wanted.windows) == []


def start_query(
    spark: SparkSession, broker: Broker, topic: str, checkpoint: Path, results: Results, **options: Any
) -> StreamingQuery:
    """Start the windows query on a topic from its first offset; ``options`` are those of ``start_windows``."""
    start = start_offsets(broker.kafka, topic, "earliest")
    frame = queries.read_topic(spark, broker.kafka, topic, start)
    return windows.start_windows(frame, checkpoint, results.keep, **options)
