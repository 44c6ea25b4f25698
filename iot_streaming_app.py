"""Monitor IoT sensors live: Spark computes windows and alerts over the topic of readings, and a page at
http://localhost:5000 shows them.

With --demo it also starts what is missing: a Kafka broker and simulated sensors. Results are in a database, progress in
checkpoints: a restart continues where the last run stopped. Ctrl-C stops everything cleanly.
"""

from __future__ import annotations

from iot.processes import Stopped, require_not_stopped, stop_event, until_stopped

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from iot import cli, places
from iot.alarms.notify_file import Notify, load_notify
from iot.alerts import Rules
from iot.batches import Identity, Offsets
from iot.kafka.connect import require_broker, something_listens
from iot.kafka.offsets import start_offsets
from iot.kafka.topics import ensure_topics, topic_id
from iot.pipeline import pipeline, resume
from iot.pipeline.demo import demo_broker, demo_sensors
from iot.pipeline.demo_devices import demo_devices
from iot.pipeline.pipeline import CHECKPOINTS, Pipeline
from iot.results.names import file_of
from iot.results.store import Store
from iot.rules_file import load_rules
from iot.settings import ALARMS_TOPIC, ALERTS_TOPIC, REJECTED_TOPIC, Kafka, UserError
from iot.spark import checkpoints
from iot.spark import session as spark_session
from iot.spark.remote_path import RemotePath
from iot.terminal import StartLog
from iot.web import flags
from iot.web.access import require_token
from iot.web.child import WebChild
from iot.web.listening import listen

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NAME = "iot_streaming_app"
# How often to look whether the page still runs.
LOOK_EVERY_S = 0.5
TOO_EARLY = "before anything was processed"


def run(args: argparse.Namespace, stop: threading.Event) -> None:
    """Run the application until told to stop.

    Raises:
        UserError: something that the user can fix.
    """
    say = StartLog()
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, TOO_EARLY)
    rules = until_stopped(lambda: load_rules(args.rules), stop, TOO_EARLY)
    notify = until_stopped(lambda: load_notify(args.notify), stop, TOO_EARLY)
    with ExitStack() as stack:
        # Before anything is started: the port is free, and stays ours.
        listening = stack.enter_context(listen(args.host, args.port))
        require_token(args.host, args.token, args.insecure)
        store = Store(args.database_url)
        stack.callback(store.close)
        until_stopped(lambda: require_places(args, store), stop, TOO_EARLY)
        # With --demo, a broker is started where nothing listens.
        if not args.demo:
            until_stopped(lambda: require_broker(kafka), stop, TOO_EARLY)
        elif something_listens(kafka):
            until_stopped(lambda: require_broker(kafka, timeout_s=2), stop, TOO_EARLY)
        start_spark = partial(
            spark_session.start,
            NAME,
            args.master,
            checkpoint_dir=args.checkpoint_dir,
            driver_host=args.driver_host,
            say=say,
            stop=stop,
        )
        starting = None
        if spark_session.comes_first(args.master, args.checkpoint_dir):
            starting = begin(start_spark, stack)
            until_stopped(starting.result, stop, TOO_EARLY)
        if isinstance(args.checkpoint_dir, RemotePath):
            checkpoints.require_writable(args.checkpoint_dir, CHECKPOINTS, stop)
        owned = resume.owned(store, place_of(args), NAME, say, stop)
        # After a stop, the end of the process releases what its thread still gets.
        leases = until_stopped(lambda: stack.enter_context(owned), stop, TOO_EARLY)
        # Spark takes longest to start, so it starts first; what it needs comes up meanwhile.
        starting = starting or begin(start_spark, stack)
        if args.demo:
            stack.enter_context(demo_broker(args, kafka, say, stop))
        until_stopped(lambda: require_kafka(args, kafka), stop, TOO_EARLY)
        settings = until_stopped(lambda: prepare(args, kafka, rules, notify, store, say, stop), stop, TOO_EARLY)
        if args.demo:
            stack.enter_context(demo_sensors(args, kafka, say))
        if args.devices:
            stack.enter_context(demo_devices(args, kafka, say, stop))
        require_not_stopped(TOO_EARLY)
        page = stack.enter_context(WebChild(args, kafka, listening))
        page.await_answer(stop)
        require_not_stopped(TOO_EARLY)
        say(f"page     {page.url}")
        processing = Pipeline(
            starting, store, settings, say=say, report_database=page.report_database, require_owner=leases.require
        )
        processing.start()
        stack.callback(lambda: say(summary(processing)))
        stack.callback(processing.close)
        spark = starting.result()
        say(f"Spark    {spark.version} on {args.master}, UI {spark.sparkContext.uiWebUrl}")
        say(f"         log {spark_session.log_file(NAME)}")
        say(f"reading  {args.topic} at {kafka.bootstrap_servers}, results in {store.name}; Ctrl-C stops")
        while not stop.wait(LOOK_EVERY_S):
            page.look_after()
            leases.require_not_lost()
        say("stopping")
    if processing.over:
        raise UserError(processing.over)


