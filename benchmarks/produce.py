"""Compare how fast one process sends readings with a bare loop around the same client, for both clients.

Our loop makes real readings and sends them through ``Sender``, which counts every acknowledgement. The bare loop sends
as many messages of the same size, with a constant payload and the same client settings. Both take turns. The result is
the ratio of their medians, because other programs on the machine slow both down alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import in_turns, some_kafka
from iot import cli
from iot.kafka.sender import CLIENTS, DEFAULT_MAX_IN_FLIGHT, Record, Sender, make_sender
from iot.kafka.topics import ensure_topics
from iot.sensors.faults import Injector
from iot.sensors.fleet import Fleet
from iot.sensors.sending import MAX_BATCH
from iot.settings import Kafka, UserError
from iot.terminal import StatusLine

SENSORS = 50
MESSAGES = {"kafka-python": 40_000, "confluent-kafka": 400_000}
GENERATED = 1_000_000
FLUSH_S = 60.0


def readings() -> Callable[[], list[Record]]:
    """A function that returns the next batch of readings, a microsecond apart, as the producer makes them."""
    injector = Injector(Fleet(SENSORS, 1, "benchmark"), 0, 0, "none")
    time_us = time.time_ns() // 1000

    def following() -> list[Record]:
        nonlocal time_us
        time_us += MAX_BATCH
        return injector.batch(np.arange(time_us - MAX_BATCH, time_us)).records

    return following


def generate() -> float:
    """How many readings a second are made and encoded, without sending them."""
    following = readings()
    begun_s = time.perf_counter()
    for _ in range(GENERATED // MAX_BATCH):
        following()
    return GENERATED / (time.perf_counter() - begun_s)


def ours(sender: Sender, messages: int) -> float:
    """How many readings a second are acknowledged, sent through ``Sender``."""
    following, stop = readings(), threading.Event()
    before = sender.acknowledged
    begun_s = time.perf_counter()
    for _ in range(messages // MAX_BATCH):
        sender.send(following(), stop)
    sender.flush(FLUSH_S)
    took_s = time.perf_counter() - begun_s
    if sender.acknowledged - before != messages:
        raise UserError(f"{sender.acknowledged - before:,} of {messages:,} readings were acknowledged")
    return messages / took_s


def bare(client: str, producer: Any, topic: str, messages: int) -> float:
    """How many messages a second a loop around the client itself sends, with the sensors' keys and one payload."""
    records = readings()()
    size = sum(len(record["value"]) for record in records) // len(records)
    constant = [{"key": record["key"], "value": b"x" * size} for record in records]
    begun_s = time.perf_counter()
    for _ in range(messages // MAX_BATCH):
        if client == "kafka-python":
            for record in constant:
                producer.send(topic, record["value"], record["key"])
        else:
            producer.produce_batch(topic, constant)
            while len(producer) > DEFAULT_MAX_IN_FLIGHT:
                producer.poll(0.001)
            producer.poll(0)
    producer.flush(FLUSH_S)
    return messages / (time.perf_counter() - begun_s)


def compare(client: str, kafka: Kafka, rounds: int) -> tuple[float, float]:
    """Messages a second of our loop and of the bare loop."""
    topic, messages = f"benchmark-{uuid.uuid4().hex[:8]}", MESSAGES[client]
    ensure_topics(kafka, [topic])
    # Each loop has its own connection, so that ours never waits for messages of the other.
    sender, other = (make_sender(client, kafka, topic) for _ in range(2))
    try:
        return in_turns(
            lambda: ours(sender, messages),
            lambda: bare(client, other._producer, topic, messages),  # type: ignore[attr-defined]
            rounds,
        )
    finally:
        sender.close()
        other.close()


def run(args: argparse.Namespace) -> None:
    with some_kafka(args.bootstrap_servers) as kafka, StatusLine() as status:
        status.print("measuring how fast readings are made …")
        made_per_s = statistics.median(generate() for _ in range(args.rounds))
        results = []
        for client in CLIENTS:
            status.print(f"measuring {client} …")
            results.append((client, *compare(client, kafka, args.rounds)))
    print(f"\nmade and encoded, not sent: {made_per_s:,.0f} readings/s on one core")
    print(f"{'acknowledged a second':<24}{'ours':>12}{'bare client':>14}{'ratio':>8}")
    for client, ours_per_s, bare_per_s in results:
        print(f"{client:<24}{ours_per_s:>12,.0f}{bare_per_s:>14,.0f}{ours_per_s / bare_per_s:>8.2f}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, kafka=True, rounds=7)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
