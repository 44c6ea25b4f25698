"""Read sensor readings from Kafka as one of a consumer group, print an alert for each that breaks a rule, and keep
statistics per sensor type.

Offsets are committed after processing: a crash repeats messages, never loses any. A malformed message is counted and
shown with its reason, and never stops anything. Ctrl-C finishes cleanly with a summary.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.base import MemberState
from kafka.errors import AuthorizationError, InconsistentGroupProtocolError, KafkaError, KafkaTimeoutError

from iot import alerts, cli, rules_file, settings, terminal
from iot.alerts import DEFAULT_RULES, Rules
from iot.kafka.connect import kafka_python_config, quiet_kafka_python, require_broker
from iot.kafka.topics import ensure_topics
from iot.processes import StopSignal
from iot.readings import Rejected, decode_batch
from iot.settings import UserError, reason
from iot.statistics import MAX_TYPES, Tally

GROUP = "iot-consumer"
MAX_POLL_RECORDS = 10_000
POLL_WAIT_MS = 200
COMMIT_EVERY_S = 2.0
LOOK_EVERY_S = 1.0
BROKER_TIMEOUT_MS = 4_000
CLOSE_TIMEOUT_MS = 2_000
# A consumer that was killed holds its partitions for this long.
SESSION_TIMEOUT_MS = 10_000
STUCK_S = 15.0

STATUS_ROWS = 12
# Of each kind; the others are only counted, so that a flood drowns no alert.
MALFORMED_LINES = 10


def process(records: Sequence[Any], rules: Rules, tally: Tally, now_s: float) -> list[str]:
    """Judge Kafka's records and add them to the tally; returns the lines to print, on alerts and malformed messages."""
    lines: list[str] = []
    values: defaultdict[str, list[float]] = defaultdict(list)
    verdicts = decode_batch([record.value for record in records], [record.timestamp for record in records])
    for record, verdict in zip(records, verdicts, strict=True):
        if isinstance(verdict, Rejected):
            if (seen := tally.add_malformed(str(verdict))) <= MALFORMED_LINES:
                where = f"{record.topic} partition {record.partition} offset {record.offset}"
                more = "; more of this kind are only counted" if seen == MALFORMED_LINES else ""
                lines.append(terminal.printable(f"MALFORMED {where}: {verdict}{more}"))
            continue
        values[verdict.sensor_type].append(verdict.value)
        if broken := alerts.broken_bound(verdict, rules):
            alert_id = alerts.alert_id(record.topic, record.partition, record.offset)
            alert = alerts.make_alert(verdict, *broken, alert_id)
            tally.alerts[alert.type] += 1
            lines.append(alerts.line(alert))
    tally.add(len(records), values, now_s)
    return lines


