"""Rejected messages: into a topic of their own, as they came, with the reason and where from; and out of it again.

``python -m iot.rejected`` counts them by reason. With ``--to FILE`` it writes them to be corrected, a line each: the
fields as they were, and beside them ``rejected`` with the reason. ``iot_producer.py --replay FILE`` sends them again.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from iot import cli
from iot.kafka.connect import require_broker
from iot.readings import format_timestamp, parse_timestamp
from iot.settings import REJECTED_TOPIC, Kafka, UserError, reason
from iot.terminal import printable

POLL_MS = 1_000
# So often an answer may fail to come.
PATIENCE = 10
SHOWN_REASONS = 20


# And out of it again --------------------------------------------------------------------------------------------------


class RejectedMessage(NamedTuple):
    """A rejected message as it came, and what is known of it."""

    value: bytes | None
    reason: str
    topic: str
    partition: int
    offset: int
    rejected_ms: int

    def line(self) -> bytes:
        """A line of JSON: its own fields where it is an object, else itself as text or base64; what is known beside."""
        known: dict[str, Any] = {
            "reason": self.reason,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "at": format_timestamp(self.rejected_ms * 1_000),
        }
        try:
            fields = json.loads((self.value or b"").decode(), parse_constant=_refuse)
            return _json(_object(fields) | {"rejected": known})
        # One that is not JSON, nests too deep to be read, or holds what cannot be written as it is.
        except (ValueError, RecursionError):
            pass
        try:
            return _json({"rejected": known | {"text": None if self.value is None else self.value.decode()}})
        except ValueError:
            return _json({"rejected": known | {"base64": base64.b64encode(self.value or b"").decode()}})


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def read_rejected(kafka: Kafka, source_topic: str, since_ms: int = 0) -> Iterator[RejectedMessage]:
    """What the topic of rejected messages holds now of those of one topic; a repeat is left out.

    Raises:
        UserError: Kafka does not answer, or there is no such topic.
    """
    from kafka.errors import KafkaError

    from iot.kafka.offsets import make_reader, partitions_of

    try:
        consumer = make_reader(kafka)
        try:
            partitions = partitions_of(consumer, REJECTED_TOPIC)
            if not partitions:
                raise UserError(f"there is no topic {REJECTED_TOPIC} yet: the Spark jobs make it, and write to it")
            yield from _distinct(_read(consumer, partitions, since_ms), source_topic)
        finally:
            consumer.close(autocommit=False)
    except KafkaError as error:
        raise UserError(f"cannot read {REJECTED_TOPIC} at {kafka.bootstrap_servers}: {reason(error)}") from error


def _read(consumer: Any, partitions: list[Any], since_ms: int) -> Iterator[Any]:
    """Kafka's records of these partitions from then on, as far as they reach now."""
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    for partition, found in consumer.offsets_for_times(dict.fromkeys(partitions, since_ms)).items():
        consumer.seek(partition, found.offset if found else ends[partition])
    silent = 0
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        records = [record for of in consumer.poll(POLL_MS).values() for record in of]
        yield from records
        silent = 0 if records else silent + 1
        if silent == PATIENCE:
            raise UserError(f"{REJECTED_TOPIC}: Kafka no longer answers; try again")


def _distinct(records: Iterable[Any], source_topic: str) -> Iterator[RejectedMessage]:
    seen: set[tuple[bytes, bytes, int]] = set()
    for record in records:
        headers = dict(record.headers or ())
        if headers.get("source.topic", b"").decode(errors="replace") != source_topic:
            continue
        partition, offset = headers.get("source.partition", b"-1"), headers.get("source.offset", b"-1")
        # A topic that was made anew counts from the beginning.
        place = (partition, offset, hash(record.value))
        if place not in seen:
            seen.add(place)
            why = headers.get("reason", b"").decode(errors="replace")
            yield RejectedMessage(record.value, why, source_topic, int(partition), int(offset), record.timestamp)


def reasons_text(counts: Counter[str]) -> list[str]:
    """A line for each reason, the most frequent first."""
    lines = [f"{count:>9,}  {printable(why)}" for why, count in counts.most_common(SHOWN_REASONS)]
    others = counts.total() - sum(count for _, count in counts.most_common(SHOWN_REASONS))
    return [*lines, f"{others:>9,}  for other reasons"] if others else lines


def moment_ms(text: str) -> int:
    """argparse type: milliseconds since the epoch of a timestamp as in readings."""
    try:
        return parse_timestamp(text) // 1_000
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def fetch(args: argparse.Namespace) -> None:
    """Count rejected messages, and write them if asked to.

    Raises:
        UserError: something that the user can cure.
    """
    kafka = cli.kafka_from(args)
    require_broker(kafka)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        try:
            file = stack.enter_context(args.to.open("xb")) if args.to else None
            for message in read_rejected(kafka, args.topic, args.since):
                if args.reason in message.reason:
                    # The place in the message makes no other reason of it.
                    counts[message.reason.partition(" (byte ")[0]] += 1
                    if file:
                        file.write(message.line())
        except FileExistsError as error:
            raise UserError(f"{args.to} is there already, and may hold corrections: choose another name") from error
        except OSError as error:
            raise UserError(f"cannot write {args.to}: {reason(error)}") from error
    print(f"{counts.total():,} messages of {args.topic} were rejected", *reasons_text(counts), sep="\n")
    if args.to:
        print(
            f"written to {args.to}: correct the fields, delete the lines that cannot be, then\n"
            f"  python iot_producer.py --replay {args.to} --timestamps recorded"
        )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.prog = "python -m iot.rejected"
    parser.add_argument("--to", metavar="FILE", type=Path, help="write them to this new file, as JSON Lines")
    parser.add_argument("--reason", metavar="TEXT", default="", help="only those whose reason holds this text")
    parser.add_argument(
        "--since", metavar="TIME", type=moment_ms, default=0, help="only those rejected since, as 2026-11-24T02:15:00Z"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: fetch(args))


if __name__ == "__main__":
    sys.exit(main())
