"""The windows by Bytewax, in one process with one worker.

``ordered=False``, because none of these aggregates needs the readings in order of time; JSON by ``orjson``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as windowing
import orjson
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main

from benchmarks.peers.output import SLIDE_S, WATERMARK_S, WINDOW_S, parse_args, say, say_window

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Parsed = tuple[str, tuple[datetime, float]]


@dataclass
class Sum:
    """The readings of a window so far."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")


def parse(message: Any) -> list[Parsed]:
    """Return the reading of a message; nothing for a malformed one."""
    try:
        reading = orjson.loads(message.value)
        at = datetime.fromisoformat(reading["timestamp"])
        return [(reading["sensor_type"], (at, reading["value"]))]
    except (ValueError, KeyError):
        return []


def add(of: Sum, item: tuple[datetime, float]) -> Sum:
    value = item[1]
    of.count += 1
    of.total += value
    of.least = min(of.least, value)
    of.most = max(of.most, value)
    return of


def merge(of: Sum, other: Sum) -> Sum:
    least, most = min(of.least, other.least), max(of.most, other.most)
    return Sum(of.count + other.count, of.total + other.total, least, most)


def flow(servers: str, topic: str, live: bool, loud: bool) -> Dataflow:
    """The whole dataflow; with ``loud`` it prints the windows."""
    made = Dataflow("windows")
    messages = op.input("messages", made, KafkaSource([servers], [topic], tail=live))
    readings = op.flat_map("readings", messages, parse)
    clock: Any = windowing.EventClock(lambda item: item[0], wait_for_system_duration=timedelta(seconds=WATERMARK_S))
    windower = windowing.SlidingWindower(timedelta(seconds=WINDOW_S), timedelta(seconds=SLIDE_S), EPOCH)
    windows = windowing.fold_window("windows", readings, clock, windower, Sum, add, merge, ordered=False)

    def give_out(item: tuple[str, tuple[int, Sum]]) -> tuple[str, tuple[int, Sum]]:
        sensor_type, (number, of) = item
        if loud:
            say_window(number * SLIDE_S + WINDOW_S, sensor_type, of.count, of.total / of.count, of.least, of.most)
        return item

    op.output("out", op.map("given out", windows.down, give_out), TestingSink([]))
    return made


def main() -> None:
    args = parse_args(__doc__)
    if args.warm_up:
        run_main(flow(args.bootstrap_servers, args.warm_up, live=False, loud=False))
    say(ready=True)
    begun_s = time.perf_counter()
    run_main(flow(args.bootstrap_servers, args.topic, args.live, args.windows or args.live))
    say(seconds=time.perf_counter() - begun_s)


if __name__ == "__main__":
    main()
