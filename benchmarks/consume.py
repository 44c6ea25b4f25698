"""Compare the consumer's reading speed with a bare poll loop of the same client, kafka-python.

"ours" is the consumer's own loop: it validates, checks rules, keeps statistics, measures lag and commits, and its
output is discarded. The bare loop polls the same topic with the same settings and ignores the records. Both run in
turns, each time in a new group that reads from the beginning. The result is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import in_turns, some_kafka
from iot import cli
from iot.alerts import DEFAULT_RULES
from iot.kafka.consumer_group import MAX_POLL_RECORDS, POLL_WAIT_MS, GroupMember, make_consumer
from iot.kafka.lag import LagMonitor
from iot.kafka.sender import make_sender
from iot.kafka.topics import ensure_topics
from iot.sensors.fleet import Fleet
from iot.settings import Kafka, UserError
from iot.statistics import Statistics
from iot.terminal import StatusLine
from iot_consumer import Consumer, consume

SENSORS = 50
MESSAGES = 40_000
# The interval between simulated readings, as at 2,000 a second.
INTERVAL_US = 500
# How long to wait for the acknowledgements.
SEND_TIMEOUT_S = 60.0


def fill(kafka: Kafka, topic: str) -> None:
    """Create the topic and send simulated readings to it."""
    ensure_topics(kafka, [topic])
    moments_us = time.time_ns() // 1000 - np.arange(MESSAGES, 0, -1) * INTERVAL_US
    sender = make_sender("confluent-kafka", kafka, topic)
    sender.send(Fleet(SENSORS, 1, "benchmark").records(moments_us), threading.Event())
    left = sender.flush(SEND_TIMEOUT_S)
    sender.close()
    if left:
        raise UserError(f"{left:,} of {MESSAGES:,} readings were not acknowledged within {SEND_TIMEOUT_S:.0f} s")


class TimedMember:
    """A member of a new group that reads from the beginning, timed from its first records on."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self.consumer = make_consumer(kafka, f"benchmark-{uuid.uuid4().hex[:8]}")
        self.member = GroupMember(self.consumer, topic, from_beginning=True)
        self.lag = LagMonitor(self.consumer, kafka.bootstrap_servers, topic)
        self._poll = self.consumer.poll
        self._begun_s = math.inf
        self._first = 0
        self.consumer.poll = self._poll_until_first
        self.member.join()

    def _poll_until_first(self, *args: Any, **options: Any) -> Any:
        batches = self._poll(*args, **options)
        if batches:
            # Later polls go straight to the client.
            self.consumer.poll = self._poll
            self._begun_s = time.perf_counter()
            self._first = sum(map(len, batches.values()))
        return batches

    def rate(self) -> float:
        """Return messages per second after the first poll with records, and leave the group."""
        took_s = time.perf_counter() - self._begun_s
        self.member.close()
        return (MESSAGES - self._first) / took_s


def ours(kafka: Kafka, topic: str) -> float:
    """Return messages per second of the consumer's loop."""
    timed = TimedMember(kafka, topic)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, StatusLine(nowhere) as status:
        statistics = Statistics(time.monotonic())
        consume(Consumer(timed.member, timed.lag, DEFAULT_RULES, statistics, status), MESSAGES, threading.Event())
    return timed.rate()


def bare(kafka: Kafka, topic: str) -> float:
    """Return messages per second of a loop that only polls."""
    timed = TimedMember(kafka, topic)
    seen = 0
    while seen < MESSAGES:
        seen += sum(map(len, timed.consumer.poll(POLL_WAIT_MS, max_records=MAX_POLL_RECORDS).values()))
    return timed.rate()


def run(args: argparse.Namespace) -> None:
    with some_kafka(args.bootstrap_servers) as kafka:
        topic = f"benchmark-{uuid.uuid4().hex[:8]}"
        fill(kafka, topic)
        print(f"{'read/s':<16}{'ours':>14}{'bare client':>14}{'ratio':>8}", flush=True)
        ours_per_s, bare_per_s = in_turns(lambda: ours(kafka, topic), lambda: bare(kafka, topic), args.rounds)
        print(f"{'kafka-python':<16}{ours_per_s:>14,.0f}{bare_per_s:>14,.0f}{ours_per_s / bare_per_s:>8.2f}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return harness.parser(__doc__, kafka=True, rounds=7).parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
