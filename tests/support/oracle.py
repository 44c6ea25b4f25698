"""The independent reference: computes the results of a topic a second time, without code of ``iot``.

Its validation is simple: a JSON object with the required fields is a reading, and any other message is malformed. Tests
that send borderline messages pass a ``parse`` function of their own.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BOUNDS = {"temperature": (15, 30), "humidity": (30, 70), "pressure": (1000, 1030)}


class Record(NamedTuple):
    """A message in Kafka."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Window:
    count: int
    avg: float
    min: float
    max: float


class Expected(NamedTuple):
    """Windows by (window end in seconds since the epoch, sensor type, location), and counts of all messages."""

    windows: dict[tuple[int, str, str], Window]
    readings: int
    rejected: int
    late: int
    """Readings that are missing from one or more of their windows."""


def end_of(bootstrap_servers: str, topic: str) -> int:
    """How many messages were written to a topic."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, group_id=None)
    try:
        return sum(consumer.end_offsets(_partitions(consumer, topic)).values())
    finally:
        consumer.close()


def read_topic(bootstrap_servers: str, topic: str) -> list[Record]:
    """All messages in a topic now."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", group_id=None)
    partitions = _partitions(consumer, topic)
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    found = []
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        for records in consumer.poll(1000, max_records=20_000).values():
            found += [
                Record(r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers or ())) for r in records
            ]
    consumer.close()
    return found


def _partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]


def parse(value: bytes | None) -> dict[str, Any] | None:
    """The fields of a reading and its ``time_us``; None for a malformed message."""
    try:
        reading = json.loads((value or b"").decode())
        moment = datetime.fromisoformat(reading["timestamp"].replace("Z", "+00:00"))
        if isinstance(reading["value"], (str, bool)) or not isinstance(reading["sensor_id"], str):
            return None
        reading["value"] = float(reading["value"])
        # round() of a float is exact to the microsecond in these years.
        reading["time_us"] = round((moment - EPOCH).total_seconds() * 1_000_000)
        names = reading["sensor_type"] + "", reading.setdefault("location", "unknown") + ""
        return reading if math.isfinite(reading["value"]) and max(map(len, names)) <= 128 else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


Parse = Callable[[bytes | None], dict[str, Any] | None]


def reading_of(record: Record, parse: Parse = parse) -> dict[str, Any] | None:
    """Return what ``parse`` returns, but None for a reading with a future timestamp."""
    reading = parse(record.value)
    return reading if reading and reading["time_us"] <= (record.timestamp_ms + 60_000) * 1_000 else None


def expected(records: list[Record], parse: Parse = parse) -> Expected:
    """The windows of these messages.

    A reading counts in each of its windows that ends later than 5 s before the newest reading written before it: at a
    smaller offset in its own partition, or with a smaller Kafka timestamp in another one.

    Args:
        parse: returns the reading of a message, or None.
    """
    values: dict[tuple[int, str, str], list[float]] = defaultdict(list)
    readings = rejected = late = 0
    newest_of_partition: dict[int, float] = defaultdict(lambda: -math.inf)
    # The newest event time by partition, of all messages with a smaller Kafka timestamp than the current one.
    newest_before_ms: dict[int, float] = {}
    last_ms = -1
    for record in sorted(records, key=lambda record: (record.timestamp_ms, record.partition, record.offset)):
        if record.timestamp_ms != last_ms:
            last_ms, newest_before_ms = record.timestamp_ms, dict(newest_of_partition)
        reading = reading_of(record, parse)
        if reading is None:
            rejected += 1
            continue
        readings += 1
        time_us = reading["time_us"]
        others = (newest for partition, newest in newest_before_ms.items() if partition != record.partition)
        newest = max(newest_of_partition[record.partition], *others, -math.inf)
        first_end_s = time_us // 10_000_000 * 10 + 10
        ends_s = [end_s for end_s in (first_end_s, first_end_s + 10, first_end_s + 20) if end_s * 1e6 > newest - 5e6]
        late += len(ends_s) < 3
        for end_s in ends_s:
            values[end_s, reading["sensor_type"], reading["location"]].append(reading["value"])
        newest_of_partition[record.partition] = max(newest_of_partition[record.partition], time_us)
    windows = {key: Window(len(of), math.fsum(of) / len(of), min(of), max(of)) for key, of in values.items()}
    return Expected(windows, readings, rejected, late)


def over_all_locations(windows: dict[tuple[int, str, str], Window]) -> dict[tuple[int, str], Window]:
    """Merge windows of different locations, by window end and sensor type."""
    merged: dict[tuple[int, str], list[Window]] = defaultdict(list)
    for (end_s, sensor_type, _), window in windows.items():
        merged[end_s, sensor_type].append(window)
    return {
        key: Window(
            sum(window.count for window in of),
            math.fsum(window.avg * window.count for window in of) / sum(window.count for window in of),
            min(window.min for window in of),
            max(window.max for window in of),
        )
        for key, of in merged.items()
    }


def differences(found: dict[Any, Window], wanted: dict[Any, Window]) -> list[str]:
    """A line for each window that differs: in count, minimum or maximum, or by more than 1e-9 in the average."""
    lines = [f"missing {key}: {wanted[key]}" for key in wanted.keys() - found.keys()]
    lines += [f"not expected {key}: {found[key]}" for key in found.keys() - wanted.keys()]
    for key in wanted.keys() & found.keys():
        ours, theirs = found[key], wanted[key]
        if (ours.count, ours.min, ours.max) != (theirs.count, theirs.min, theirs.max) or not math.isclose(
            ours.avg, theirs.avg, rel_tol=1e-9, abs_tol=1e-12
        ):
            lines.append(f"{key}: {ours} instead of {theirs}")
    return sorted(lines)


def breaks_a_rule(reading: dict[str, Any]) -> bool:
    """Whether a reading breaks one of the default rules."""
    low, high = BOUNDS.get(reading["sensor_type"], (-math.inf, math.inf))
    return not low <= reading["value"] <= high


Alerts = dict[str, tuple[str, int]]
"""By id of an alert, its sensor, and the event time in microseconds since the epoch."""


def alerts(records: list[Record], topic: str) -> Alerts:
    """The alerts that these messages raise under the default rules."""
    readings = ((record, reading_of(record)) for record in records)
    return {
        f"{topic}-{of.partition}-{of.offset}": (reading["sensor_id"], reading["time_us"])
        for of, reading in readings
        if reading and breaks_a_rule(reading)
    }


def alert_ids(records: list[Record], topic: str) -> set[str]:
    """The ids of the alerts that these messages raise under the default rules."""
    return set(alerts(records, topic))


def gaps_and_repeats(records: list[Record]) -> tuple[list[str], list[str]]:
    """Lines for missing and for repeated sequence numbers; only numbers below a sensor's last one can be missing."""
    sequences: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for reading in filter(None, map(reading_of, records)):
        if "sequence" in reading:
            sequences[reading["run_id"], reading["sensor_id"]][reading["sequence"]] += 1
    missing, repeated = [], []
    for (run_id, sensor_id), times in sequences.items():
        missing += [f"run {run_id}, {sensor_id}: no {n}" for n in range(max(times)) if n not in times]
        repeated += [f"run {run_id}, {sensor_id}: {n} {of} times" for n, of in times.items() if of > 1]
    return missing, repeated
