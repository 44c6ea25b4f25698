"""How fast the consumer reads with kafka-python, beside a bare poll loop of the same client.

Ours is the consumer's own loop: verdicts, alerts, statistics, lag and commits, its lines written to nowhere. The bare
loop polls the same topic with the same settings and looks at nothing. Both take turns, each as a group of its own that
reads from the beginning; what counts is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iot import cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import harness
from benchmarks.harness import in_turns, some_kafka
from iot.alerts import DEFAULT_RULES
from iot.kafka.sender import make_sender
from iot.kafka.topics import ensure_topics
from iot.sensors.fleet import Fleet
from iot.settings import Kafka, UserError
from iot.statistics import Tally
from iot.terminal import StatusLine
from iot_consumer import MAX_POLL_RECORDS, POLL_WAIT_MS, Group, Watch, consume, make_consumer

SENSORS = 50
MESSAGES = 40_000
APART_US = 500
SEND_S = 60.0


def fill(kafka: Kafka, topic: str) -> None:
    """Send the simulator's readings."""
    ensure_topics(kafka, [topic])
    moments_us = time.time_ns() // 1000 - np.arange(MESSAGES, 0, -1) * APART_US
    sender = make_sender("confluent-kafka", kafka, topic)
    sender.send(Fleet(SENSORS, 1, "benchmark").records(moments_us), threading.Event())
    left = sender.flush(SEND_S)
    sender.close()
    if left:
        raise UserError(f"{left:,} of {MESSAGES:,} readings were not acknowledged within {SEND_S:.0f} s")


class Member:
    """A consumer in a group of its own that reads from the beginning, and when it got its first records."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self.consumer = make_consumer(kafka, f"benchmark-{uuid.uuid4().hex[:8]}")
        self.group = Group(self.consumer, topic, from_beginning=True)
        self.watch = Watch(self.consumer, kafka.bootstrap_servers, topic)
        self._poll = self.consumer.poll
        self._begun_s = math.inf
        self._first = 0
        self.consumer.poll = self._poll_and_note

    def _poll_and_note(self, *args: Any, **options: Any) -> Any:
        batches = self._poll(*args, **options)
        if batches:
            # From here on, poll is the client's own.
            self.consumer.poll = self._poll
            self._begun_s = time.perf_counter()
            self._first = sum(map(len, batches.values()))
        return batches

    def rate(self) -> float:
        """Messages a second after the first poll that gave any; closes the consumer."""
        took_s = time.perf_counter() - self._begun_s
        self.group.closing = True
        self.consumer.close(autocommit=False)
        return (MESSAGES - self._first) / took_s


def ours(kafka: Kafka, topic: str) -> float:
    """Messages a second of the consumer's loop."""
    member = Member(kafka, topic)
    member.group.join()
    with open("/dev/null", "w", encoding="utf-8") as nowhere, StatusLine(nowhere) as status:
        tally = Tally(time.monotonic())
        consume(member.consumer, member.group, member.watch, DEFAULT_RULES, MESSAGES, tally, status, threading.Event())
    return member.rate()


def bare(kafka: Kafka, topic: str) -> float:
    """Messages a second of a loop that only polls."""
    member = Member(kafka, topic)
    member.group.join()
    seen = 0
    while seen < MESSAGES:
        seen += sum(map(len, member.consumer.poll(POLL_WAIT_MS, max_records=MAX_POLL_RECORDS).values()))
    return member.rate()


def run(args: argparse.Namespace) -> None:
    with some_kafka(args.bootstrap_servers) as kafka:
        topic = f"benchmark-{uuid.uuid4().hex[:8]}"
        fill(kafka, topic)
        print(f"{'read/s':<16}{'ours':>14}{'bare client':>14}{'ratio':>8}", flush=True)
        ours_per_s, bare_per_s = in_turns(lambda: ours(kafka, topic), lambda: bare(kafka, topic), args.rounds)
        print(f"{'kafka-python':<16}{ours_per_s:>14,.0f}{bare_per_s:>14,.0f}{ours_per_s / bare_per_s:>8.2f}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, kafka=True, rounds=7)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
