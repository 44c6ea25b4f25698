"""Measure how fast Spark computes the windows, compared with reading the topic, and with reading and ``from_json``.

The windows query is the application's: strict validation, late readings counted, rejected messages written, windows in
the state store, with a new checkpoint each time. The results of the others are discarded. All take turns, and the ratio
of the medians counts, because the load of the machine varies.

With --settings the windows query also runs with other settings; iot/spark/session.py was chosen by these figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import backlog, harness
from benchmarks.harness import some_kafka
from iot import cli
from iot.kafka.offsets import start_offsets
from iot.settings import REJECTED_TOPIC, Kafka, UserError
from iot.spark import queries
from iot.spark import session as spark_session
from iot.spark.rejected import RejectedWriter
from iot.spark.windows import start_windows

STATE = "spark.sql.streaming.stateStore.providerClass"
ROCKSDB = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
BATCH_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
OTHER_SETTINGS = {
    "RocksDB state store": {STATE: ROCKSDB},
    "8 shuffle partitions": {"spark.sql.shuffle.partitions": "8"},
    "Arrow batches of 10,000": {BATCH_ROWS: "10000"},
    "Arrow batches of 100,000": {BATCH_ROWS: "100000"},
}


class Runs:
    """The queries to measure; each method processes the whole topic once."""

    def __init__(self, spark: Any, kafka: Kafka, topic: str, messages: int) -> None:
        self._spark, self._kafka, self._topic, self._messages = spark, kafka, topic, messages

    def read(self) -> None:
        backlog.read(self._spark, self._kafka, self._topic).write.format("noop").mode("overwrite").save()

    def from_json(self) -> None:
        backlog.from_json(self._spark, self._kafka, self._topic)

    def windows(self) -> None:
        counted = [0]

        def count(_: int, rows: Any, report: Any) -> None:
            counted[0] += report.messages + report.rejected

        start = start_offsets(self._kafka, self._topic, "earliest")
        with tempfile.TemporaryDirectory(prefix="iot-benchmark-") as checkpoint:
            query = start_windows(
                queries.read_topic(self._spark, self._kafka, self._topic, start),
                Path(checkpoint),
                count,
                trigger={"availableNow": True},
                on_rejected=RejectedWriter(self._kafka, REJECTED_TOPIC, self._topic),
            )
            query.awaitTermination()
        if counted[0] != self._messages:
            raise UserError(f"the windows query counted {counted[0]:,} of {self._messages:,} messages")

    def rate(self, run: Callable[[], None]) -> float:
        """Return messages a second."""
        started_s = time.perf_counter()
        run()
        return self._messages / (time.perf_counter() - started_s)


def measure(runs: Runs, rounds: int) -> dict[str, float]:
    """Return the median rate of each query, after one round of warm-up."""
    rates: dict[str, list[float]] = {"read": [], "from_json": [], "windows": []}
    for number in range(rounds + 1):
        for name, measured in rates.items():
            measured.append(runs.rate(getattr(runs, name)))
            print(f"round {number}: {name:<10}{measured[-1]:>12,.0f}/s{' (warm-up)' * (number == 0)}", flush=True)
    return {name: statistics.median(measured[1:]) for name, measured in rates.items()}


def measure_settings(runs: Runs, spark: Any, rounds: int) -> None:
    """Print the rate of the windows query with other settings, relative to the usual ones in the same round."""
    for name, config in OTHER_SETTINGS.items():
        ratios = []
        for _ in range(rounds):
            usual = runs.rate(runs.windows)
            before = {key: spark.conf.get(key) for key in config}
            for key, value in config.items():
                spark.conf.set(key, value)
            ratios.append(runs.rate(runs.windows) / usual)
            for key, value in before.items():
                spark.conf.set(key, value)
        print(f"{name:<28}{statistics.median(ratios):>6.2f} of the rate with the usual settings", flush=True)


def run(args: argparse.Namespace) -> None:
    with ExitStack() as stack:
        kafka = stack.enter_context(some_kafka(args.bootstrap_servers))
        topic = f"benchmark-{time.time_ns()}"
        print(f"writing {args.messages:,} readings …", flush=True)
        backlog.fill(kafka, topic, args.messages)
        spark = spark_session.start("benchmark-windows", args.master)
        stack.callback(spark.stop)
        runs = Runs(spark, kafka, topic, args.messages)
        rates = measure(runs, args.rounds)
        print(f"\n{args.master}, {args.messages:,} readings{'rows/s':>16}{'of read + from_json':>22}")
        for name, title in (
            ("read", "read"),
            ("from_json", "read + from_json"),
            ("windows", "the full windows query"),
        ):
            print(f"{title:<31}{rates[name]:>14,.0f}{rates[name] / rates['from_json']:>22.2f}")
        if args.settings:
            measure_settings(runs, spark, args.rounds)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, kafka=True, messages=3_000_000, rounds=3)
    parser.add_argument("--master", default="local[2]", help="Spark master")
    parser.add_argument("--settings", action="store_true", help="also measure other settings")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
