"""``python -m iot.broker``: run the embedded Kafka until Ctrl-C.

With ``--nodes 3`` it is a cluster. Its data is there again at the next start. ``topics`` and ``groups`` replace Kafka's
shell scripts: they show the topics and the consumer groups of any Kafka.
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

from iot import cli
from iot.broker.broker import PORT, Broker, kafka_version
from iot.broker.cluster import Cluster, data_dir_of, number_of_nodes
from iot.broker.embedded import Embedded
from iot.broker.tables import groups_table, topics_table
from iot.kafka.connect import require_broker
from iot.kafka.topics import why
from iot.settings import READINGS_TOPIC, Kafka, UserError


def make_kafka(args: argparse.Namespace) -> Embedded:
    """Return the broker or the cluster that the flags ask for."""
    data_dir = args.data_dir or data_dir_of(args.nodes)
    kafka = Broker(args.port, data_dir) if args.nodes == 1 else Cluster(args.nodes, args.port, data_dir)
    kafka.partitions = {READINGS_TOPIC: args.partitions}
    kafka.replication_factor = args.replication_factor
    return kafka


def run_broker(kafka: Embedded) -> int:
    """Run Kafka until a signal asks it to stop.

    Raises:
        UserError: Kafka cannot be started, or the only node has ended.
    """
    begun_s, stop = time.monotonic(), stop_event()
    try:
        if not kafka.start(stop):
            print("stopped before Kafka was ready")
            return 0
        for warning in kafka.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print("\n".join(ready_lines(kafka, time.monotonic() - begun_s)), flush=True)
        while not stop.wait(0.2):
            for line in kafka.watch(time.monotonic()):
                print(line, flush=True)
    finally:
        kafka.stop()
    print(f"Kafka stopped after {time.monotonic() - begun_s:.0f} s; its data stays in {kafka.data_dir}")
    return 0


def ready_lines(kafka: Embedded, took_s: float) -> list[str]:
    """Return what to print once Kafka is ready: where it is, its processes, its data and its logs."""
    first = kafka.nodes[0]
    if len(kafka.nodes) == 1:
        return [
            f"Kafka {kafka_version()} is ready on {kafka.bootstrap_servers} "
            f"(process {first.pid}, after {took_s:.1f} s); Ctrl-C stops it",
            f"  data  {kafka.data_dir}",
            f"  log   {first.log}",
        ]
    return [
        f"Kafka {kafka_version()} is ready with {len(kafka.nodes)} nodes (after {took_s:.1f} s); Ctrl-C stops them",
        f"  --bootstrap-servers {kafka.bootstrap_servers}",
        *(f"  node {node.number}  {node.address}  process {node.pid}  log {node.log}" for node in kafka.nodes),
        f"  data    {kafka.data_dir}",
    ]


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
        description="Run a real Kafka on loopback until Ctrl-C, or show topics and groups of any Kafka.",
        formatter_class=cli.HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=cli.port_number, default=PORT, help="port on loopback, of the first node")
    parser.add_argument(
        "--nodes",
        metavar="N",
        type=number_of_nodes,
        default=1,
        help="number of nodes; three keep three copies of everything, and one may die",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=f"folder for Kafka's data, kept between runs (default: {data_dir_of(1)}, with N nodes "
        f"{data_dir_of(1).name}-N-nodes beside it)",
    )
    cli.add_topic_arguments(parser)
    commands = parser.add_subparsers(dest="command", metavar="topics | groups")
    shared = cli.parser(None, topic=False)
    for name, about in {"topics": "partitions, offsets and settings", "groups": "members, offsets and lag"}.items():
        commands.add_parser(name, parents=[shared], add_help=False, help=about, description=f"Show {about}.")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.command:
        return cli.exit_status(lambda: show(args.command, cli.kafka_from(args)))
    return cli.exit_status(lambda: run_broker(make_kafka(args)))


if __name__ == "__main__":
    sys.exit(main())
