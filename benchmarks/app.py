"""How fast the whole application works off a backlog, beside Spark's bare read and ``from_json`` of the same topic.

The application is a process of its own, as it is started in earnest: strict validation, windows, totals and latest
readings into the database, alerts to their topic and into the database, the page. Its time counts from when it says
that it reads to when its API tells that all is processed; each time it starts afresh, and so has its first batch to
warm up in, while the bare query has had a round for that. The two take turns.
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

from iot import cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import backlog, harness
from benchmarks.harness import some_kafka
from iot.broker.broker import find_free_port
from iot.processes import spawn
from iot.settings import Kafka, UserError
from iot.spark import session as spark_session

ROOT = Path(__file__).parents[1]
LOOK_EVERY_S = 0.1
LONGEST_S = 600.0


def metrics(port: int) -> dict[str, Any]:
    """What the API tells, nothing where it does not answer."""
    with (
        suppress(OSError, ValueError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/metrics", timeout=5) as told,
    ):
        return dict(json.load(told))
    return {}


def work_off(kafka: Kafka, topic: str, messages: int, master: str) -> tuple[float, float]:
    """Seconds until all messages are processed, and until all alerts about them are kept.

    Raises:
        UserError: the application ended, or took too long.
    """
    port = find_free_port()
    with tempfile.TemporaryDirectory(prefix="iot-benchmark-") as folder:
        command = [sys.executable, str(ROOT / "iot_streaming_app.py"), "--topic", topic, "--port", str(port)]
        command += ["--bootstrap-servers", kafka.bootstrap_servers, "--master", master]
        command += ["--checkpoint-dir", folder, "--database-url", f"sqlite:///{folder}/results.db"]
        command += ["--starting-offsets", "earliest"]
        environment = os.environ | {"IOT_LOG_DIR": f"{folder}/log"}
        process = spawn(command, env=environment, stdout=subprocess.PIPE)
        try:
            assert process.stdout
            for line in process.stdout:
                if b" reading " in line:
                    break
            begun_s = time.perf_counter()
            processed_s, alerts, alerts_s = 0.0, 0, 0.0
            while time.perf_counter() - begun_s < LONGEST_S:
                told = metrics(port)
                now_s = time.perf_counter() - begun_s
                if process.poll() is not None:
                    raise UserError(f"the application ended with status {process.returncode}")
                if told.get("total_alerts", 0) > alerts:
                    alerts, alerts_s = told["total_alerts"], now_s
                if not processed_s and told.get("total_messages", 0) + told.get("rejected_messages", 0) == messages:
                    processed_s = now_s
                # No further alert for as long as three batches take.
                if processed_s and now_s - max(alerts_s, processed_s) > 3:
                    return processed_s, alerts_s
                time.sleep(LOOK_EVERY_S)
            raise UserError(f"after {LONGEST_S:.0f} s the application had not processed all")
        finally:
            process.terminate()
            process.wait(60)


def run(args: argparse.Namespace) -> None:
    bare, processed, kept = [], [], []
    with ExitStack() as stack:
        kafka = stack.enter_context(some_kafka(args.bootstrap_servers))
        topic = f"benchmark-{time.time_ns()}"
        print(f"writing {args.messages:,} readings …", flush=True)
        backlog.fill(kafka, topic, args.messages)
        spark = spark_session.start("benchmark-app", "local[2]")
        stack.callback(spark_session.end, spark)
        backlog.from_json(spark, kafka, topic)
        for number in range(args.rounds):
            begun_s = time.perf_counter()
            backlog.from_json(spark, kafka, topic)
            bare.append(time.perf_counter() - begun_s)
            processed_s, alerts_s = work_off(kafka, topic, args.messages, args.master)
            processed.append(processed_s)
            kept.append(max(alerts_s, processed_s))
            print(
                f"round {number + 1}: read + from_json {bare[-1]:.1f} s; the application {processed_s:.1f} s, "
                f"its last alert after {alerts_s:.1f} s",
                flush=True,
            )
    limit_s = statistics.median(bare)
    print(f"\n{args.messages:,} readings{'rows/s':>28}{'of read + from_json':>22}")
    for title, took in (
        ("read + from_json", bare),
        ("the whole application", processed),
        ("and every alert kept", kept),
    ):
        took_s = statistics.median(took)
        print(f"{title:<26}{args.messages / took_s:>20,.0f}{limit_s / took_s:>22.2f}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, kafka=True, messages=3_000_000, rounds=3)
    parser.add_argument("--master", default=spark_session.MASTER, help="the application's Spark master")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
