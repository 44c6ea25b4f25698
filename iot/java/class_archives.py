"""Faster starts: the classes that Kafka's and Spark's JVMs load, kept parsed and verified in archives that Java maps.

Loading some ten thousand classes is most of what a cold start takes. Java can keep them (class data sharing, JEP 350);
``python -m iot.java.class_archives`` runs broker and queries once for a few seconds and keeps an archive of
each in the user's cache. Where there is none, or it does not fit this Java and these jars, everything works as well and
starts slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from iot.java.jars import LOCK_FILE, find_java
from iot.settings import ALERTS_TOPIC, CACHE_DIR, READINGS_TOPIC, REJECTED_TOPIC, UserError, reason
from iot.terminal import StatusLine

FOLDER = CACHE_DIR / "classes"
NAMES = ("kafka", "spark")
UNUSED_S = 30 * 86_400
# Raised when what is run here, and so what is loaded, changes.
RECIPE = 4
READINGS, BATCHES = 3_000, 4
LIVE_S = 6.0

_recording: dict[str, Path] = {}


def jvm_flags(name: str) -> list[str]:
    """Flags for a JVM of that name (``kafka`` or ``spark``); none where there is no archive for it."""
    if name in _recording:
        return [f"-XX:ArchiveClassesAtExit={_recording[name]}"]
    archive = _archive(name)
    try:
        if not archive.stat().st_size:
            return []
        archive.touch()
    except OSError:
        return []
    # Should it not fit after all, Java goes on without, and need not say so.
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]


def prepare() -> None:
    """Make the archives that are missing.

    Raises:
        UserError: broker or Spark do not run.
    """
    missing = [name for name in NAMES if not _archive(name).exists()]
    if not missing:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        if time.time() - old.stat().st_mtime > UNUSED_S:
            # A folder is what an interrupted run left.
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="new-") as work, StatusLine(sys.stderr) as status:
        status.print(f"Running Kafka and Spark once, so that they start in half the time, archives in {FOLDER}")
        with _recorded(missing, Path(work)):
            _run_both(Path(work))
        for name in missing:
            made = Path(work, name)
            # An empty one says that this Java cannot make it, so that it is not tried again.
            made.touch()
            made.chmod(0o644)
            made.replace(_archive(name))


def _archive(name: str) -> Path:
    """Where the archive of this Java, these jars and this PySpark is; Java checks each jar itself."""
    home = find_java()
    release = home / "release"
    spec = find_spec("pyspark")
    spark_jars = Path(spec.origin).parent / "jars" if spec and spec.origin else Path()
    parts = [
        str(RECIPE),
        str(home),
        release.read_text() if release.exists() else "",
        LOCK_FILE.read_text(encoding="utf-8"),
    ]
    parts += [str(spark_jars), str(spark_jars.stat().st_mtime_ns)] if name == "spark" else []
    return FOLDER / f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.jsa"


@contextlib.contextmanager
def _recorded(names: list[str], work: Path) -> Iterator[None]:
    _recording.update({name: work / name for name in names})
    try:
        yield
    finally:
        _recording.clear()


def _run_both(work: Path) -> None:
    """A broker, and Spark's queries on some readings: all that a usual run loads."""
    from iot.alerts import DEFAULT_RULES
    from iot.batches import Report
    from iot.broker.broker import Broker, find_free_port
    from iot.kafka.offsets import start_offsets
    from iot.kafka.sender import make_sender
    from iot.rejected import RejectedWriter
    from iot.sensors.fleet import Fleet
    from iot.spark import alerts as spark_alerts
    from iot.spark import queries
    from iot.spark import session as spark_session

    with Broker(find_free_port(), work / "broker") as broker:
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
            start = start_offsets(broker.kafka, READINGS_TOPIC, "earliest")

            def keep(_: int, __: object, report: Report) -> None:
                kept.set()

            windows = queries.start_windows(
                spark,
                queries.read_topic(spark, broker.kafka, READINGS_TOPIC, start),
                str(work / "windows"),
                keep,
                {},
                {"processingTime": "200 milliseconds"},
                RejectedWriter(broker.kafka, REJECTED_TOPIC, READINGS_TOPIC),
                sensors=True,
            )
            topic = queries.read_topic(spark, broker.kafka, READINGS_TOPIC, start)
            raised = spark_alerts.alerts(topic, DEFAULT_RULES)
            trigger = queries.alerts_trigger(spark, {"processingTime": "200 milliseconds"})
            alerts = queries.start_alerts(raised, broker.kafka, ALERTS_TOPIC, str(work / "alerts"), trigger)
            kept.wait(60)
            # Batches that follow soon are interpreted, from the third on.
            for _ in range(BATCHES):
                kept.clear()
                send()
                kept.wait(60)
            time.sleep(LIVE_S)
            for query in (windows, alerts):
                query.stop()
            sender.close()
        finally:
            spark_session.end(spark)


def main() -> int:
    try:
        prepare()
    except (UserError, OSError) as error:
        # Nothing depends on it.
        print(f"Kafka and Spark will start slower: {reason(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    # Under its own name, by which broker and Spark import it too.
    from iot.java import class_archives

    sys.exit(class_archives.main())
