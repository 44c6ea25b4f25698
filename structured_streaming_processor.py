"""Compute windows and alerts over the sensor readings with Spark Structured Streaming, and print them as they come.

Windows are 30 s long and start every 10 s, with a watermark of 5 s. Alerts go to the topic iot-alerts, messages that
are not valid readings to iot-sensors-rejected. A restart continues where the last run stopped. Ctrl-C prints a summary.
"""

from __future__ import annotations

from iot.processes import require_not_stopped, stop_event, until_stopped

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import iot  # noqa: F401  # stops an unsupported Python before a package is missing

# isort: split
from iot import cli, places, terminal
from iot.alerts import Rules
from iot.batches import BatchReport, Identity, Offsets
from iot.kafka.alert_feed import AlertFeed
from iot.kafka.connect import require_broker
from iot.kafka.offsets import end_offsets, start_offsets
from iot.kafka.topic_guard import TopicGuard
from iot.kafka.topics import ensure_topics, topic_id
from iot.owner import Leases, this_process
from iot.rules_file import load_rules
from iot.settings import ALERTS_TOPIC, REJECTED_TOPIC, SLIDE_S, WATERMARK_S, WINDOW_S, Kafka, UserError, reason
from iot.spark import alerts, checkpoints, queries
from iot.spark import session as spark_session
from iot.spark.board import Board
from iot.spark.checkpoints import CheckpointNotes
from iot.spark.errors import explain
from iot.spark.rejected import RejectedWriter
from iot.spark.remote_path import AnyPath, RemotePath
from iot.spark.windows import start_windows

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

NAME = "structured_streaming_processor"
CHECKPOINTS = ("spark-windows-checkpoint", "spark-alerts-checkpoint")
TRIGGER = "1 second"
TOO_EARLY = "before anything was processed"
# How often to look at the queries.
LOOK_EVERY_S = 0.2
# How long to wait at the end for alerts of the last batch.
LAST_ALERTS_S = 2.0


@dataclass(frozen=True)
class Source:
    """The topic that is processed, by which rules, and the state of this script."""

    kafka: Kafka
    identity: Identity
    folders: list[AnyPath]
    """The checkpoints of the windows query and of the alerts query."""
    notes: list[CheckpointNotes]
    rules: Rules
    leases: Leases
    """On the checkpoints."""

    @property
    def fix(self) -> str:
        """The command that resets both queries."""
        return checkpoints.how_to_reset(*self.folders)


def open_source(args: argparse.Namespace, kafka: Kafka, rules: Rules, leases: Leases, stop: threading.Event) -> Source:
    """Read the notes beside the checkpoints, or write those of a new checkpoint.

    Raises:
        UserError: a checkpoint is of another topic or another program.
        Stopped: ``stop`` was set while Kafka did not answer.
    """
    folders = [args.checkpoint_dir / name for name in CHECKPOINTS]
    identity = Identity(args.topic, until_stopped(lambda: topic_id(kafka, args.topic), stop, TOO_EARLY))

    def first_offsets() -> Offsets:
        return start_offsets(kafka, args.topic, args.starting_offsets)

    notes = []
    for checkpoint in folders:
        found = checkpoints.read_notes(checkpoint)
        if found:
            identity.require(found.identity, f"the checkpoint {checkpoint}", checkpoints.how_to_reset(*folders))
        notes.append(found or CheckpointNotes(identity, until_stopped(first_offsets, stop, TOO_EARLY)))
        checkpoints.write_notes(checkpoint, notes[-1])
    return Source(kafka, identity, folders, notes, rules, leases)


def start_windows_query(
    spark: SparkSession, source: Source, board: Board, trigger: Mapping[str, Any], by_location: bool
) -> StreamingQuery:
    """The readings of the topic, validated and windowed, on the board."""
    guard = TopicGuard(source.kafka, source.identity, source.fix)

    def show(_: int, windows: pa.Table, report: BatchReport) -> None:
        guard.require_not_replaced()
        source.leases.require()
        board.add(windows, report)

    topic = queries.read_topic(spark, source.kafka, source.identity.topic, source.notes[0].start)
    writer = RejectedWriter(source.kafka, REJECTED_TOPIC, source.identity.topic)
    return start_windows(topic, source.folders[0], show, trigger=trigger, on_rejected=writer, by_location=by_location)


def start_alerts_query(
    spark: SparkSession, source: Source, board: Board, micro_batch: Mapping[str, Any]
) -> StreamingQuery:
    """The readings that break a rule, as alerts in their topic."""
    partitions = len(end_offsets(source.kafka, source.identity.topic))
    why_not = queries.why_no_real_time(spark, micro_batch, partitions)
    board.say(f"alerts to {ALERTS_TOPIC} in " + (f"micro-batches: {why_not}" if why_not else "real-time mode"))
    trigger = micro_batch if why_not else queries.REAL_TIME
    topic = queries.read_topic(spark, source.kafka, source.identity.topic, source.notes[1].start, trigger)
    raised = alerts.alerts(topic, source.rules)
    return queries.start_alerts(raised, source.kafka, ALERTS_TOPIC, source.folders[1], trigger)


@contextmanager
def running(
    spark: SparkSession, args: argparse.Namespace, source: Source, board: Board
) -> Iterator[list[StreamingQuery]]:
    """Both queries; they stop at the end of the block.

    Raises:
        UserError: a query does not start.
    """
    trigger = {"availableNow": True} if args.available_now else {"processingTime": args.trigger}
    started: list[StreamingQuery] = []
    try:
        try:
            started.append(start_windows_query(spark, source, board, trigger, args.by_location))
            started.append(start_alerts_query(spark, source, board, trigger))
        except UserError:
            raise
        except Exception as error:
            checkpoint = source.folders[len(started)]
            why = explain(error, fix=source.fix, checkpoint=checkpoint, kafka=source.kafka)
            raise UserError(f"the queries do not start: {why}") from error
        yield started
    finally:
        for query in started:
            query.stop()


