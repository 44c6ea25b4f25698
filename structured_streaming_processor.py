"""Compute windows and alerts over the sensor readings with Spark Structured Streaming, and print them as they come.

Windows are 30 s long, one every 10 s, with a watermark of 5 s; alerts go to the topic iot-alerts, messages that are no
valid readings to iot-sensors-rejected. Progress is kept in a checkpoint, so a restart goes on where it was. Ctrl-C
finishes cleanly with a summary.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from iot import alerts, cli, rules_file, settings, terminal
from iot.alerts import DEFAULT_RULES, Delivered
from iot.batches import Identity, Offsets, Report
from iot.kafka.alert_feed import AlertFeed
from iot.kafka.connect import require_broker
from iot.kafka.offsets import end_offsets, start_offsets
from iot.kafka.topic_guard import TopicGuard
from iot.kafka.topics import ensure_topics, topic_id
from iot.processes import StopSignal
from iot.settings import ALERTS_TOPIC, REJECTED_TOPIC, SLIDE_S, WATERMARK_S, WINDOW_S, UserError
from iot.spark import alerts as spark_alerts
from iot.spark import checkpoints, errors
from iot.spark import queries as streams
from iot.spark import session as spark_session
from iot.spark.checkpoints import Notes
from iot.spark.rejected import RejectedWriter

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

NAME = "structured_streaming_processor"
CHECKPOINTS = ("spark-windows-checkpoint", "spark-alerts-checkpoint")
TRIGGER = "1 second"
LOOK_EVERY_S = 0.2
# Alerts that the last batch raised may still be on their way.
LAST_ALERTS_S = 2.0


Key = tuple[datetime, str, str]
"""Of a window: its end, sensor type, and location (empty where windows are over all)."""


def newest_first(key: Key) -> tuple[float, tuple[str, str]]:
    end, *names = key
    return -end.timestamp(), (names[0], names[1])


class Board:
    """What the terminal shows: the newest windows in a table, totals above it; alerts scroll."""

    def __init__(self, status: terminal.StatusLine, rows: int, by_location: bool) -> None:
        self._status = status
        self._rows = rows
        self._by_location = by_location
        self._lock = threading.Lock()
        self._windows: dict[Key, dict[str, Any]] = {}
        self._changed = False
        self.batches = self.messages = self.rejected = self.late = self.latest_by_us = self.alerts = 0

    def add(self, rows: pa.Table, report: Report) -> None:
        """Take over the windows that a batch changed, and its report."""
        with self._lock:
            self.batches += 1
            self.messages += report.messages
            self.rejected += report.rejected
            self.late += report.late
            self.latest_by_us = max(self.latest_by_us, report.latest_by_us)
            for row in rows.to_pylist():
                self._windows[row["end"], row["sensor_type"], row["location"] or ""] = row
            for key in sorted(self._windows, key=newest_first)[self._rows :]:
                del self._windows[key]
            self._changed = True

    def alert(self, delivered: list[Delivered], _: Offsets) -> None:
        """Print alerts."""
        with self._lock:
            self.alerts += len(delivered)
            self._status.print(*(alerts.line(one.alert) for one in delivered))

    def say(self, *lines: str) -> None:
        with self._lock:
            self._status.print(*lines)

    def show(self) -> None:
        """Show the table if a batch changed it."""
        with self._lock:
            if self._changed or self._status.is_live:
                self._status.update(self.text)
                self._changed = False

    def text(self) -> str:
        """Totals, and the windows, newest first."""
        return "\n".join([self.totals(), *self.table()])

    def totals(self) -> str:
        late = f" (at most {timedelta(seconds=self.latest_by_us // 1_000_000)} behind)" if self.late else ""
        return (
            f"{self.messages:,} readings, {self.rejected:,} rejected, {self.late:,} late{late}, {self.alerts:,} alerts"
        )

    def table(self) -> list[str]:
        if not self._windows:
            return ["no windows yet: python iot_producer.py sends readings"]
        place = f"{'location':<16}" if self._by_location else ""
        head = f"{'window':<19} {'sensor type':<16}{place}{'count':>10}{'avg':>12}{'min':>12}{'max':>12}  unit"
        lines = [head]
        last_end = None
        for end, sensor_type, location in sorted(self._windows, key=newest_first):
            row = self._windows[end, sensor_type, location]
            begin = end - timedelta(seconds=WINDOW_S)
            label = f"{begin.astimezone():%H:%M:%S}–{end.astimezone():%H:%M:%S}" if end != last_end else ""
            last_end = end
            numbers = "".join(f"{number:>12,.2f}" for number in (row["total"] / row["count"], row["min"], row["max"]))
            place = f"{terminal.printable(location)[:15]:<16}" if self._by_location else ""
            lines.append(
                f"{label:<19} {terminal.printable(sensor_type)[:15]:<16}{place}{row['count']:>10,}{numbers}"
                f"  {terminal.printable(row['unit'])}"
            )
        return lines


def cure(args: argparse.Namespace) -> str:
    """The command that has both queries start afresh."""
    return checkpoints.start_afresh(*(args.checkpoint_dir / name for name in CHECKPOINTS))


def start_queries(
    spark: SparkSession, args: argparse.Namespace, kafka: settings.Kafka, notes: list[Notes], board: Board
) -> list[StreamingQuery]:
    """Start the windows query and the alerts query on the topic."""
    windows_checkpoint, alerts_checkpoint = (args.checkpoint_dir / name for name in CHECKPOINTS)
    of_windows, of_alerts = notes
    guard = TopicGuard(kafka, of_windows.identity, cure(args))

    def keep(batch_id: int, rows: pa.Table, report: Report) -> None:
        guard.require_not_replaced()
        board.add(rows, report)
        of_windows.contexts = checkpoints.contexts_after(of_windows.contexts, batch_id, report)
        checkpoints.write_notes(windows_checkpoint, of_windows)

    micro_batch = {"availableNow": True} if args.available_now else {"processingTime": args.trigger}
    windows = streams.start_windows(
        spark,
        streams.read_topic(spark, kafka, args.topic, of_windows.start),
        str(windows_checkpoint),
        keep,
        of_windows.contexts,
        micro_batch,
        RejectedWriter(kafka, REJECTED_TOPIC, args.topic),
        by_location=args.by_location,
    )
    trigger = streams.alerts_trigger(spark, micro_batch)
    why_not = streams.why_no_real_time(spark, micro_batch)
    board.say(f"alerts to {ALERTS_TOPIC} in " + (f"micro-batches: {why_not}" if why_not else "real-time mode"))
    topic = streams.read_topic(spark, kafka, args.topic, of_alerts.start, trigger)
    raised = spark_alerts.alerts(topic, args.rules_table)
    return [windows, streams.start_alerts(raised, kafka, ALERTS_TOPIC, str(alerts_checkpoint), trigger)]


def watch(queries: list[StreamingQuery], feed: AlertFeed, board: Board, cure: str, stop: threading.Event) -> None:
    """Show what comes until ``stop`` is set or all queries have finished.

    Raises:
        UserError: a query died.
    """
    away = None
    while not stop.wait(LOOK_EVERY_S):
        board.show()
        for query in queries:
            if error := query.exception():
                raise UserError(f"the {query.name} query died: {errors.explain(error, cure=cure)}")
        if feed.failure:
            raise UserError(f"alerts cannot be shown: {settings.reason(feed.failure)}")
        outage = feed.outage
        if (outage is None) != (away is None):
            board.say(f"Kafka does not answer ({outage}); trying until it does" if outage else "Kafka is back")
            away = outage
        if not any(query.isActive for query in queries):
            return


def run(args: argparse.Namespace, stop: threading.Event) -> None:
    """Process until told to stop, and print the summary.

    Raises:
        UserError: something that the user can cure.
    """
    kafka = cli.kafka_from(args)
    args.rules_table = rules_file.load_rules(args.rules) if args.rules else DEFAULT_RULES
    require_broker(kafka)
    for warning in ensure_topics(kafka, [args.topic, ALERTS_TOPIC, REJECTED_TOPIC]):
        print(f"warning: {warning}", file=sys.stderr)
    folders = [args.checkpoint_dir / name for name in CHECKPOINTS]
    identity = Identity(args.topic, topic_id(kafka, args.topic))
    with checkpoints.hold(args.checkpoint_dir, NAME):
        notes = []
        for folder in folders:
            found = checkpoints.read_notes(folder)
            if found:
                identity.require(found.identity, f"the checkpoint {folder}", cure(args))
            notes.append(found or Notes(identity, start_offsets(kafka, args.topic, args.starting_offsets)))
            checkpoints.write_notes(folder, notes[-1])
        print(f"starting Spark; its log: {spark_session.log_file(NAME)}", flush=True)
        spark = spark_session.start(NAME, args.master)
        feed = None
        try:
            with terminal.StatusLine(plain_every_s=0) as status:
                board = Board(status, args.rows, args.by_location)
                board.say(
                    f"windows of {WINDOW_S} s, one every {SLIDE_S} s, watermark {WATERMARK_S} s, "
                    f"over {args.topic} at {kafka.bootstrap_servers}",
                    f"Spark UI {spark.sparkContext.uiWebUrl or 'off'}   checkpoints {args.checkpoint_dir}",
                )
                feed = AlertFeed(kafka, args.topic, board.alert)
                feed.start(end_offsets(kafka, ALERTS_TOPIC))
                begun_s = time.monotonic()
                try:
                    queries = start_queries(spark, args, kafka, notes, board)
                except UserError:
                    raise
                except Exception as error:
                    raise UserError(f"the queries do not start: {errors.explain(error, cure=cure(args))}") from error
                try:
                    watch(queries, feed, board, cure(args), stop)
                finally:
                    for query in queries:
                        query.stop()
                    stop.wait(0 if stop.is_set() else LAST_ALERTS_S)
                    feed.close()
            print(board.text() if args.available_now else board.totals())
            print(f"processed in {board.batches:,} batches, {time.monotonic() - begun_s:,.1f} s", flush=True)
        finally:
            if feed:
                feed.close()
            spark.stop()


def interval(text: str) -> str:
    """argparse type: an interval of Spark's."""
    if not re.fullmatch(r"\d+(\.\d+)? ?(milliseconds?|ms|seconds?|s|minutes?|hours?)", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is no interval; for example '500 milliseconds' or '10 seconds'")
    return text.strip()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--master",
        default=os.environ.get("MASTER") or spark_session.MASTER,
        help="the Spark master: local[N], spark://…",
    )
    parser.add_argument(
        "--checkpoint-dir",
        metavar="DIR",
        type=Path,
        default=checkpoints.CHECKPOINT_ROOT,
        help=f"where {' and '.join(CHECKPOINTS)} are; on a cluster a folder that all machines share",
    )
    parser.add_argument(
        "--starting-offsets",
        choices=("earliest", "latest"),
        default="latest",
        help="where to begin without a checkpoint",
    )
    parser.add_argument("--available-now", action="store_true", help="process what is there, then stop")
    parser.add_argument(
        "--trigger",
        metavar="INTERVAL",
        type=interval,
        default=TRIGGER,
        help="at most one batch per interval, as Spark writes them",
    )
    parser.add_argument("--by-location", action="store_true", help="windows by sensor type and location")
    parser.add_argument("--rows", metavar="N", type=cli.positive_int, default=20, help="rows of the table")
    parser.add_argument("--rules", metavar="FILE", type=Path, help="a TOML file of rules instead of the usual ones")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, StopSignal().install().event))


if __name__ == "__main__":
    sys.exit(main())
