"""``iot_streaming_app.py --demo``: everything runs from one terminal, Prometheus finds all it asks for, and every
process ends when it is stopped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from iot.broker.broker import find_free_port
from tests.support.http_receiver import http_receiver
from tests.support.prometheus import running_prometheus
from tests.support.scripts import ROOT, command_line, descendants, started

pytestmark = pytest.mark.timeout(600)

NOTIFY = """
group_wait = "0s"
[[receiver]]
name = "hook"
webhook = "{url}"
"""


class Demo:
    """The demo with all its state in one folder."""

    def __init__(self, folder: Path, receiver_url: str) -> None:
        self.port, self.servers = find_free_port(), f"localhost:{find_free_port()}"
        self.output, self._folder = folder / "output", folder
        notify = folder / "notify.toml"
        notify.write_text(NOTIFY.format(url=receiver_url))
        self.command = [sys.executable, str(ROOT / "iot_streaming_app.py"), "--demo", "--devices"]
        self.command += ["--port", str(self.port), "--bootstrap-servers", self.servers, "--checkpoint-dir", str(folder)]
        self.command += ["--database-url", f"sqlite:///{folder / 'results.db'}", "--notify", str(notify)]
        self.environment = os.environ | {"IOT_DATA_DIR": str(folder / "data"), "IOT_LOG_DIR": str(folder / "log")}

    def get(self, path: str) -> Any:
        """The JSON at a path of the API; empty if there is no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return json.load(response)
        except (OSError, ValueError):
            return {}

    def replay(self, sensor_id: str) -> None:
        """Send two readings of a recording; the second one is an alert."""
        recording = self._folder / f"{sensor_id}.csv"
        recording.write_text(
            "sensor_id,sensor_type,value,timestamp\n"
            f"{sensor_id},temperature,20.5,2026-01-01T12:00:00Z\n{sensor_id},temperature,31.5,2026-01-01T12:00:01Z\n"
        )
        command = [sys.executable, str(ROOT / "iot_producer.py"), "--bootstrap-servers", self.servers]
        command += ["--replay", str(recording), "--rate", "100"]
        sent = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert sent.returncode == 0, sent.stderr


@pytest.fixture(scope="module")
def running_demo(tmp_path_factory) -> Iterator[tuple[Demo, subprocess.Popen[bytes]]]:
    folder = tmp_path_factory.mktemp("demo")
    with http_receiver() as receiver:
        demo = Demo(folder, receiver.url())
        with (
            demo.output.open("wb") as said,
            started(demo.command, env=demo.environment, stdout=said, stderr=said) as process,
        ):
            yield demo, process


@pytest.fixture
def demo(running_demo: tuple[Demo, subprocess.Popen[bytes]], eventually) -> Demo:
    """The demo, once it has processed readings."""
    demo, process = running_demo
    eventually(lambda: (demo.get("/api/metrics").get("total_messages") or 0) > 0 or process.poll() is not None, 240)
    assert process.poll() is None, demo.output.read_text()
    return demo


def test_a_recording_is_processed_together_with_the_simulated_sensors(demo, eventually):
    assert demo.get("/api/metrics")["state"] == "live"
    demo.replay("oven")
    eventually(lambda: demo.get("/api/alerts?sensor_id=oven").get("alerts"), 60)
    [alert] = demo.get("/api/alerts?sensor_id=oven")["alerts"]
    assert (alert["type"], alert["threshold"]) == ("HIGH_TEMPERATURE", 30.0)


@pytest.mark.parametrize(("program", "device"), [("curl", "my-device"), ("mosquitto_pub", "devices/my-sensor")])
def test_the_printed_command_sends_a_reading_to_the_page(demo, program, device, eventually):
    [command] = re.findall(rf" ({program} .*)$", demo.output.read_text(), re.MULTILINE)
    sent = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=False)
    assert sent.returncode == 0, sent.stderr
    eventually(lambda: demo.get(f"/api/alerts?sensor_id={quote(device)}").get("alerts"), 30)
    [alert] = demo.get(f"/api/alerts?sensor_id={quote(device)}")["alerts"]
    assert (alert["type"], alert["value"]) == ("HIGH_TEMPERATURE", 31.5)


def test_prometheus_has_a_value_for_every_rule_and_every_panel(demo, tmp_path, eventually):
    with running_prometheus(tmp_path, demo.port) as prometheus:
        eventually(lambda: prometheus.values("iot_messages_total"), 30)
        # An alert and an alarm while Prometheus looks.
        demo.replay("kiln")
        with suppress(pytest.fail.Exception):
            eventually(lambda: not prometheus.without_value(), 60)
        # Names the expressions without a value.
        assert prometheus.without_value() == {}
        assert prometheus.unhealthy_rules() == []
        firing = prometheus.values('ALERTS{alertname=~"Iot.+", alertstate="firing"}')
        assert firing == []


def test_the_demo_stops_every_process(demo, running_demo, eventually):
    _, process = running_demo
    children = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    eventually(lambda: not any(map(command_line, children)), 20)
    lines = demo.output.read_text()
    page = f"page     http://127.0.0.1:{demo.port}"
    for what in (f"broker   {demo.servers}", "sensors  50 simulated", "devices  gateway at", page, "Spark    4."):
        assert what in lines
    assert "Traceback" not in lines
    assert "the next run continues from here" in lines.splitlines()[-1]


def test_another_server_on_the_brokers_port_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        servers = f"localhost:{other.getsockname()[1]}"
        command = [sys.executable, str(ROOT / "iot_streaming_app.py"), "--demo", "--port", str(find_free_port())]
        command += ["--bootstrap-servers", servers, "--checkpoint-dir", str(tmp_path)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: no Kafka broker answers at {servers}, though something listens there")
    assert ran.stderr.count("\n") == 1