def watch(started: list[StreamingQuery], feed: AlertFeed, board: Board, source: Source, stop: threading.Event) -> None:
    """Show results until ``stop`` is set or all queries have finished.

    Raises:
        UserError: a query failed, or another process has taken over the checkpoints.
    """
    outage = None
    while not stop.wait(LOOK_EVERY_S):
        board.show()
        source.leases.require_not_lost()
        for query, checkpoint in zip(started, source.folders, strict=False):
            if error := query.exception():
                why = explain(error, fix=source.fix, checkpoint=checkpoint, kafka=source.kafka)
                raise UserError(f"the {query.name} query failed: {why}")
        if feed.failure:
            raise UserError(f"alerts cannot be shown: {reason(feed.failure)}; start again")
        if (feed.outage is None) != (outage is None):
            board.say(
                f"Kafka does not answer ({feed.outage}); retrying until it does" if feed.outage else "Kafka is back"
            )
            outage = feed.outage
        if not any(query.isActive for query in started):
            stop.wait(LAST_ALERTS_S)
            return


def process(args: argparse.Namespace, source: Source, spark: SparkSession, stop: threading.Event) -> None:
    """Process until told to stop, and print the summary."""
    kafka = source.kafka
    with ExitStack() as stack:
        status = stack.enter_context(terminal.StatusLine(plain_every_s=0))
        board = Board(status, args.rows, args.by_location)
        board.say(
            f"windows of {WINDOW_S} s, one every {SLIDE_S} s, watermark {WATERMARK_S} s, "
            f"over {args.topic} at {kafka.bootstrap_servers}",
            f"Spark UI {spark.sparkContext.uiWebUrl or 'off'}   checkpoints {args.checkpoint_dir}",
        )
        feed = AlertFeed(kafka, args.topic, board.print_alerts)
        feed.start(until_stopped(lambda: start_offsets(kafka, ALERTS_TOPIC, "latest"), stop, TOO_EARLY))
        stack.callback(feed.close)
        begun_s = time.monotonic()
        started = stack.enter_context(running(spark, args, source, board))
        watch(started, feed, board, source, stop)
    print(board.text() if args.available_now else board.totals())
    print(f"processed in {board.batches:,} batches, {time.monotonic() - begun_s:,.1f} s", flush=True)


def run(args: argparse.Namespace, stop: threading.Event) -> None:
    """Check everything that can be checked, start Spark, and process.

    Raises:
        UserError: something that the user can fix.
    """
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, TOO_EARLY)
    rules = until_stopped(lambda: load_rules(args.rules), stop, TOO_EARLY)
    if not isinstance(args.checkpoint_dir, RemotePath):
        places.require_state_folders(args.checkpoint_dir, CHECKPOINTS)
    until_stopped(lambda: require_broker(kafka), stop, TOO_EARLY)
    fix = "stop it, or give this one a --checkpoint-dir of its own"
    with ExitStack() as stack:
        spark = None
        if spark_session.comes_first(args.master, args.checkpoint_dir):
            spark = stack.enter_context(running_spark(args, stop))
        if isinstance(args.checkpoint_dir, RemotePath):
            checkpoints.require_writable(args.checkpoint_dir, CHECKPOINTS, stop)
        owned = checkpoints.lock(
            args.checkpoint_dir, this_process(NAME), fix, checkpoints=CHECKPOINTS, say=print, stop=stop
        )
        leases = stack.enter_context(owned)
        topics = [args.topic, ALERTS_TOPIC, REJECTED_TOPIC]
        partitions = {args.topic: args.partitions}
        create = partial(ensure_topics, kafka, topics, partitions, args.replication_factor)
        for warning in until_stopped(create, stop, TOO_EARLY):
            print(f"warning: {warning}", file=sys.stderr)
        source = open_source(args, kafka, rules, leases, stop)
        process(args, source, spark or stack.enter_context(running_spark(args, stop)), stop)


@contextmanager
def running_spark(args: argparse.Namespace, stop: threading.Event) -> Iterator[SparkSession]:
    """Spark, until the end of the block.

    Raises:
        UserError: it does not start.
    """
    print(f"starting Spark; its log: {spark_session.log_file(NAME)}", flush=True)
    spark = spark_session.start(
        NAME, args.master, checkpoint_dir=args.checkpoint_dir, driver_host=args.driver_host, stop=stop
    )
    try:
        require_not_stopped(TOO_EARLY)
        yield spark
    finally:
        spark.stop()


def interval(text: str) -> str:
    """argparse type: an interval of Spark's."""
    if not re.fullmatch(r"\d+(\.\d+)? ?(milliseconds?|ms|seconds?|s|minutes?|hours?)", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not an interval; for example '500 milliseconds' or '10 seconds'")
    return text.strip()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_topic_arguments(parser)
    cli.add_spark_arguments(
        parser,
        master=spark_session.MASTER,
        checkpoint_dir=checkpoints.CHECKPOINT_ROOT,
        checkpoints=CHECKPOINTS,
        folder=checkpoints.folder,
    )
    cli.add_rules_argument(parser)
    parser.add_argument("--available-now", action="store_true", help="process what is in the topic now, then stop")
    parser.add_argument(
        "--trigger",
        metavar="INTERVAL",
        type=interval,
        default=TRIGGER,
        help="start a batch at most once per interval, in Spark's notation",
    )
    parser.add_argument("--by-location", action="store_true", help="windows by sensor type and location")
    parser.add_argument("--rows", metavar="N", type=cli.positive_int, default=20, help="maximum rows of the table")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
