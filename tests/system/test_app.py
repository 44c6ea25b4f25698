"""The whole application as a process of its own: its API against the independent reference, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.settings import Kafka
from tests.support import oracle
from tests.support.oracle import Window
from tests.support.streams import stream, write

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
SIDES = {"temperature": (15, 30), "humidity": (30, 70), "pressure": (1000, 1030)}


class App:
    """The application with all its state in one folder."""

    def __init__(self, broker: Broker | Kafka, topic: str, folder: Path) -> None:
        self.folder = folder
        self.port = find_free_port()
        self.command = [sys.executable, str(ROOT / "iot_streaming_app.py"), "--topic", topic]
        self.command += ["--bootstrap-servers", broker.bootstrap_servers, "--port", str(self.port)]
        self.command += ["--checkpoint-dir", str(folder / "checkpoints"), "--starting-offsets", "earliest"]
        self.command += ["--database-url", f"sqlite:///{folder / 'results.db'}"]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        environment = os.environ | {"IOT_LOG_DIR": str(self.folder / "log")}
        with subprocess.Popen(
            self.command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def get(self, path: str) -> Any:
        """The JSON at a path of the API; None where nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return json.load(response)
        except (OSError, ValueError):
            return None

    def status(self, path: str) -> int:
        """The HTTP status at a path, 0 where nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def messages(self) -> int:
        metrics = self.get("/api/metrics")
        return metrics["total_messages"] + metrics["rejected_messages"] if metrics else -1

    def windows(self) -> dict[tuple[int, str], Window]:
        rows = self.get("/api/windows?minutes=10080")["windows"]
        return {
            (int(datetime.fromisoformat(row["end"]).timestamp()), row["sensor_type"]): Window(
                row["count"], row["avg"], row["min"], row["max"]
            )
            for row in rows
        }


@pytest.fixture
def app(broker, topic, tmp_path):
    return App(broker, topic, tmp_path)


def alerts_of(records: list[oracle.Record], topic: str) -> set[str]:
    """The ids of the alerts that the default rules give."""
    found = set()
    for record in records:
        reading = oracle.reading_of(record)
        low, high = SIDES.get(reading["sensor_type"], (float("-inf"), float("inf"))) if reading else (0, 0)
        if reading and not low <= reading["value"] <= high:
            found.add(f"{topic}-{record.partition}-{record.offset}")
    return found


def require(app: App, records: list[oracle.Record], topic: str, eventually: Any) -> None:
    """What the API says is what the reference comes to."""
    wanted = oracle.expected(records)
    alerts = alerts_of(records, topic)
    eventually(lambda: app.messages() == len(records), 120)
    eventually(lambda: app.get("/api/metrics")["total_alerts"] == len(alerts), 120)
    metrics = app.get("/api/metrics")
    assert (metrics["total_messages"], metrics["rejected_messages"], metrics["late_messages"]) == (
        wanted.readings,
        wanted.rejected,
        wanted.late,
    )
    assert oracle.differences(app.windows(), oracle.over_all_locations(wanted.windows)) == []
    values: dict[str, list[float]] = {}
    for reading in filter(None, (oracle.parse(record.value) for record in records)):
        values.setdefault(reading["sensor_type"], []).append(reading["value"])
    assert {
        row["sensor_type"]: (row["count"], row["min_value"], row["max_value"]) for row in metrics["sensor_stats"]
    } == {name: (len(of), min(of), max(of)) for name, of in values.items()}
    for row in metrics["sensor_stats"]:
        of = values[row["sensor_type"]]
        assert row["avg_value"] == pytest.approx(sum(of) / len(of), rel=1e-9)
    assert {alert["alert_id"] for alert in app.get("/api/alerts?limit=1000")["alerts"]} <= alerts


def test_figures_equal_the_reference_also_after_a_kill(app, broker, topic, eventually):
    messages = list(stream(200_000, seed=11, span_s=240, late=0.005))
    with app.running() as process:
        write(broker.kafka, topic, iter(messages[:150_000]), at_once=800)
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        require(app, records, topic, eventually)
        assert app.status("/healthz") == 200
        process.send_signal(signal.SIGKILL)
    # Nobody is left behind: the page goes with its parent.
    eventually(lambda: app.status("/healthz") == 0, 20)
    write(broker.kafka, topic, iter(messages[150_000:]), at_once=800)
    with app.running() as process:
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        require(app, records, topic, eventually)
        # Spark dies: the page says so within ten seconds.
        [spark] = [pid for pid in descendants(process.pid) if "SparkSubmit" in command_line(pid)]
        os.kill(spark, signal.SIGKILL)
        died_s = time.monotonic()
        eventually(lambda: app.status("/healthz") == 503, 20)
        eventually(lambda: app.get("/api/metrics")["state"] == "failed", 10)
        assert time.monotonic() - died_s < 15
        assert "Spark ended" in app.get("/api/metrics")["state_reason"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
        assert "error: Spark ended" in process.stdout.read()


def test_a_second_app_on_the_same_state_says_so(app, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    from iot.spark.checkpoints import lock

    with lock(tmp_path / "checkpoints", "iot_streaming_app"), app.running() as process:
        assert process.wait(60) == 1
        said = process.stdout.read()
    assert said.startswith("error: iot_streaming_app is already running with its state in ")
    assert said.count("\n") == 1


def test_without_a_broker_it_says_how_to_start_one(app):
    port = find_free_port()
    app.command[app.command.index("--bootstrap-servers") + 1] = f"localhost:{port}"
    with app.running() as process:
        assert process.wait(60) == 1
        said = process.stdout.read()
    assert f"no Kafka broker answers at localhost:{port}" in said
    assert "Traceback" not in said


def descendants(pid: int) -> list[int]:
    """All processes below a process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
