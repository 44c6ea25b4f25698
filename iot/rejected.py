"""Count rejected messages by reason, and write them to a file to be corrected and sent again.

``--to FILE`` writes a line of JSON for each message: its fields as they came, and beside them ``rejected`` with the
reason. Correct the lines, then send them with ``iot_producer.py --replay FILE``. ``--to -`` writes the lines to the
standard output, and the counts to the standard error.
"""

from __future__ import annotations

from iot.processes import stop_event, until_stopped

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import base64
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, BinaryIO

from iot import cli
from iot.kafka.connect import require_broker
from iot.kafka.rejected_topic import RejectedMessage, read_rejected
from iot.places import require_writable_file
from iot.readings import Rejected, format_timestamp, parse_timestamp
from iot.settings import UserError, reason
from iot.terminal import printable

# Maximum number of reasons that are listed.
SHOWN_REASONS = 20
STANDARD_OUTPUT = Path("-")
ANOTHER = "choose another file with --to"


def json_line(message: RejectedMessage) -> bytes:
    """Return a message as a line of JSON.

    A message that is a JSON object keeps its fields. Any other is kept as text, or as base64 if it is not UTF-8.
    """
    known: dict[str, Any] = {
        "reason": message.reason,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "at": format_timestamp(message.rejected_ms * 1_000),
    }
    try:
        return _encode(_fields(message.value) | {"rejected": known})
    # Not an object, nested too deeply to be read, or a number or text that JSON cannot hold.
    except (ValueError, RecursionError):
        pass
    try:
        return _encode({"rejected": known | {"text": None if message.value is None else message.value.decode()}})
    except ValueError:
        return _encode({"rejected": known | {"base64": base64.b64encode(message.value or b"").decode()}})


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _fields(value: bytes | None) -> dict[str, Any]:
    fields = json.loads((value or b"").decode(), parse_constant=_refuse)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def reasons_text(counts: Counter[str]) -> list[str]:
    """Return a line for each reason, the most frequent first."""
    shown = counts.most_common(SHOWN_REASONS)
    lines = [f"{count:>9,}  {printable(why)}" for why, count in shown]
    others = counts.total() - sum(count for _, count in shown)
    return [*lines, f"{others:>9,}  for other reasons"] if others else lines


@contextmanager
def new_file(path: Path | None) -> Iterator[BinaryIO | None]:
    """Create the file, if one is wanted. It is removed if the ``with`` block raises an error.

    Raises:
        UserError: it exists or cannot be written.
        OSError: the standard output cannot be written.
    """
    if path is None:
        yield None
        return
    if path == STANDARD_OUTPUT:
        # Not sys.stdout, which Python flushes when it exits: that would wait for a reader that does not read.
        output = open(1, "wb", closefd=False)  # noqa: SIM115  # closing it would wait, too
        yield output
        output.flush()
        return
    try:
        with path.open("xb") as file:
            try:
                yield file
                file.flush()
            except BaseException:
                # Half of the messages would look like all of them.
                path.unlink(missing_ok=True)
                raise
    except FileExistsError as error:
        raise UserError(f"{path} already exists and may hold corrections: {ANOTHER}") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; {ANOTHER}") from error


def run(args: argparse.Namespace, stop: threading.Event) -> None:
    """Count the rejected messages, and write them to ``--to`` if it is given.

    Raises:
        UserError: the file exists or cannot be written, Kafka does not answer, or nothing was ever rejected.
    """
    too_early = "before all messages were read"
    if args.to:
        too_early += ", so not all are written" if args.to == STANDARD_OUTPUT else f", so {args.to} was not written"
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, too_early)
    if args.to and args.to != STANDARD_OUTPUT:
        require_new_file(args.to)
    until_stopped(lambda: require_broker(kafka), stop, too_early)
    counts: Counter[str] = Counter()
    with new_file(args.to) as file:

        def read_all() -> None:
            for message in read_rejected(kafka, args.topic, args.since):
                if args.reason in message.reason:
                    # The position in the message would make each one a reason of its own.
                    counts[message.reason.partition(" (byte ")[0]] += 1
                    if file:
                        file.write(json_line(message))

        until_stopped(read_all, stop, too_early)
    print(f"{counts.total():,} messages of {args.topic} were rejected", *reasons_text(counts), sep="\n")
    if args.to and args.to != STANDARD_OUTPUT:
        print(
            f"written to {args.to}: correct the fields, delete the lines that cannot be corrected, then run\n"
            f"  python iot_producer.py --replay {args.to} --timestamps recorded"
        )


def require_new_file(path: Path) -> None:
    """Check that a file is not there and can be written.

    Raises:
        UserError: it is there, or cannot be written.
    """
    if path.is_fifo() or path.is_char_device():
        raise UserError(f"{path} is no file: choose the name of a new one with --to, or - for the standard output")
    if os.path.lexists(path):
        raise UserError(f"{path} already exists and may hold corrections: {ANOTHER}")
    require_writable_file(path, ANOTHER)


def moment_ms(text: str) -> int:
    """argparse type: a timestamp as in readings, in milliseconds since the epoch."""
    try:
        return parse_timestamp(text) // 1_000
    except Rejected as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.prog = "python -m iot.rejected"
    parser.add_argument(
        "--to",
        metavar="FILE",
        type=cli.output_path,
        help="new file for the messages, as JSON Lines; - is the standard output (default: only count them)",
    )
    parser.add_argument(
        "--reason", metavar="TEXT", default="", help="only messages whose reason contains this text (default: all)"
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=moment_ms,
        default=0,
        help="only messages rejected since then, such as 2026-11-24T02:15:00Z (default: all)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    # Only messages go to the standard output where they are wanted there.
    with redirect_stdout(sys.stderr if args.to == STANDARD_OUTPUT else sys.stdout):
        return cli.exit_status(lambda: run(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
