"""Compare the windows of this project with those of Flink SQL, Bytewax and Quix Streams.

All compute the same: 30 s long, every 10 s, with a watermark of 5 s, by sensor type; count, mean, minimum and maximum.
All read the same topic, in turns, each in a process of its own that has processed a smaller topic before.

rate: how fast a topic that is full already is processed, from the start of the job until its end.
exactness: a topic with one reading of a hundred late by up to a minute, processed twice. The windows that are complete
are compared with those of an independent model of the rule in the README.
latency: how long after its end a window is complete in the output, while readings arrive.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import backlog, harness
from benchmarks.harness import some_kafka
from benchmarks.peers import environments
from iot import cli
from iot.kafka.topics import ensure_topics
from iot.processes import spawn
from iot.settings import Kafka, UserError
from tests.support import oracle

ROOT = Path(__file__).parents[2]
OURS = "this project"
NAMES = {
    OURS: OURS,
    environments.FLINK: "Flink SQL",
    environments.BYTEWAX: "Bytewax",
    environments.QUIX: "Quix Streams",
}
PARTS = ("rate", "exactness", "latency")
# The partitions of a topic that is filled in a second differ by what one request holds. With so many readings to a
# second of event time, that makes none late.
LATE_MESSAGES, LATE_SPAN_S, LATE_RATIO = 500_000, 100, 0.01
RATES_PER_S = (1_000, 20_000)
# How long readings arrive, and how much of it is not measured.
LIVE_S, COLD_S = 75, 30

Window = tuple[int, str]


class Seen(NamedTuple):
    """A window as a processor gave it out."""

    readings: int
    mean: float
    least: float
    most: float
    at_s: float


@contextmanager
def running(name: str, kafka: Kafka, topic: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """The script of a processor, killed at the end."""
    command = [*environments.command(name), "--bootstrap-servers", kafka.bootstrap_servers, "--topic", topic, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with spawn(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that a script prints; other output is passed over."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(b"{"):
            yield json.loads(line)


def seconds(name: str, kafka: Kafka, topic: str, warm_up: str) -> float:
    """How long a processor takes for a topic.

    Raises:
        UserError: it failed.
    """
    with running(name, kafka, topic, "--warm-up", warm_up) as process:
        for line in lines(process):
            if "seconds" in line:
                return float(line["seconds"])
    raise UserError(f"{NAMES[name]} failed: start {' '.join(environments.command(name))} to see why")


def windows_of(name: str, kafka: Kafka, topic: str) -> dict[Window, Seen]:
    """The windows of a topic, each as it was given out last."""
    with running(name, kafka, topic, "--windows") as process:
        return collect(process)


def collect(process: subprocess.Popen[bytes]) -> dict[Window, Seen]:
    """Read windows until the script has processed its topic, or ends."""
    found: dict[Window, Seen] = {}
    for line in lines(process):
        if "seconds" in line:
            break
        if "end_s" in line:
            seen = Seen(line["count"], line["mean"], line["min"], line["max"], line["at_s"])
            found[round(line["end_s"]), line["sensor_type"]] = seen
    return found


def new_topic() -> str:
    return f"benchmark-{time.time_ns()}"


# The parts ------------------------------------------------------------------------------------------------------------


def rate(kafka: Kafka, names: Sequence[str], messages: int, warm_up_messages: int, rounds: int) -> None:
    print(f"writing {messages:,} readings …", flush=True)
    topic, warm_up = new_topic(), new_topic()
    backlog.fill(kafka, topic, messages)
    backlog.fill(kafka, warm_up, warm_up_messages)
    took: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for name in names:
            took[name].append(seconds(name, kafka, topic, warm_up))
            print(f"round {number + 1}: {NAMES[name]:<14}{messages / took[name][-1]:>10,.0f}/s", flush=True)
    print(f"\nreadings a second, median of {rounds}{'of ours':>14}")
    ours_s = statistics.median(took[OURS])
    for name in names:
        took_s = statistics.median(took[name])
        print(f"{NAMES[name]:<16}{messages / took_s:>14,.0f}{ours_s / took_s:>14.2f}")


def exactness(kafka: Kafka, names: Sequence[str]) -> None:
    topic = new_topic()
    backlog.fill(kafka, topic, LATE_MESSAGES, span_s=LATE_SPAN_S, late_ratio=LATE_RATIO)
    records = oracle.read_topic(kafka.bootstrap_servers, topic)
    wanted = oracle.over_all_locations(oracle.expected(records).windows)
    readings = filter(None, map(oracle.reading_of, records))
    newest_s = max(reading["time_us"] for reading in readings) / 1e6
    # A window that is still open is given out by some processors at the end of the topic, and by others never.
    complete = {key: window for key, window in wanted.items() if key[0] <= newest_s - 5 - 10}
    print(f"\n{len(complete)} windows, 1 % late{'equal':>12}{'too much':>12}{'too little':>12}{'again':>12}")
    for name in names:
        first, second = (windows_of(name, kafka, topic) for _ in range(2))
        counts = {key: first[key].readings if key in first else 0 for key in complete}
        differences = [counts[key] - window.count for key, window in complete.items()]
        equal = sum(key in first and is_equal(first[key], window) for key, window in complete.items())
        more, less = sum(d for d in differences if d > 0), -sum(d for d in differences if d < 0)
        same = all(key in second and counts[key] == second[key].readings for key in complete)
        print(f"{NAMES[name]:<21}{equal:>12}{more:>12,}{less:>12,}{'the same' if same else 'other':>12}", flush=True)


def is_equal(seen: Seen, window: oracle.Window) -> bool:
    close = abs(seen.mean - window.avg) < 1e-9 * max(1.0, abs(window.avg))
    return close and (seen.readings, seen.least, seen.most) == (window.count, window.min, window.max)


def latency(kafka: Kafka, names: Sequence[str]) -> None:
    print("\nseconds from the end of a window until it is complete in the output")
    print(f"{'':<16}{'readings/s':>12}{'windows':>10}{'p50':>8}{'max':>8}")
    for rate_per_s in RATES_PER_S:
        for name in names:
            delays = live(name, kafka, rate_per_s)
            figures = f"{statistics.median(delays):>8.2f}{max(delays):>8.2f}" if delays else f"{'none':>16}"
            print(f"{NAMES[name]:<16}{rate_per_s:>12,}{len(delays):>10}{figures}", flush=True)


def live(name: str, kafka: Kafka, rate_per_s: int) -> list[float]:
    """The delays of the windows that end while readings arrive, without the first ones."""
    topic = new_topic()
    ensure_topics(kafka, [topic])
    with running(name, kafka, topic, "--live") as process, ThreadPoolExecutor(1) as pool:
        next(line for line in lines(process) if "ready" in line)
        # A processor that nobody reads would wait.
        collecting = pool.submit(collect, process)
        begun_s = time.time()
        command = [sys.executable, "iot_producer.py", "--bootstrap-servers", kafka.bootstrap_servers, "--topic", topic]
        command += ["--client", "confluent-kafka", "--sensors", "1000", "--rate", str(rate_per_s)]
        subprocess.run([*command, "--duration", str(LIVE_S)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        ended_s = time.time()
        process.send_signal(signal.SIGKILL)
        found = collecting.result()
    return [seen.at_s - end_s for (end_s, _), seen in found.items() if begun_s + COLD_S < end_s < ended_s - 15]


def run(args: argparse.Namespace) -> None:
    names = [OURS, *(name for name in NAMES if name in args.peers)]
    for name in names:
        environments.command(name)
    with some_kafka(args.bootstrap_servers) as kafka:
        if "rate" in args.parts:
            rate(kafka, names, args.messages, args.warm_up, args.rounds)
        if "exactness" in args.parts:
            exactness(kafka, names)
        if "latency" in args.parts:
            latency(kafka, names)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, kafka=True, messages=3_000_000, rounds=3)
    parser.add_argument(
        "--warm-up", type=cli.positive_int, default=1_000_000, metavar="N", help="messages in the smaller topic"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    peers = list(environments.PACKAGES)
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers, help="beside whom (default: all)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
