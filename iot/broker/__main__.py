"""``python -m iot.broker``: run the embedded Kafka until Ctrl-C.

Its data is there again at the next start. ``topics`` and ``groups`` replace Kafka's shell scripts: they show the topics
and the consumer groups of any Kafka.
"""

from __future__ import annotations

from iot.processes import stop_event, until_stopped

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from iot import cli, settings
from iot.broker.broker import PORT, Broker, kafka_version
from iot.broker.tables import groups_table, topics_table
from iot.kafka.connect import require_broker
from iot.kafka.topics import why
from iot.settings import Kafka, UserError


def run_broker(port: int, data_dir: Path) -> int:
    """Run a broker until a signal asks it to stop."""
    begun_s, stop = time.monotonic(), stop_event()
    broker = Broker(port, data_dir)
    try:
        if not broker.start(stop):
            print("stopped before Kafka was ready")
            return 0
        for warning in broker.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(
            f"Kafka {kafka_version()} is ready on {broker.bootstrap_servers} "
            f"(process {broker.pid}, after {time.monotonic() - begun_s:.1f} s); Ctrl-C stops it\n"
            f"  data  {broker.data_dir}\n  log   {broker.log}",
            flush=True,
        )
        while not stop.wait(0.2):
            broker.require_alive()
    finally:
        broker.stop()
    print(f"Kafka stopped after {time.monotonic() - begun_s:.0f} s; its data stays in {broker.data_dir}")
    return 0


def show(command: str, kafka: Kafka) -> int:
    """Print the topics or the groups of a Kafka.

    Raises:
        UserError: Kafka does not answer.
    """
    from kafka.errors import KafkaError

    stop, too_early = stop_event(), "before anything was shown"
    until_stopped(lambda: require_broker(kafka), stop, too_early)
    make_table = topics_table if command == "topics" else groups_table
    try:
        table = until_stopped(lambda: make_table(kafka), stop, too_early)
    except KafkaError as error:
        raise UserError(f"cannot list the {command} at {kafka.bootstrap_servers}: {why(kafka, error)}") from error
    if not table.row_count:
        print(f"No {command} at {kafka.bootstrap_servers}.")
        return 0
    # A file has no right edge at which to fold.
    Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False).print(table)
    return 0


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m iot.broker",
        description="Run a real single-node Kafka on loopback until Ctrl-C, or show topics and groups of any Kafka.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=cli.port_number, default=PORT, help="port on loopback")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=settings.DATA_DIR / "broker",
        help="folder for Kafka's data, kept between runs",
    )
    commands = parser.add_subparsers(dest="command", metavar="topics | groups")
    shared = cli.parser(None, topic=False)
    for name, about in {"topics": "partitions, offsets and settings", "groups": "members, offsets and lag"}.items():
        commands.add_parser(name, parents=[shared], add_help=False, help=about, description=f"Show {about}.")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.command:
        return cli.exit_status(lambda: show(args.command, cli.kafka_from(args)))
    return cli.exit_status(lambda: run_broker(args.port, args.data_dir))


if __name__ == "__main__":
    sys.exit(main())
