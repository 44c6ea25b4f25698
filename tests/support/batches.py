"""Runs the Python steps of a batch on made-up messages, without Spark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa

from iot.batches import BatchReport
from iot.readings import Message, encode, format_timestamp
from iot.spark.candidates import Sides
from iot.spark.contexts import Context, Watched
from iot.spark.fold import fold
from iot.spark.lateness import Outcome, decode_outcome, judge

BASE_MS = 1_795_561_388_713
BASE_US = BASE_MS * 1000


class Sent(msgspec.Struct):
    """A message in Kafka."""

    partition: int
    arrived_ms: int
    value: bytes


def reading(at_us: int, value: float = 20.0, sensor_id: str = "s", **fields: Any) -> bytes:
    return encode(
        Message(sensor_id, fields.pop("sensor_type", "temperature"), value, format_timestamp(at_us), **fields)
    )


def arrow_batches(
    sent: list[Sent], size: int = 50_000, offsets: Mapping[int, int] | None = None
) -> dict[int, list[pa.RecordBatch]]:
    """Arrow batches of at most ``size`` rows, by partition.

    Args:
        offsets: the first offset of a partition, 0 if missing.
    """
    offsets = offsets or {}
    by_partition = defaultdict(list)
    for one in sent:
        by_partition[one.partition].append(one)
    return {
        partition: [
            pa.RecordBatch.from_pydict(
                {
                    "key": pa.array([b"k"] * len(of[at : at + size]), pa.binary()),
                    "value": pa.array([one.value for one in of[at : at + size]], pa.binary()),
                    "partition": pa.array([partition] * len(of[at : at + size]), pa.int32()),
                    "offset": pa.array(
                        (offsets.get(partition, 0) + row for row in range(at, min(at + size, len(of)))), pa.int64()
                    ),
                    "timestamp_ms": pa.array([one.arrived_ms for one in of[at : at + size]], pa.int64()),
                }
            )
            for at in range(0, len(of), size)
        ]
        for partition, of in by_partition.items()
    }


def run_batch(
    sent: list[Sent],
    context: Context | None = None,
    size: int = 50_000,
    sensors: bool = True,
    state_slack_s: int = 1_000_000_000,
    offsets: Mapping[int, int] | None = None,
    alarm_sides: Sides | None = None,
    watched: Watched | None = None,
) -> tuple[list[dict[str, Any]], BatchReport, Context]:
    """Fold and judge one batch; return the rows for the windows, the report and the context of the next batch."""
    context = context or Context()
    folded = [
        row
        for of_partition in arrow_batches(sent, size, offsets).values()
        for row in fold(of_partition, context, None, sensors, alarm_sides, watched)
    ]
    rows = [row for batch in judge(folded, context, 7, state_slack_s) for row in batch.to_pylist()]
    [last] = [row for row in rows if row["batch_id"] is not None]
    assert last["batch_id"] == 7
    outcome: Outcome = decode_outcome(last["outcome"])
    return [row for row in rows if row["batch_id"] is None], outcome.report, outcome.next_context


def windows_of_rows(rows: list[dict[str, Any]]) -> dict[tuple[int, str, str], list[float]]:
    """Count, minimum and maximum by window end in seconds, sensor type and location, as Spark would compute them."""
    found: dict[tuple[int, str, str], list[float]] = {}
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for row in rows:
        first_s = (row["event_time"] - epoch) // timedelta(seconds=10) * 10 + 10
        for end_s in (first_s, first_s + 10, first_s + 20):
            if end_s > (row["missed_until"] - epoch).total_seconds():
                at = found.setdefault((end_s, row["sensor_type"], row["location"]), [0, row["min"], row["max"]])
                at[0] += row["count"]
                at[1], at[2] = min(at[1], row["min"]), max(at[2], row["max"])
    return found
