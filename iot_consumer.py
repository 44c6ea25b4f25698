"""Read sensor readings from Kafka as a member of a consumer group, print an alert for each reading that breaks a rule,
and keep statistics per sensor type.

Offsets are committed after their messages are processed, so a crash repeats messages and never loses any. A malformed
message is counted and shown with the reason, and reading continues. Ctrl-C stops cleanly and prints a summary.
"""

from __future__ import annotations

from iot.processes import stop_event, until_stopped

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import math
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import iot  # noqa: F401  # stops an unsupported Python before a package is missing

# isort: split
from kafka.errors import KafkaError

from iot import alerts, cli, rules_file, terminal
from iot.alerts import Rules
from iot.kafka import advertised
from iot.kafka.connect import require_broker
from iot.kafka.consumer_group import POLL_WAIT_MS, GroupMember, make_consumer
from iot.kafka.lag import LagMonitor, lag_text
from iot.kafka.topics import ensure_topics
from iot.readings import Rejected, decode_batch
from iot.settings import Kafka, UserError, reason
from iot.statistics import MAX_TYPES, Statistics

DEFAULT_GROUP = "iot-consumer"
TOO_EARLY = "before anything was read"
# Maximum number of rows in the live table.
STATUS_ROWS = 12
# Maximum number of lines for each kind of malformed message. The rest are only counted, so that alerts stay visible.
MALFORMED_LINES = 10


@dataclass(frozen=True)
class Consumer:
    """The parts of a running consumer."""

    member: GroupMember
    lag: LagMonitor
    rules: Rules
    statistics: Statistics
    status: terminal.StatusLine


def consume(consumer: Consumer, limit: float, stop: threading.Event) -> None:
    """Process messages and commit them, until ``stop`` is set or ``limit`` messages are processed.

    Raises:
        UserError: Kafka does not let this client read.
    """
    member, lag, statistics, status = consumer.member, consumer.lag, consumer.statistics, consumer.status
    while not stop.is_set() and statistics.run.messages < limit:
        batches: list[Sequence[Any]] = []
        try:
            batches = member.poll(limit - statistics.run.messages)
        except KafkaError as error:
            status.print(*lag.report_unreachable(error))
            stop.wait(POLL_WAIT_MS / 1000)
        now_s = time.monotonic()
        for records in batches:
            status.print(*process(records, consumer.rules, statistics, now_s))
        status.print(*member.commit_assignment())
        if not lag.unreachable:
            member.rejoin_if_stuck(now_s)
            member.commit_if_due(now_s)
        status.print(*lag.refresh_if_due(now_s))
        status.update(lambda: status_text(statistics, lag, time.monotonic()))
    if lag.unreachable or not member.commit():
        status.print("the last messages could not be committed: the next run of this group repeats them")


def process(records: Sequence[Any], rules: Rules, statistics: Statistics, now_s: float) -> list[str]:
    """Validate Kafka records, check them against the rules and add them to the statistics.

    Returns the lines to print: one for each alert, and one for each of the first malformed messages of a kind.
    """
    lines: list[str] = []
    values: defaultdict[str, list[float]] = defaultdict(list)
    verdicts = decode_batch([record.value for record in records], [record.timestamp for record in records])
    for record, verdict in zip(records, verdicts, strict=True):
        if isinstance(verdict, Rejected):
            if (seen := statistics.add_malformed(str(verdict))) <= MALFORMED_LINES:
                where = f"{record.topic} partition {record.partition} offset {record.offset}"
                more = "; more of this kind are only counted" if seen == MALFORMED_LINES else ""
                lines.append(terminal.printable(f"MALFORMED {where}: {verdict}{more}"))
            continue
        values[verdict.sensor_type].append(verdict.value)
        if broken := alerts.broken_bound(verdict, rules):
            alert_id = alerts.alert_id(record.topic, record.partition, record.offset)
            alert = alerts.make_alert(verdict, *broken, alert_id)
            statistics.alerts[alert.type] += 1
            lines.append(alerts.line(alert))
    statistics.add(len(records), values, now_s)
    return lines


