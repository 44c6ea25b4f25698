"""Monitor IoT sensors live: Spark computes windows and alerts over the topic of readings, and a page at
http://localhost:5000 shows them.

With --demo everything that is missing is brought along: a Kafka broker, simulated sensors. Results are kept in a
database, progress in checkpoints: a restart goes on exactly where it was. Ctrl-C stops everything cleanly.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from iot import cli, rules_file, settings
from iot.alerts import DEFAULT_RULES
from iot.batches import Identity
from iot.broker.broker import Broker
from iot.kafka.connect import NothingListens, require_broker
from iot.kafka.offsets import start_offsets
from iot.kafka.topics import ensure_topics, topic_id
from iot.pipeline import pipeline, resume
from iot.processes import StopSignal, spawn
from iot.results.store import Store
from iot.settings import ALERTS_TOPIC, REJECTED_TOPIC, Kafka, UserError
from iot.spark import checkpoints
from iot.spark import session as spark_session
from iot.web import access, flags

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NAME = "iot_streaming_app"
DEMO_SENSORS = 50
PAGE_START_S = 30.0
LOOK_EVERY_S = 0.5
UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
ROOT = Path(__file__).parent


class Log:
    """The start-up log: what is where, and how long after the start."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun_s:6.1f} s  {text}", flush=True)


@contextmanager
def demo_broker(kafka: Kafka, say: Log, stop: threading.Event) -> Iterator[Broker | None]:
    """The embedded broker, if nothing is at the address; ends with this block.

    Raises:
        UserError: what is there does not answer, or refuses; or no broker starts.
    """
    try:
        require_broker(kafka, timeout_s=2)
        say(f"broker   found at {kafka.bootstrap_servers}")
        yield None
        return
    except NothingListens:
        host, _, port = kafka.bootstrap_servers.partition(",")[0].rpartition(":")
        if host not in ("localhost", "127.0.0.1"):
            raise
    broker = Broker(int(port))
    try:
        broker.start(stop)
        say(f"broker   {broker.bootstrap_servers}, data and log in {broker.data_dir}")
        yield broker
    finally:
        broker.stop()


