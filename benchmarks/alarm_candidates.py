"""Compare the speed of folding readings with and without rules for alarms, on one core.

2 % of the readings of each sensor with a rule are out of bounds, each by itself, which is the worst case. Both run in
turns. The result is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

import pyarrow as pa

from benchmarks import harness
from benchmarks.harness import in_turns
from iot.alerts import DEFAULT_RULES
from iot.readings import Message, encode, format_timestamp
from iot.spark.candidates import Sides, sides_of
from iot.spark.contexts import Context
from iot.spark.fold import fold

SENSORS = 1_000
OUT_OF_BOUNDS = 0.02
# The size of Spark's Arrow batches.
BATCH = 50_000
# The interval between readings, as at 1,000 a second.
INTERVAL_MS = 1
TYPES = (
    ("temperature", "celsius", 22.0, 31.0),
    ("humidity", "percent", 50.0, 75.0),
    ("pressure", "hPa", 1_015.0, 1_035.0),
)


def batches_of(count: int) -> list[pa.RecordBatch]:
    """Return readings as Spark hands them to a task."""
    chance = random.Random(1)
    start_ms = time.time_ns() // 1_000_000
    batches = []
    for first in range(0, count, BATCH):
        messages = []
        numbers = range(first, min(first + BATCH, count))
        for number in numbers:
            sensor = number % SENSORS
            sensor_type, unit, usual, beyond = TYPES[sensor % len(TYPES)]
            value = beyond if chance.random() < OUT_OF_BOUNDS else usual
            at_us = (start_ms + number * INTERVAL_MS) * 1_000
            name = f"sensor_{sensor}"
            messages.append(encode(Message(name, sensor_type, value, format_timestamp(at_us), "hall", unit)))
        columns = {
            "value": pa.array(messages, pa.binary()),
            "partition": pa.array([0] * len(messages), pa.int32()),
            "offset": pa.array(numbers, pa.int64()),
            "timestamp_ms": pa.array([start_ms + number * INTERVAL_MS for number in numbers], pa.int64()),
        }
        batches.append(pa.RecordBatch.from_pydict(columns))
    return batches


def rate(batches: list[pa.RecordBatch], sides: Sides | None) -> float:
    """Return readings per second of CPU time, which other processes on the machine do not affect."""
    begun_s = time.thread_time()
    for _ in fold(batches, Context(), sensors=True, alarm_sides=sides):
        pass
    readings: int = sum(batch.num_rows for batch in batches)
    return readings / (time.thread_time() - begun_s)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return harness.parser(__doc__, messages=200_000, rounds=10).parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    batches, sides = batches_of(args.messages), sides_of(DEFAULT_RULES)
    with_alarms, without = in_turns(lambda: rate(batches, sides), lambda: rate(batches, None), args.rounds)
    print(f"{'folded/s on one core':<24}{'with alarms':>14}{'without':>14}{'ratio':>8}")
    print(f"{'':<24}{with_alarms:>14,.0f}{without:>14,.0f}{with_alarms / without:>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
