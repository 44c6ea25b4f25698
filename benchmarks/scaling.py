"""Measure what a reading costs with more partitions, and on a cluster compared with Spark in the script.

The application processes the same backlog with 3, 6 and 12 partitions, on ``local[1]`` and ``local[2]``, and on a
standalone cluster of one and two executors with one task slot each. Everything runs on this machine. The time of a run
is that of ``benchmarks.app``: from its line "reading …" until its API reports that every message was processed. All
configurations take turns, in another order each round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import backlog, harness
from benchmarks.app import process_backlog
from benchmarks.harness import some_kafka
from iot import cli
from iot.broker.broker import find_free_port
from iot.cluster.spark import SparkCluster

# Kind of master, and how many task slots.
MASTERS = [("local", 1), ("local", 2), ("cluster", 1), ("cluster", 2)]


@contextmanager
def master(kind: str, slots: int) -> Iterator[str]:
    """The URL of a Spark master: in the script, or of a cluster with ``slots`` executors of one core each."""
    if kind == "local":
        yield f"local[{slots}]"
        return
    with (
        tempfile.TemporaryDirectory(prefix="iot-benchmark-") as folder,
        SparkCluster(Path(folder), port=find_free_port(), workers=slots, cores=1) as cluster,
    ):
        yield cluster.url


def run(args: argparse.Namespace) -> None:
    took: dict[tuple[str, int, int], list[float]] = {}
    with ExitStack() as stack:
        kafka = stack.enter_context(some_kafka(args.bootstrap_servers))
        topics = {}
        for partitions in args.partitions:
            topics[partitions] = f"benchmark-{partitions}-{time.time_ns()}"
            print(f"writing {args.messages:,} readings to {partitions} partitions …", flush=True)
            backlog.fill(kafka, topics[partitions], args.messages, partitions)
        order = [(kind, slots, partitions) for kind, slots in MASTERS for partitions in args.partitions]
        for number in range(args.rounds):
            random.Random(number).shuffle(order)
            for kind, slots, partitions in order:
                with master(kind, slots) as url:
                    flags = ["--partitions", str(partitions)]
                    processed_s, _ = process_backlog(
                        kafka, topics[partitions], args.messages, url, *flags, with_alerts=False
                    )
                took.setdefault((kind, slots, partitions), []).append(processed_s)
                print(f"round {number + 1}: {kind}[{slots}], {partitions} partitions: {processed_s:.1f} s", flush=True)
    report(took, args.partitions, args.messages)


def report(took: dict[tuple[str, int, int], list[float]], partitions: Sequence[int], messages: int) -> None:
    """Print the medians: time of a reading, compared with the fewest partitions and with the local master."""
    median_us = {key: statistics.median(times) / messages * 1e6 for key, times in took.items()}
    print(f"\n{'master':<14}{'partitions':>11}{'readings/s':>12}{'us/reading':>12}{'of fewest':>11}{'of local':>10}")
    for kind, slots in MASTERS:
        for count in partitions:
            one_us, local_us = median_us[kind, slots, count], median_us["local", slots, count]
            print(
                f"{f'{kind}[{slots}]':<14}{count:>11}{1e6 / one_us:>12,.0f}{one_us:>12.2f}"
                f"{one_us / median_us[kind, slots, partitions[0]]:>11.2f}{one_us / local_us:>10.2f}"
            )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, kafka=True, messages=3_000_000, rounds=3)
    parser.add_argument(
        "--partitions", type=cli.positive_int, nargs="+", default=[3, 6, 12], metavar="N", help="partitions to compare"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
