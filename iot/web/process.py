"""Serve the dashboard: the page, the API and the stream of events, read from the results database.

iot_streaming_app.py starts this as a process of its own. It never touches Spark, so it answers within milliseconds
whatever Spark is doing. Alerts come straight from their topic.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from io import FileIO

from iot import cli, settings
from iot.kafka.alert_feed import AlertFeed
from iot.processes import stop_event, until_stopped
from iot.results.store import Store
from iot.settings import Kafka, UserError
from iot.web.access import require_token
from iot.web.app import create_app, services
from iot.web.events import EventStreams
from iot.web.flags import add_arguments
from iot.web.listening import listen
from iot.web.server import Server
from iot.web.snapshots import Snapshots

# How often to check whether the alert feed has failed.
CHECK_EVERY_S = 1.0


def serve(args: argparse.Namespace, stop: threading.Event) -> None:
    """Serve until ``stop`` is set.

    Raises:
        UserError: the server cannot start, or Kafka refuses the connection.
    """
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, "before the page was served")
    with ExitStack() as stack:
        listening = socket.socket(fileno=args.listening_fd) if args.listening_fd else listen(args.host, args.port)
        stack.callback(listening.close)
        require_token(args.host, args.token, args.insecure)
        store = Store(args.database_url)
        stack.callback(store.close)
        shared = {"TOKEN": args.token, "HOST": args.host, "PORT": args.port, "INSTANCE": args.instance}
        app = create_app({"STORE": store} | shared)
        server = Server(listening, app)
        server.start()
        stack.callback(server.stop)
        streams, snapshots = services(app).streams, services(app).snapshots
        streams.start()
        stack.callback(streams.close)
        snapshots.start()
        stack.callback(snapshots.close)
        if args.told_by_stdin:
            # Unbuffered: a thread that still waits on a buffered stdin would hold its lock when Python exits.
            lines = FileIO(0, closefd=False)
            threading.Thread(target=take_reports, args=(lines, snapshots), name="stdin", daemon=True).start()
        follow_alerts(kafka, args.topic, streams, stop)


def take_reports(lines: Iterable[bytes], snapshots: Snapshots) -> None:
    """Take over from the processing why it cannot write to the database: a line each time, empty once it can again."""
    for line in lines:
        snapshots.write_failure = line.decode().strip() or None


def follow_alerts(kafka: Kafka, topic: str, streams: EventStreams, stop: threading.Event) -> None:
    """Push alerts as they are raised, until ``stop`` is set; after a failure, connect again.

    Raises:
        UserError: Kafka refuses the connection.
    """
    while not stop.is_set():
        feed = AlertFeed(kafka, topic, streams.publish_alerts)
        feed.start()
        while not stop.wait(CHECK_EVERY_S) and not feed.failure:
            pass
        feed.close(timeout_s=0.5)
        if isinstance(feed.failure, UserError):
            raise feed.failure
        if feed.failure:
            print(f"error: alerts were not pushed: {settings.reason(feed.failure)}; trying again", file=sys.stderr)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.prog = "python -m iot.web"
    add_arguments(parser)
    parser.add_argument("--told-by-stdin", action="store_true", help=argparse.SUPPRESS)
    # The socket that iot_streaming_app.py listens on, and the id by which it recognises this process.
    parser.add_argument("--listening-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--instance", default="", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: serve(args, stop_event()))