def begin(start_spark: Callable[[], SparkSession], stack: ExitStack) -> Future[SparkSession]:
    """Start Spark in a thread of its own; the stack stops it."""
    starting = stack.enter_context(ThreadPoolExecutor(1)).submit(start_spark)
    stack.callback(stop_spark, starting)
    return starting


def require_places(args: argparse.Namespace, store: Store) -> None:
    """Check that logs, checkpoints on this machine and results can be written.

    Raises:
        UserError: one of them cannot.
    """
    if not isinstance(args.checkpoint_dir, RemotePath):
        places.require_state_folders(args.checkpoint_dir, CHECKPOINTS)
    if file := file_of(args.database_url):
        fix = "choose another file with --database-url"
        places.require_writable_file(Path(file), fix)
        # SQLite keeps its journal beside the file.
        places.require_writable_folder(Path(file).parent, fix)
    store.identity()


def require_kafka(args: argparse.Namespace, kafka: Kafka) -> None:
    """Create missing topics.

    Raises:
        UserError: Kafka does not answer.
    """
    require_broker(kafka)
    topics = [args.topic, ALERTS_TOPIC, ALARMS_TOPIC, REJECTED_TOPIC]
    for warning in ensure_topics(kafka, topics, {args.topic: args.partitions}, args.replication_factor):
        print(f"warning: {warning}", file=sys.stderr)


def prepare(
    args: argparse.Namespace,
    kafka: Kafka,
    rules: Rules,
    notify: Notify,
    store: Store,
    say: StartLog,
    stop: threading.Event,
) -> pipeline.Settings:
    """Find out where the last run stopped.

    Raises:
        UserError: the state is of another topic.
        Stopped: ``stop`` was set before the state of a new run was written.
    """
    identity = Identity(args.topic, topic_id(kafka, args.topic))
    place = place_of(args)

    def first_offsets() -> Offsets:
        offsets = start_offsets(kafka, args.topic, args.starting_offsets)
        # After a stop, nobody waits for this thread any more, and it must change nothing.
        if stop.is_set():
            raise Stopped(f"stopped {TOO_EARLY}")
        return offsets

    start, kept = resume.resume(store, place, identity, first_offsets, time.time())
    if kept:
        say(kept)
    return pipeline.Settings(
        kafka=kafka,
        identity=identity,
        rules=rules,
        checkpoint_dir=args.checkpoint_dir,
        start=start,
        retention_s=args.retention,
        reset=place.reset,
        notify=notify,
    )


def place_of(args: argparse.Namespace) -> resume.Place:
    """Where checkpoints and database are."""
    return resume.Place([args.checkpoint_dir / name for name in CHECKPOINTS], file_of(args.database_url))


def stop_spark(starting: Future[SparkSession]) -> None:
    """Stop Spark, if it started."""
    if not starting.exception():
        # A Spark that has already ended cannot be stopped.
        with suppress(Exception):
            starting.result().stop()


def summary(processing: Pipeline) -> str:
    return f"stopped: {processing.messages:,} readings processed in this run; the next run continues from here"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_topic_arguments(parser)
    parser.add_argument("--demo", action="store_true", help="start a broker if none answers, and simulated sensors")
    parser.add_argument(
        "--devices", action="store_true", help="with --demo: also start the gateway for devices (HTTP, MQTT)"
    )
    cli.add_spark_arguments(
        parser,
        master=spark_session.MASTER,
        checkpoint_dir=checkpoints.CHECKPOINT_ROOT,
        checkpoints=CHECKPOINTS,
        folder=checkpoints.folder,
    )
    cli.add_rules_argument(parser)
    parser.add_argument(
        "--notify",
        metavar="FILE",
        type=cli.input_path,
        help="TOML file of receivers of alarms (default: none)",
    )
    parser.add_argument(
        "--retention",
        metavar="TIME",
        type=cli.duration,
        default="24h",
        help="how long to keep windows, alerts and resolved alarms",
    )
    flags.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.devices and not args.demo:
        parser.error("--devices needs --demo; without it, start python -m iot.gateway")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
