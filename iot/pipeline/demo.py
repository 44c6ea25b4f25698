"""What ``--demo`` adds to the dashboard: a broker, if nothing answers at its address, and simulated sensors."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iot import settings
from iot.addresses import parse_addresses
from iot.broker.broker import Broker
from iot.kafka.connect import NothingListens, require_broker
from iot.logs import open_log
from iot.processes import Stopped, end, spawn, until_stopped
from iot.properties_file import handed_on
from iot.settings import Kafka

SENSORS = 50
PRODUCER = Path(__file__).parents[2] / "iot_producer.py"


@contextmanager
def demo_broker(
    args: argparse.Namespace, kafka: Kafka, say: Callable[[str], None], stop: threading.Event
) -> Iterator[None]:
    """The embedded broker, if nothing listens at the address; it ends with this block.

    Args:
        args: with the flags that all scripts share.

    Raises:
        UserError: what listens there does not answer or refuses this client, or the broker does not start.
    """
    try:
        until_stopped(lambda: require_broker(kafka, timeout_s=2), stop, "before anything was processed")
        say(f"broker   found at {kafka.bootstrap_servers}")
        yield
        return
    except NothingListens:
        first = parse_addresses(kafka.bootstrap_servers)[0]
        if not first.is_this_machine:
            raise
    broker = Broker(first.port)
    broker.partitions, broker.replication_factor = {args.topic: args.partitions}, args.replication_factor
    try:
        if not broker.start(stop):
            raise Stopped("stopped before Kafka was ready")
        say(f"broker   {broker.bootstrap_servers}, data and log in {broker.data_dir}")
        yield
    finally:
        broker.stop()


@contextmanager
def demo_sensors(args: argparse.Namespace, kafka: Kafka, say: Callable[[str], None]) -> Iterator[None]:
    """Simulated sensors, one reading a second each; they end with this block.

    Args:
        args: with the flags that all scripts share.
        kafka: as the flags say. What they name may be readable only once.

    Raises:
        UserError: their log cannot be written.
    """
    # Another demo may run and write its own.
    log, output = open_log(settings.LOG_DIR / "demo-producer.log")
    command = [sys.executable, str(PRODUCER), "--sensors", str(SENSORS), "--topic", args.topic]
    # This client needs less CPU at such a rate, and everything else starts at the same time.
    command += ["--bootstrap-servers", args.bootstrap_servers, "--client", "confluent-kafka"]
    with output, handed_on(kafka.properties) as (flags, descriptors):
        process = spawn(
            [*command, *flags], stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=descriptors
        )
    say(f"sensors  {SENSORS} simulated, process {process.pid}, log {log}")
    try:
        yield
    finally:
        end(process, signal.SIGINT)
