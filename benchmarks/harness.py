"""Tools for benchmarks: flags, a Kafka to measure on, and two loops that run in turns."""

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
    """Return an argument parser with the flags that benchmarks share.

    Args:
        doc: a module docstring. ``--help`` opens with its first paragraph.
        kafka: whether to add ``--bootstrap-servers``, for ``some_kafka``.
        messages: the default of ``--messages``, 0 to leave the flag out.
        rounds: the default of ``--rounds``, 0 to leave the flag out.
    """
    description = (doc or "").split("\n\n")[0].replace("\n", " ")
    made = argparse.ArgumentParser(description=description, formatter_class=cli.HelpFormatter)
    if kafka:
        made.add_argument(
            "--bootstrap-servers",
            type=cli.addresses,
            metavar="HOST:PORT",
            help="a running Kafka (default: start a broker for the benchmark)",
        )
    if messages:
        made.add_argument(
            "--messages", type=cli.positive_int, default=messages, metavar="N", help="messages in the topic"
        )
    if rounds:
        made.add_argument("--rounds", type=cli.positive_int, default=rounds, metavar="N", help="how often to measure")
    return made


@contextmanager
def some_kafka(servers: str | None) -> Iterator[Kafka]:
    """Yield the Kafka at ``servers``, or a broker on a free port that is stopped and deleted at the end.

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
    """Run both loops in turns, and return the median rate of ours and of the bare one. The first turn warms up."""
    rates = [(bare(), ours()) for _ in range(rounds + 1)][1:]
    bare_per_s, ours_per_s = map(statistics.median, zip(*rates, strict=True))
    return ours_per_s, bare_per_s
