"""Compare the validator's speed on one core with msgspec alone.

"ours" validates each message, as the consumer and Spark do. The bare loop decodes the same messages into the same
fields and checks nothing else. Both run in turns. The result is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from benchmarks import harness
from benchmarks.harness import in_turns
from iot.readings import Message, Rejected, decode, decode_batch
from iot.sensors.fleet import Fleet

SENSORS = 50
MESSAGES = 20_000
# The size of a usual poll or Arrow batch.
BATCH = 2_000
# The interval between simulated readings, as at 2,000 a second.
INTERVAL_US = 500


def simulated(count: int) -> list[bytes]:
    """Return simulated readings as they are in the topic."""
    fleet = Fleet(SENSORS, 1, "benchmark")
    return [record["value"] for record in fleet.records(time.time_ns() // 1000 + np.arange(count) * INTERVAL_US)]


def rate(validate: Callable[[list[bytes]], object], batches: list[list[bytes]]) -> float:
    """Return messages per second of CPU time, which other processes on the machine do not affect."""
    begun_s = time.thread_time()
    for batch in batches:
        validate(batch)
    return sum(map(len, batches)) / (time.thread_time() - begun_s)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return harness.parser(__doc__, rounds=20).parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    messages = simulated(MESSAGES)
    batches = [messages[first : first + BATCH] for first in range(0, MESSAGES, BATCH)]
    kafka_ms = [time.time_ns() // 1_000_000 + MESSAGES * INTERVAL_US // 1000] * BATCH
    bare_decode = msgspec.json.Decoder(Message).decode
    loops: dict[str, Callable[[list[bytes]], object]] = {
        f"in batches of {BATCH:,}": lambda batch: decode_batch(batch, kafka_ms),
        "one at a time": lambda batch: [decode(message, kafka_ms[0]) for message in batch],
    }
    assert not any(isinstance(verdict, Rejected) for verdict in decode_batch(messages)), (
        "a simulated reading was rejected"
    )
    print(f"{'decoded/s on one core':<24}{'ours':>14}{'bare msgspec':>14}{'ratio':>8}")
    for name, ours in loops.items():
        ours_per_s, bare_per_s = in_turns(
            lambda: rate(ours, batches),  # noqa: B023  # called in this iteration
            lambda: rate(lambda batch: [bare_decode(message) for message in batch], batches),
            args.rounds,
        )
        print(f"{name:<24}{ours_per_s:>14,.0f}{bare_per_s:>14,.0f}{ours_per_s / bare_per_s:>8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