def status_text(statistics: Statistics, lag: LagMonitor, now_s: float) -> str:
    """Return the live status: a line of totals above the statistics table."""
    per_s, _ = statistics.recent(now_s)
    totals = (
        f"{statistics.run.messages:,} processed, {per_s:,.0f}/s, {statistics.malformed.total():,} malformed, "
        f"{statistics.alerts.total():,} alerts, lag {lag_text(lag.lag)}"
    )
    return "\n".join((totals, *statistics.table(now_s, STATUS_ROWS)))


def summary_text(statistics: Statistics, lag: LagMonitor, now_s: float) -> str:
    """Return the summary of the run."""
    messages, took_s = statistics.run.messages, now_s - statistics.start_s
    lines = [f"processed {messages:,} messages in {took_s:,.1f} s ({messages / took_s:,.0f}/s)"]
    for name, counts in (("malformed", statistics.malformed), ("alerts", statistics.alerts)):
        lines.append(f"{name}: {counts.total():,}")
        lines += [f"{count:>9,}  {terminal.printable(kind)}" for kind, count in counts.most_common()]
    lines += statistics.table(now_s, MAX_TYPES + 1)
    lines.append(f"lag: {lag_text(lag.lag)}")
    return "\n".join(lines)


def read(kafka: Kafka, rules: Rules, args: argparse.Namespace, stop: threading.Event) -> None:
    """Join the group, consume, and print the summary."""
    client = until_stopped(lambda: make_consumer(kafka, args.group), stop, TOO_EARLY)
    member = GroupMember(client, args.topic, args.from_beginning)
    lag = LagMonitor(client, kafka.bootstrap_servers, args.topic, partial(advertised.outage, kafka))
    statistics = Statistics(time.monotonic())
    try:
        until_stopped(member.join, stop, TOO_EARLY)
        with terminal.StatusLine() as status:
            status.print(f"reading {args.topic} at {kafka.bootstrap_servers} as group {args.group}; Ctrl-C stops")
            consume(Consumer(member, lag, rules, statistics, status), args.max_messages or math.inf, stop)
            ended_s = time.monotonic()
            if not lag.unreachable:
                status.print(*lag.refresh())
        print(summary_text(statistics, lag, ended_s), flush=True)
    finally:
        member.close()


def run(args: argparse.Namespace, stop: threading.Event) -> None:
    """Check the rules and the broker, then read until ``stop`` is set.

    Raises:
        UserError: the rules file is wrong, or Kafka does not answer or does not let this client read.
    """
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, TOO_EARLY)
    rules = until_stopped(lambda: rules_file.load_rules(args.rules), stop, TOO_EARLY)
    until_stopped(lambda: require_broker(kafka), stop, TOO_EARLY)
    partitions = {args.topic: args.partitions}
    create = partial(ensure_topics, kafka, [args.topic], partitions, args.replication_factor)
    for warning in until_stopped(create, stop, TOO_EARLY):
        print(f"warning: {warning}", file=sys.stderr)
    try:
        read(kafka, rules, args, stop)
    except KafkaError as error:
        why = advertised.outage(kafka) or reason(error)
        raise UserError(f"cannot read from Kafka at {kafka.bootstrap_servers}: {why}") from error


def group_name(text: str) -> str:
    """argparse type: the name of a consumer group."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the group name is empty")
    return text


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_topic_arguments(parser)
    parser.add_argument("--group", type=group_name, default=DEFAULT_GROUP, help="consumer group to join")
    parser.add_argument(
        "--from-beginning",
        action="store_true",
        help="read the topic from its beginning (default: from the group's committed offsets, or else from the end)",
    )
    parser.add_argument(
        "--max-messages",
        metavar="N",
        type=cli.positive_int,
        help="stop after N messages, malformed ones included (default: no limit)",
    )
    cli.add_rules_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
