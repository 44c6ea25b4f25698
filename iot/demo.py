"""Broker, sensors and consumer in one terminal: what ``make demo`` runs.

A Kafka that answers is used, otherwise the embedded one is started. The consumer has the terminal; what the producer
says goes to a log file.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from iot import settings
from iot.broker import TOPICS, Broker, ensure_topics
from iot.java import class_path
from iot.lifecycle import StopSignal, spawn
from iot.settings import Kafka, UserError

ROOT = Path(__file__).parents[1]
SENSORS = 50
LOOK_S = 0.2
LOOPBACK = ("localhost", "127.0.0.1")


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def start_broker(kafka: Kafka, stack: ExitStack, stop: threading.Event) -> Broker | None:
    """The embedded broker, which ``stack`` stops; None where one answers already."""
    host, _, port = kafka.bootstrap_servers.split(",")[0].rpartition(":")
    if host not in LOOPBACK or answers(host, int(port)):
        return None
    print("starting Kafka …", flush=True)
    broker = Broker(int(port))
    stack.callback(broker.stop)
    broker.start(stop)
    return broker


def script(name: str, kafka: Kafka, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / name), "--bootstrap-servers", kafka.bootstrap_servers, *flags]


def run(kafka: Kafka, stop: threading.Event) -> int:
    """Run all until ``stop`` is set; the consumer's exit status.

    Raises:
        UserError: the broker cannot be started, or ended by itself.
    """
    log = settings.LOG_DIR / "producer.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        broker = start_broker(kafka, stack, stop)
        if stop.is_set():
            return 0
        for warning in ensure_topics(kafka, TOPICS):
            print(f"warning: {warning}", file=sys.stderr)
        print(f"{SENSORS} sensors send to {kafka.bootstrap_servers}; what the producer says is in {log}", flush=True)
        with log.open("w") as out:
            producer = spawn(script("iot_producer.py", kafka, "--sensors", str(SENSORS)), stdout=out, stderr=out)
        consumer = spawn(script("iot_consumer.py", kafka))
        children: list[subprocess.Popen[bytes]] = [producer, consumer]
        while not stop.wait(LOOK_S) and all(child.poll() is None for child in children):
            if broker:
                broker.require_alive()
        for child in children:
            child.send_signal(signal.SIGTERM)
            child.wait()
    if producer.returncode:
        raise UserError(f"the producer ended with status {producer.returncode}; {log} says why")
    return consumer.returncode


def main(argv: Sequence[str] | None = None) -> int:
    parser = settings.parser(__doc__, topic=False)
    args = parser.parse_args(argv)
    try:
        # Fetched before signals are taken over: Ctrl-C ends that at once.
        class_path("kafka")
        return run(settings.kafka_from(args), StopSignal().install().event)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