@contextmanager
def demo_sensors(args: argparse.Namespace, kafka: Kafka, say: Log) -> Iterator[None]:
    """Simulated sensors that send readings; they end with this block."""
    log = settings.LOG_DIR / "demo-producer.log"
    command = [sys.executable, str(ROOT / "iot_producer.py"), "--sensors", str(DEMO_SENSORS), "--topic", args.topic]
    # At this rate the lighter client, while all else starts too.
    command += ["--bootstrap-servers", kafka.bootstrap_servers, "--client", "confluent-kafka"]
    command += ["--kafka-config", str(args.kafka_config)] if args.kafka_config else []
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = spawn(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    say(f"sensors  {DEMO_SENSORS} simulated, process {process.pid}, log {log}")
    try:
        yield
    finally:
        end(process, signal.SIGINT)


@contextmanager
def page(args: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """The web server, a process of its own: the page answers whatever Spark is doing.

    Raises:
        UserError: it does not start; it has said why.
    """
    command = [
        sys.executable,
        "-m",
        "iot.web",
        "--topic",
        args.topic,
        "--host",
        args.host,
        "--port",
        str(args.port),
        "--bootstrap-servers",
        args.bootstrap_servers,
    ]
    command += ["--kafka-config", str(args.kafka_config)] if args.kafka_config else []
    command += ["--insecure"] if args.insecure else []
    # Not on its command line, which any user of the machine can read.
    environment = (
        os.environ | {"IOT_DATABASE_URL": args.database_url} | ({"IOT_TOKEN": args.token} if args.token else {})
    )
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = spawn([*command, "--told-by-stdin"], stdin=subprocess.PIPE, env=environment)
    try:
        yield process
    finally:
        end(process, signal.SIGTERM)


def tell_page(process: subprocess.Popen[bytes], trouble: str) -> None:
    """Have the page say why results cannot be written; empty: they can."""
    assert process.stdin
    # That it ended is noticed elsewhere.
    with suppress(OSError):
        process.stdin.write(f"{trouble}\n".encode())
        process.stdin.flush()


def await_page(process: subprocess.Popen[bytes], args: argparse.Namespace, stop: threading.Event) -> None:
    """Wait until the page answers. Raises ``UserError`` when it ends instead."""
    url = f"http://{flags.address(args.host)}:{args.port}/healthz"
    deadline_s = time.monotonic() + PAGE_START_S
    while not stop.is_set():
        if process.poll() is not None:
            raise UserError("the page did not start, for the reason above")
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise UserError(f"the page does not answer at {url}") from None
            stop.wait(0.1)
        else:
            return


def end(process: subprocess.Popen[bytes], number: int) -> None:
    """Ask a child to end, and see to it."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(args: argparse.Namespace, stop: threading.Event) -> None:
    """Run the application until told to stop.

    Raises:
        UserError: something that the user can cure.
    """
    say = Log()
    kafka = cli.kafka_from(args)
    rules = rules_file.load_rules(args.rules) if args.rules else DEFAULT_RULES
    access.require_token(args.host, args.token, args.insecure)
    with ExitStack() as stack:
        stack.enter_context(checkpoints.hold(args.checkpoint_dir, NAME))
        store = Store(args.database_url)
        stack.callback(store.close)
        # Spark takes longest to start, so it starts first; what it needs comes up meanwhile.
        starting = stack.enter_context(ThreadPoolExecutor(1)).submit(spark_session.start, NAME, args.master)
        stack.callback(stop_spark, starting)
        if args.demo:
            stack.enter_context(demo_broker(kafka, say, stop))
        require_broker(kafka)
        for warning in ensure_topics(kafka, [args.topic, ALERTS_TOPIC, REJECTED_TOPIC]):
            print(f"warning: {warning}", file=sys.stderr)
        identity = Identity(args.topic, topic_id(kafka, args.topic))
        folders = [args.checkpoint_dir / name for name in pipeline.CHECKPOINTS]
        database = database_file(args.database_url)
        start, afresh = resume.agree(
            store,
            folders,
            identity,
            database,
            lambda: start_offsets(kafka, args.topic, args.starting_offsets),
        )
        if afresh:
            say(afresh)
        if args.demo:
            stack.enter_context(demo_sensors(args, kafka, say))
        web_process = stack.enter_context(page(args))
        await_page(web_process, args, stop)
        say(f"page     http://{flags.address(args.host)}:{args.port}")
        work = pipeline.Processing(
            starting,
            kafka,
            identity,
            store,
            rules,
            args.checkpoint_dir,
            start,
            args.retention,
            say,
            partial(tell_page, web_process),
            resume.afresh(folders, database),
        )
        work.start()
        stack.callback(lambda: summary(work, say))
        stack.callback(work.close)
        spark = starting.result()
        say(f"Spark    {spark.version} on {args.master}, UI {spark.sparkContext.uiWebUrl}")
        say(f"         log {spark_session.log_file(NAME)}")
        say(f"reading  {args.topic} at {kafka.bootstrap_servers}, results in {store.name}; Ctrl-C stops")
        while not stop.wait(LOOK_EVERY_S):
            if web_process.poll() is not None:
                raise UserError(f"the page ended with status {web_process.returncode}")
        say("stopping")
    if work.over:
        raise UserError(work.over)


def stop_spark(starting: Future[SparkSession]) -> None:
    """Stop Spark if it started; one that is gone already needs nothing."""
    if not starting.exception():
        with suppress(Exception):
            starting.result().stop()


def summary(work: pipeline.Processing, say: Log) -> None:
    say(f"stopped: {work.messages:,} readings processed in this run; the next one goes on from here")


def database_file(url: str) -> str:
    """The file of an SQLite database, empty for another."""
    found = re.match(r"sqlite(?:\+\w+)?:///(.+)", url)
    return found[1] if found else ""


def duration(text: str) -> float:
    """argparse type: seconds of a duration such as 90m or 24h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; for example 90m, 24h or 7d")
    return float(found[1]) * UNITS_S[found[2]]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--demo", action="store_true", help="start a broker if none answers, and simulated sensors")
    parser.add_argument(
        "--master",
        default=os.environ.get("MASTER") or spark_session.MASTER,
        help="the Spark master: local[N], spark://…",
    )
    parser.add_argument(
        "--checkpoint-dir",
        metavar="DIR",
        type=Path,
        default=checkpoints.CHECKPOINT_ROOT,
        help=f"where {' and '.join(pipeline.CHECKPOINTS)} are; on a cluster a folder that all machines share",
    )
    parser.add_argument(
        "--starting-offsets",
        choices=("earliest", "latest"),
        default="latest",
        help="where to begin without a checkpoint",
    )
    parser.add_argument("--rules", metavar="FILE", type=Path, help="a TOML file of rules instead of the usual ones")
    parser.add_argument(
        "--retention", metavar="TIME", type=duration, default="24h", help="how long windows and alerts are kept"
    )
    flags.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, StopSignal().install().event))


if __name__ == "__main__":
    sys.exit(main())
