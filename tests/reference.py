"""What the streams must come to, computed a second time: plain Python, no code of ``iot``.

It takes the raw messages of a topic and knows only the schema's plain cases: a message is a reading when it is a JSON
object with its required fields, and anything else is malformed. Tests send it no message on which this is in doubt.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Record(NamedTuple):
    """A message as it stands in Kafka."""

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
    """By (window end in seconds since the epoch, sensor type, location); counts of all messages."""

    windows: dict[tuple[int, str, str], Window]
    readings: int
    rejected: int
    late: int
    """Readings that belong to no window."""


def read_topic(bootstrap_servers: str, topic: str) -> list[Record]:
    """All that a topic holds now."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", group_id=None)
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
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


def parse(value: bytes | None) -> dict[str, Any] | None:
    """A reading with ``time_us``, or None for a malformed message."""
    try:
        reading = json.loads((value or b"").decode())
        moment = datetime.fromisoformat(reading["timestamp"].replace("Z", "+00:00"))
        if isinstance(reading["value"], (str, bool)) or not isinstance(reading["sensor_id"], str):
            return None
        reading["value"] = float(reading["value"])
        reading["time_us"] = round((moment - EPOCH).total_seconds() * 1_000_000)
        # round() of a float is exact to the microsecond for these years.
        reading["sensor_type"] + reading.setdefault("location", "unknown")
        return reading if math.isfinite(reading["value"]) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def expected(records: list[Record]) -> Expected:
    """The windows of these messages.

    A reading at most 5 s older than the newest written before it counts in all its windows; one whose windows all
    closed more than 30 s before counts in none. ``AssertionError`` on one between, where either is right.
    """
    values: dict[tuple[int, str, str], list[float]] = defaultdict(list)
    readings = rejected = late = 0
    newest_of_partition: dict[int, float] = defaultdict(lambda: -math.inf)
    ordered = sorted(records, key=lambda record: (record.timestamp_ms, record.partition, record.offset))
    newest_of_earlier_ms = newest_so_far = -math.inf
    last_ms = -1
    for record in ordered:
        if record.timestamp_ms != last_ms:
            last_ms, newest_of_earlier_ms = record.timestamp_ms, newest_so_far
        reading = parse(record.value)
        if reading is None:
            rejected += 1
            continue
        readings += 1
        time_us = reading["time_us"]
        newest = max(newest_of_earlier_ms, newest_of_partition[record.partition])
        first_end_s = time_us // 10_000_000 * 10 + 10
        if time_us >= newest - 5_000_000:
            for end_s in (first_end_s, first_end_s + 10, first_end_s + 20):
                values[end_s, reading["sensor_type"], reading["location"]].append(reading["value"])
        else:
            assert (first_end_s + 20 + 5 + 30) * 1_000_000 < newest, "neither on time nor surely late"
            late += 1
        newest_of_partition[record.partition] = max(newest_of_partition[record.partition], time_us)
        newest_so_far = max(newest_so_far, time_us)
    windows = {key: Window(len(of), math.fsum(of) / len(of), min(of), max(of)) for key, of in values.items()}
    return Expected(windows, readings, rejected, late)


def over_all_locations(windows: dict[tuple[int, str, str], Window]) -> dict[tuple[int, str], Window]:
    """The same windows by sensor type alone."""
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
    """A line for each window that differs: counts and bounds must be equal, means within 1e-9."""
    lines = [f"missing {key}: {wanted[key]}" for key in wanted.keys() - found.keys()]
    lines += [f"not expected {key}: {found[key]}" for key in found.keys() - wanted.keys()]
    for key in wanted.keys() & found.keys():
        ours, theirs = found[key], wanted[key]
        if (ours.count, ours.min, ours.max) != (theirs.count, theirs.min, theirs.max) or not math.isclose(
            ours.avg, theirs.avg, rel_tol=1e-9, abs_tol=1e-12
        ):
            lines.append(f"{key}: {ours} instead of {theirs}")
    return sorted(lines)
