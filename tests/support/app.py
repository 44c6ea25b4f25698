"""The application as a process of its own, and the comparison of its API with the independent reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
from tests.support.scripts import ROOT, started


class App:
    """Runs the application with all its state in one folder, and reads its API."""

    def __init__(self, broker: Broker | Kafka, topic: str, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.port = find_free_port()
        self.command = [sys.executable, str(ROOT / "iot_streaming_app.py"), "--topic", topic]
        self.command += ["--bootstrap-servers", broker.bootstrap_servers, "--port", str(self.port)]
        self.command += ["--checkpoint-dir", str(folder / "checkpoints"), "--starting-offsets", "earliest"]
        self.command += ["--database-url", f"sqlite:///{folder / 'results.db'}", *flags]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """Start the application; kill it at the end of the ``with`` block."""
        environment = os.environ | {"IOT_LOG_DIR": str(self.folder / "log")}
        with started(
            self.command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            yield process

    def get(self, path: str) -> Any:
        """The JSON at a path of the API; None if there is no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return json.load(response)
        except (OSError, ValueError):
            return None

    def status(self, path: str) -> int:
        """The HTTP status at a path; 0 if there is no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def messages(self) -> int:
        """How many messages the application has processed; -1 if there is no answer."""
        metrics = self.get("/api/metrics")
        return metrics["total_messages"] + metrics["rejected_messages"] if metrics else -1

    def windows(self) -> dict[tuple[int, str], Window]:
        """The windows of the API by window end, in seconds since the epoch, and sensor type."""
        rows = self.get("/api/windows?minutes=10080")["windows"]
        return {
            (int(datetime.fromisoformat(row["end"]).timestamp()), row["sensor_type"]): Window(
                row["count"], row["avg"], row["min"], row["max"]
            )
            for row in rows
        }


def require_exact(app: App, records: list[oracle.Record], topic: str, eventually: Any) -> None:
    """Wait until these messages of the topic are processed, and compare the API with the reference."""
    wanted = oracle.expected(records)
    alerts = oracle.alert_ids(records, topic)
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
    for reading in filter(None, map(oracle.reading_of, records)):
        values.setdefault(reading["sensor_type"], []).append(reading["value"])
    assert {
        row["sensor_type"]: (row["count"], row["min_value"], row["max_value"]) for row in metrics["sensor_stats"]
    } == {name: (len(of), min(of), max(of)) for name, of in values.items()}
    for row in metrics["sensor_stats"]:
        of = values[row["sensor_type"]]
        assert row["avg_value"] == pytest.approx(sum(of) / len(of), rel=1e-9)
    assert {alert["alert_id"] for alert in app.get("/api/alerts?limit=1000")["alerts"]} <= alerts
