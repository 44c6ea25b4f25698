"""Measure how fast the application processes a backlog, compared with Spark's plain ``from_json`` of the same topic.

The application runs as users start it: strict validation, windows and totals into the database, alerts into their topic
and the database, and the page. Its time runs from its line "reading …" until its API reports that every message was
processed. It starts cold in each round, with a new checkpoint, whereas the plain query was warmed up. The two take
turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks import backlog, harness
from benchmarks.harness import some_kafka
from iot import cli
from iot.broker.broker import find_free_port
from iot.processes import spawn
from iot.settings import Kafka, UserError
from iot.spark import session as spark_session

ROOT = Path(__file__).parents[1]
# How often to ask the API.
POLL_S = 0.1
# How long to wait until everything is processed.
TIMEOUT_S = 600.0
# How long to wait for a further alert: about three batches.
QUIET_S = 3.0


def metrics(port: int) -> dict[str, Any]:
    """Return the answer of ``/api/metrics``; empty if there is none."""
    with (
        suppress(OSError, ValueError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/metrics", timeout=5) as response,
    ):
        return dict(json.load(response))
    return {}


def process_backlog(
    kafka: Kafka, topic: str, messages: int, master: str, *flags: str, with_alerts: bool = True
) -> tuple[float, float]:
    """Run the application; return the seconds until all messages were processed, and until all alerts were written.

    Without alerts it ends once all messages were processed, and the second is 0.

    Raises:
        UserError: The application ended, or took too long.
    """
    port = find_free_port()
    with tempfile.TemporaryDirectory(prefix="iot-benchmark-") as folder:
        command = [sys.executable, str(ROOT / "iot_streaming_app.py"), "--topic", topic, "--port", str(port)]
        command += ["--bootstrap-servers", kafka.bootstrap_servers, "--master", master]
        command += ["--checkpoint-dir", folder, "--database-url", f"sqlite:///{folder}/results.db"]
        command += ["--starting-offsets", "earliest", *flags]
        environment = os.environ | {"IOT_LOG_DIR": f"{folder}/log"}
        process = spawn(command, env=environment, stdout=subprocess.PIPE)
        try:
            assert process.stdout
            for line in process.stdout:
                if b" reading " in line:
                    break
            return wait_until_processed(process, port, messages, with_alerts)
        finally:
            process.terminate()
            process.wait(60)


def wait_until_processed(
    process: subprocess.Popen[bytes], port: int, messages: int, with_alerts: bool
) -> tuple[float, float]:
    """Poll the API; the same result and errors as ``process_backlog``."""
    started_s = time.perf_counter()
    processed_s, alerts, alerts_s = 0.0, 0, 0.0
    while time.perf_counter() - started_s < TIMEOUT_S:
        found = metrics(port)
        now_s = time.perf_counter() - started_s
        if process.poll() is not None:
            raise UserError(f"the application ended with status {process.returncode}")
        if found.get("total_alerts", 0) > alerts:
            alerts, alerts_s = found["total_alerts"], now_s
        if not processed_s and found.get("total_messages", 0) + found.get("rejected_messages", 0) == messages:
            processed_s = now_s
        if processed_s and not with_alerts:
            return processed_s, 0.0
        # Alerts begin when the backlog has been processed.
        if processed_s and alerts and now_s - max(alerts_s, processed_s) > QUIET_S:
            return processed_s, alerts_s
        time.sleep(POLL_S)
    raise UserError(f"the application has not processed all messages after {TIMEOUT_S:.0f} s")


def run(args: argparse.Namespace) -> None:
    plain, processed, written = [], [], []
    with ExitStack() as stack:
        kafka = stack.enter_context(some_kafka(args.bootstrap_servers))
        topic = f"benchmark-{time.time_ns()}"
        print(f"writing {args.messages:,} readings …", flush=True)
        backlog.fill(kafka, topic, args.messages)
        spark = spark_session.start("benchmark-app", "local[2]")
        stack.callback(spark_session.end, spark)
        backlog.from_json(spark, kafka, topic)
        for number in range(args.rounds):
            started_s = time.perf_counter()
            backlog.from_json(spark, kafka, topic)
            plain.append(time.perf_counter() - started_s)
            processed_s, alerts_s = process_backlog(kafka, topic, args.messages, args.master)
            processed.append(processed_s)
            written.append(max(alerts_s, processed_s))
            print(
                f"round {number + 1}: read + from_json {plain[-1]:.1f} s; the application {processed_s:.1f} s, "
                f"its last alert after {alerts_s:.1f} s",
                flush=True,
            )
    plain_s = statistics.median(plain)
    print(f"\n{args.messages:,} readings{'rows/s':>28}{'of read + from_json':>22}")
    for title, took in (
        ("read + from_json", plain),
        ("the whole application", processed),
        ("and every alert written", written),
    ):
        took_s = statistics.median(took)
        print(f"{title:<26}{args.messages / took_s:>20,.0f}{plain_s / took_s:>22.2f}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, kafka=True, messages=3_000_000, rounds=3)
    parser.add_argument("--master", default=spark_session.MASTER, help="Spark master of the application")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