class Group(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Our part in the consumer group: commits before partitions go, and seeks when they come."""

    def __init__(self, consumer: KafkaConsumer, topic: str, from_beginning: bool) -> None:
        self._consumer = consumer
        self._topic = topic
        self._from_beginning = from_beginning
        self._had: set[TopicPartition] = set()
        self._joining_since_s: float | None = None
        self.closing = False
        self.changed = False

    def join(self) -> None:
        """Become a member of the group, or become one anew."""
        self._consumer.unsubscribe()
        self._consumer.subscribe([self._topic], listener=self)
        # Partitions that become known while the group is joined make it join again, and see rejoin_if_stuck.
        self._consumer.partitions_for_topic(self._topic)

    def rejoin_if_stuck(self, now_s: float) -> None:
        """Join anew when joining takes too long.

        kafka-python 3.0.12 forgets that it is joining when it began to because partitions changed and poll() returns
        before that is complete.
        """
        if self._consumer.group_metadata().state is MemberState.STABLE:
            self._joining_since_s = None
        elif self._joining_since_s is None:
            self._joining_since_s = now_s
        elif now_s - self._joining_since_s > STUCK_S:
            self._joining_since_s = None
            self.join()

    # Both run while poll() waits for them, so all that earlier polls gave is processed.
    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked and not self.closing:
            with suppress(KafkaError):
                await self._consumer.commit_async()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        new = assigned - self._had
        if self._from_beginning and new:
            self._consumer.seek_to_beginning(*new)
        self._had |= new
        self.changed = True

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        """Others have these partitions by now: nothing to commit."""

    def settle(self) -> list[str]:
        """Once reading has begun in all partitions that came: commit where, and return a line on which they are.

        A crash before the first message then loses none that comes after this either.
        """
        try:
            partitions = sorted(self._consumer.assignment())
            if any(self._consumer.position(partition, timeout_ms=0) is None for partition in partitions):
                return []
        except KafkaError:
            return []
        self.changed = not commit(self._consumer)
        if self.changed:
            return []
        if not partitions:
            return ["no partition is left for this consumer: others of its group have them all"]
        return [f"assigned partitions {', '.join(str(partition.partition) for partition in partitions)}"]


class Watch:
    """Asks Kafka for the topic's end offsets now and then: that gives the lag, and tells when Kafka is away."""

    def __init__(self, consumer: KafkaConsumer, address: str, topic: str) -> None:
        self._consumer = consumer
        self._address = address
        self._topic = topic
        self._due_s = 0.0
        self.away = False
        self.lag: dict[int, int | None] = {}

    def look(self, now_s: float) -> list[str]:
        """Renew ``lag`` (messages not yet processed, by assigned partition) if it is time to.

        Returns a line when Kafka went away or came back since the last look.
        """
        if now_s < self._due_s:
            return []
        try:
            known = self._consumer.partitions_for_topic(self._topic)
            ends = self._consumer.end_offsets(
                [TopicPartition(self._topic, number) for number in known], timeout_ms=BROKER_TIMEOUT_MS
            )
        except KafkaError as error:
            return self.went_away(error)
        finally:
            self._due_s = time.monotonic() + LOOK_EVERY_S
        self.lag = {}
        for partition in sorted(self._consumer.assignment()):
            position = None
            # It may have been taken from us since.
            with suppress(KafkaError):
                position = self._consumer.position(partition, timeout_ms=0)
            end = ends.get(partition)
            self.lag[partition.partition] = None if position is None or end is None else max(0, end - position)
        if self.away:
            self.away = False
            return [f"Kafka at {self._address} is back"]
        return []

    def went_away(self, error: KafkaError) -> list[str]:
        """The line that says so, once."""
        self.lag = dict.fromkeys(self.lag)
        if self.away:
            return []
        self.away = True
        why = "" if isinstance(error, KafkaTimeoutError) else f" ({reason(error)})"
        return [f"Kafka at {self._address} does not answer{why}; trying until it does"]


def consume(
    consumer: KafkaConsumer,
    group: Group,
    watch: Watch,
    rules: Rules,
    limit: float,
    tally: Tally,
    status: terminal.StatusLine,
    stop: threading.Event,
) -> None:
    """Process messages until ``stop`` is set or ``limit`` of them are processed, and commit them.

    Raises:
        UserError: Kafka does not let this client read.
    """
    committed = 0
    commit_due_s = 0.0
    while not stop.is_set() and tally.run.messages < limit:
        batches: Mapping[TopicPartition, Sequence[Any]] = {}
        try:
            batches = consumer.poll(POLL_WAIT_MS, max_records=int(min(MAX_POLL_RECORDS, limit - tally.run.messages)))
        except (AuthorizationError, InconsistentGroupProtocolError) as error:
            raise UserError(f"Kafka does not let this client read: {reason(error)}") from error
        except KafkaError as error:
            status.print(*watch.went_away(error))
            stop.wait(POLL_WAIT_MS / 1000)
        now_s = time.monotonic()
        for records in batches.values():
            status.print(*process(records, rules, tally, now_s))
        if group.changed:
            status.print(*group.settle())
        if not watch.away:
            with suppress(KafkaError):
                group.rejoin_if_stuck(now_s)
        if committed < tally.run.messages and now_s >= commit_due_s and not watch.away:
            if commit(consumer):
                committed = tally.run.messages
            commit_due_s = now_s + COMMIT_EVERY_S
        status.print(*watch.look(now_s))
        status.update(lambda: status_text(tally, watch, time.monotonic()))
    if committed < tally.run.messages and (watch.away or not commit(consumer)):
        status.print("the last messages could not be committed: the next run of this group repeats them")


def commit(consumer: KafkaConsumer) -> bool:
    """Commit all that was polled; False when it failed, and the messages since the last time may come again."""
    try:
        consumer.commit(timeout_ms=BROKER_TIMEOUT_MS)
    except KafkaError:
        return False
    return True


def status_text(tally: Tally, watch: Watch, now_s: float) -> str:
    """The live status: a line of totals, and the statistics table."""
    per_s, _ = tally.recent(now_s)
    totals = (
        f"{tally.run.messages:,} processed, {per_s:,.0f}/s, {tally.malformed.total():,} malformed, "
        f"{tally.alerts.total():,} alerts, lag {lag_text(watch.lag)}"
    )
    return "\n".join((totals, *tally.table(now_s, STATUS_ROWS)))


def summary_text(tally: Tally, watch: Watch, now_s: float) -> str:
    """The summary at the end."""
    took_s = now_s - tally.start_s
    lines = [f"processed {tally.run.messages:,} messages in {took_s:,.1f} s ({tally.run.messages / took_s:,.0f}/s)"]
    for name, counts in (("malformed", tally.malformed), ("alerts", tally.alerts)):
        lines.append(f"{name}: {counts.total():,}")
        lines += [f"{count:>9,}  {terminal.printable(what)}" for what, count in counts.most_common()]
    lines += tally.table(now_s, MAX_TYPES + 1)
    lines.append(f"lag: {lag_text(watch.lag)}")
    return "\n".join(lines)


def lag_text(lag: Mapping[int, int | None]) -> str:
    """Messages not yet processed, in all and by partition; a question mark where that is not known."""
    if not lag:
        return "? (no partitions assigned)"
    counts = [count for count in lag.values() if count is not None]
    total = f"{sum(counts):,}" if len(counts) == len(lag) else "?"
    by_partition = ", ".join(f"{number}: {'?' if count is None else f'{count:,}'}" for number, count in lag.items())
    return f"{total} ({by_partition})"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--group", type=group_name, default=GROUP, help="the consumer group")
    parser.add_argument(
        "--from-beginning", action="store_true", help="read the topic from its beginning, whatever the group committed"
    )
    parser.add_argument(
        "--max-messages", metavar="N", type=cli.positive_int, help="stop after N messages, malformed ones included"
    )
    parser.add_argument("--rules", metavar="FILE", type=Path, help="a TOML file of rules instead of the usual ones")
    return parser.parse_args(argv)


def group_name(text: str) -> str:
    """argparse type: the name of a consumer group."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a group needs a name")
    return text


def make_consumer(kafka: settings.Kafka, group: str) -> KafkaConsumer:
    """A connected consumer that has not joined its group yet."""
    quiet_kafka_python()
    return KafkaConsumer(
        **kafka_python_config(kafka),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        max_poll_records=MAX_POLL_RECORDS,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        reconnect_backoff_max_ms=1_000,
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=BROKER_TIMEOUT_MS,
    )


def read(kafka: settings.Kafka, rules: Rules, args: argparse.Namespace, stop: threading.Event) -> None:
    """Consume until told to stop, and print the summary."""
    consumer = make_consumer(kafka, args.group)
    group = Group(consumer, args.topic, args.from_beginning)
    watch = Watch(consumer, kafka.bootstrap_servers, args.topic)
    tally = Tally(time.monotonic())
    try:
        group.join()
        with terminal.StatusLine() as status:
            status.print(f"reading {args.topic} at {kafka.bootstrap_servers} as group {args.group}; Ctrl-C stops")
            consume(consumer, group, watch, rules, args.max_messages or math.inf, tally, status, stop)
            ended_s = time.monotonic()
            if not watch.away:
                status.print(*watch.look(math.inf))
        print(summary_text(tally, watch, ended_s), flush=True)
    finally:
        group.closing = True
        with suppress(KafkaError):
            consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)


def run(args: argparse.Namespace, stop: threading.Event) -> None:
    """Check what is asked for, and do it.

    Raises:
        UserError: something that the user can cure.
    """
    kafka = cli.kafka_from(args)
    rules = rules_file.load_rules(args.rules) if args.rules else DEFAULT_RULES
    require_broker(kafka)
    for warning in ensure_topics(kafka, [args.topic]):
        print(f"warning: {warning}", file=sys.stderr)
    try:
        read(kafka, rules, args, stop)
    except KafkaError as error:
        raise UserError(f"cannot read from Kafka at {kafka.bootstrap_servers}: {reason(error)}") from error


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, StopSignal().install().event))


if __name__ == "__main__":
    sys.exit(main())
