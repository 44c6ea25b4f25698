"""What the benchmarks share: a Kafka of their own, and two loops that take turns."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iot import cli
from iot.broker.broker import Broker, find_free_port
from iot.kafka.connect import require_broker
from iot.settings import Kafka


def parser(doc: str | None, *, kafka: bool = False, messages: int = 0, rounds: int = 0) -> argparse.ArgumentParser:
    """Flags that benchmarks share: the Kafka to use, how many messages are in the topic, how often to measure."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0], formatter_class=cli.HelpFormatter)
    if kafka:
        made.add_argument(
            "--bootstrap-servers",
            type=cli.addresses,
            metavar="HOST:PORT",
            help="a Kafka that runs; one is started unless told",
        )
    if messages:
        made.add_argument("--messages", type=cli.positive_int, default=messages, metavar="N", help="in the topic")
    if rounds:
        made.add_argument("--rounds", type=cli.positive_int, default=rounds, metavar="N", help="how often to measure")
    return made


@contextmanager
def some_kafka(servers: str | None) -> Iterator[Kafka]:
    """The Kafka at these servers, or one that is started on a free port and gone afterwards.

    Raises:
        UserError: no broker answers, or none can be started.
    """
    if servers:
        require_broker(Kafka(servers))
        yield Kafka(servers)
        return
    print("starting a broker …", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="iot-benchmark-") as folder,
        Broker(find_free_port(), Path(folder)) as broker,
    ):
        yield broker.kafka


def in_turns(ours: Callable[[], float], bare: Callable[[], float], rounds: int) -> tuple[float, float]:
    """The medians of both rates, measured in turns after each has run once to warm up."""
    rates = [(bare(), ours()) for _ in range(rounds + 1)][1:]
    bare_per_s, ours_per_s = map(statistics.median, zip(*rates, strict=True))
    return ours_per_s, bare_per_s
