"""Serve the dashboard: the page, the API and the stream of events, read from the results database.

iot_streaming_app.py starts this as a process of its own. It never touches Spark, so it answers within milliseconds
whatever Spark is doing. Alerts and alarms come straight from their topics.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from io import FileIO
from typing import Any

import msgspec

from iot import cli, settings
from iot.alarms.model import Alarm
from iot.kafka.alert_feed import AlertFeed, Feed
from iot.processes import stop_event, until_stopped
from iot.results.store import Store
from iot.settings import ALARMS_TOPIC, Kafka, UserError
from iot.web import services
from iot.web.access import require_token
from iot.web.app import create_app
from iot.web.events import EventStreams
from iot.web.flags import add_arguments
from iot.web.listening import listen
from iot.web.server import Server
from iot.web.snapshots import Snapshots

# How often to check whether a feed has failed.
CHECK_EVERY_S = 1.0
# How long alerts gather before they are pushed: each look into the topic costs as much as many alerts.
GATHER_S = 0.05


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
        streams, snapshots = services.of(app).streams, services.of(app).snapshots
        streams.start()
        stack.callback(streams.close)
        snapshots.start()
        stack.callback(snapshots.close)
        if args.told_by_stdin:
            # Unbuffered: a thread that still waits on a buffered stdin would hold its lock when Python exits.
            lines = FileIO(0, closefd=False)
            threading.Thread(target=take_reports, args=(lines, snapshots), name="stdin", daemon=True).start()
        follow(kafka, args.topic, streams, stop)


def take_reports(lines: Iterable[bytes], snapshots: Snapshots) -> None:
    """Take over from the processing why it cannot write to the database: a line each time, empty once it can again."""
    for line in lines:
        snapshots.write_failure = line.decode().strip() or None


def follow(kafka: Kafka, topic: str, streams: EventStreams, stop: threading.Event) -> None:
    """Push alerts and alarms as they come, until ``stop`` is set; after a failure, connect again.

    Raises:
        UserError: Kafka refuses the connection.
    """
    while not stop.is_set():
        feeds = (
            AlertFeed(kafka, topic, streams.publish_alerts, gather_s=GATHER_S),
            Feed(kafka, ALARMS_TOPIC, change_decoder(topic), streams.publish_alarms),
        )
        for feed in feeds:
            feed.start()
        while not stop.wait(CHECK_EVERY_S) and not any(feed.failure for feed in feeds):
            pass
        for feed in feeds:
            feed.close(timeout_s=0.5)
        for failure in [feed.failure for feed in feeds if feed.failure]:
            if isinstance(failure, UserError):
                raise failure
            print(f"error: events were not pushed: {settings.reason(failure)}; trying again", file=sys.stderr)


def change_decoder(topic: str) -> Callable[[Any], tuple[str, Alarm] | None]:
    """Return what makes, of a record of the topic of alarms, an id of the change and the alarm.

    Alarms about readings of other topics are skipped, and so are those that were forgotten, which have no value.
    """
    is_ours = re.compile(rf"{re.escape(topic)}-[0-9]+-[0-9]+(-silent)?-(info|warning|critical)", re.ASCII).fullmatch
    decode_alarm = msgspec.json.Decoder(Alarm).decode

    def decode(record: Any) -> tuple[str, Alarm] | None:
        try:
            alarm = decode_alarm(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return (f"{record.topic}-{record.partition}-{record.offset}", alarm) if is_ours(alarm.alarm_id) else None

    return decode


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
