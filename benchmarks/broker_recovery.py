"""Measure how long windows stand still after a broker of a Kafka cluster was killed.

Three nodes keep three copies of each partition. The application reads 1,000 readings a second, and one node after the
other is killed with SIGKILL and started again. Windows move again once the API has counted readings that were sent
after the kill.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import harness
from benchmarks.app import ROOT, metrics
from iot import cli
from iot.broker.broker import find_free_port
from iot.broker.cluster import Cluster
from iot.kafka.offsets import end_offsets
from iot.processes import spawn
from iot.settings import READINGS_TOPIC, UserError

RATE_PER_S = 1_000
# How long everything runs undisturbed before a kill.
CALM_S = 10.0
# How often to ask the API.
POLL_S = 0.1
# How long to wait for anything.
TIMEOUT_S = 180.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true.

    Raises:
        UserError: it is not within ``TIMEOUT_S``.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise UserError(f"no {what} within {TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)


def counted(port: int) -> int:
    """How many readings the API has counted; 0 if it does not answer."""
    return int(metrics(port).get("total_messages") or 0)


def kill(cluster: Cluster, port: int, node: int) -> float:
    """Kill a node; return the seconds until a second of readings that were sent afterwards is counted."""
    sent = sum(end_offsets(cluster.kafka, READINGS_TOPIC).values())
    os.kill(cluster.nodes[node].pid, signal.SIGKILL)
    killed_s = time.monotonic()
    wait_until(lambda: counted(port) >= sent + RATE_PER_S, "reading that was sent after the kill in the API")
    return time.monotonic() - killed_s


def run(args: argparse.Namespace) -> None:
    """Kill nodes in turn, and print how long each recovery took."""
    chance = random.Random(args.seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iot-benchmark-")))
        cluster = stack.enter_context(Cluster(3, find_free_port(), folder / "kafka"))
        port = find_free_port()
        servers = ["--bootstrap-servers", cluster.bootstrap_servers]
        app = [sys.executable, str(ROOT / "iot_streaming_app.py"), *servers, "--port", str(port)]
        app += ["--checkpoint-dir", str(folder / "state"), "--database-url", f"sqlite:///{folder / 'results.db'}"]
        producer = [sys.executable, str(ROOT / "iot_producer.py"), *servers, "--rate", str(RATE_PER_S)]
        for command in (app, [*producer, "--sensors", "60", "--client", "confluent-kafka"]):
            process = spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.kill)
        took: list[float] = []
        for number in range(args.rounds):
            wait_until(lambda: lag(port) < 3 * RATE_PER_S, "application that has caught up")
            time.sleep(CALM_S)
            took.append(kill(cluster, port, chance.randrange(3)))
            print(f"kill {number + 1}: windows moved again after {took[-1]:.1f} s", flush=True)
            wait_until(lambda: any(" is back" in line for line in cluster.watch(time.monotonic())), "restarted node")
    print(f"p50 {statistics.median(took):.1f} s, maximum {max(took):.1f} s")


def lag(port: int) -> int:
    """How many readings wait in Kafka; many if the API does not say."""
    return int((metrics(port).get("lag") or {}).get("total") or 0) if counted(port) else 10**9


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, rounds=10)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="random seed of which node is killed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
