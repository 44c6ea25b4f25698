"""The training run for class archives on Java 17 and 18: run broker and queries once, and Java archives their classes.

``python -m iot.pipeline.training`` writes the archives that are missing; see ``iot.java.class_archives``.
"""

from __future__ import annotations

from iot.processes import Stopped, require_not_stopped, stop_event

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import sys
import threading
import time
from pathlib import Path

import numpy as np

from iot import cli
from iot.java import class_archives
from iot.settings import ALERTS_TOPIC, READINGS_TOPIC, REJECTED_TOPIC, UserError, reason

# How many readings are sent for each batch.
READINGS = 3_000
# How many batches are sent. Spark interprets small ones from the third on, which loads other classes.
BATCHES = 4
# How long the queries run after the last batch: some of their work is periodic.
LIVE_S = 6.0


def run_both(work: Path) -> None:
    """Run a broker, and Spark's queries on some readings: together they load the classes of a usual run."""
    from iot.alerts import DEFAULT_RULES
    from iot.batches import BatchReport
    from iot.broker.broker import Broker, find_free_port
    from iot.kafka.offsets import start_offsets
    from iot.kafka.sender import make_sender
    from iot.sensors.fleet import Fleet
    from iot.spark import alerts as spark_alerts
    from iot.spark import queries
    from iot.spark import session as spark_session
    from iot.spark.rejected import RejectedWriter
    from iot.spark.windows import start_windows

    not_archived = "before the classes were archived; the next make setup does it"

    def wait_for(event: threading.Event, longest_s: float) -> None:
        deadline_s = time.monotonic() + longest_s
        while time.monotonic() < deadline_s and not event.wait(0.1):
            require_not_stopped(not_archived)

    with Broker(find_free_port(), work / "broker") as broker:
        require_not_stopped(not_archived)
        sender = make_sender("confluent-kafka", broker.kafka, READINGS_TOPIC)
        fleet, kept = Fleet(100, 1, "classes"), threading.Event()

        def send() -> None:
            now_us = time.time_ns() // 1000
            sender.send(fleet.records(now_us + np.arange(READINGS)), threading.Event())
            sender.send([{"key": b"x", "value": b"no reading"}], threading.Event())
            sender.flush(30)

        send()
        spark = spark_session.start("class-data", spark_session.MASTER)
        try:
            require_not_stopped(not_archived)
            start = start_offsets(broker.kafka, READINGS_TOPIC, "earliest")

            def keep(_: int, __: object, report: BatchReport) -> None:
                kept.set()

            windows = start_windows(
                queries.read_topic(spark, broker.kafka, READINGS_TOPIC, start),
                work / "windows",
                keep,
                trigger={"processingTime": "200 milliseconds"},
                on_rejected=RejectedWriter(broker.kafka, REJECTED_TOPIC, READINGS_TOPIC),
                sensors=True,
            )
            topic = queries.read_topic(spark, broker.kafka, READINGS_TOPIC, start)
            raised = spark_alerts.alerts(topic, DEFAULT_RULES)
            # With the default master there are slots enough for it.
            alerts = queries.start_alerts(raised, broker.kafka, ALERTS_TOPIC, work / "alerts", queries.REAL_TIME)
            wait_for(kept, 60)
            for _ in range(BATCHES):
                kept.clear()
                send()
                wait_for(kept, 60)
            wait_for(threading.Event(), LIVE_S)
            for query in (windows, alerts):
                query.stop()
            sender.close()
        finally:
            spark_session.end(spark)


def main(argv: list[str] | None = None) -> int:
    cli.print_any_text()
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args(argv)
    try:
        class_archives.prepare(run_both)
    except Stopped as how:
        # The next step of a set-up would begin, so this is no success.
        print(how, file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        # The application runs without the archives.
        print(f"cannot archive classes, so Kafka and Spark start slower: {reason(error)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
