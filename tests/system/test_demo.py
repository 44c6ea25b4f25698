"""``iot_streaming_app.py --demo``: everything runs from one terminal, and every process ends when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from iot.broker.broker import find_free_port
from tests.support.scripts import ROOT, command_line, descendants

pytestmark = pytest.mark.timeout(600)


def test_the_demo_starts_every_part_and_stops_every_process(tmp_path, eventually):
    port, kafka_port = find_free_port(), find_free_port()
    servers = f"localhost:{kafka_port}"
    command = [sys.executable, str(ROOT / "iot_streaming_app.py"), "--demo", "--port", str(port)]
    command += ["--bootstrap-servers", servers, "--checkpoint-dir", str(tmp_path)]
    command += ["--database-url", f"sqlite:///{tmp_path / 'results.db'}"]
    environment = os.environ | {"IOT_DATA_DIR": str(tmp_path / "data"), "IOT_LOG_DIR": str(tmp_path / "log")}
    output = tmp_path / "output"

    def get(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
                return json.load(response)
        except (OSError, ValueError):
            return {}

    with output.open("wb") as said, subprocess.Popen(command, env=environment, stdout=said, stderr=said) as process:
        try:
            eventually(lambda: (get("/api/metrics").get("total_messages") or 0) > 0 or process.poll() is not None, 240)
            assert process.poll() is None, output.read_text()
            assert get("/api/metrics")["state"] == "live"
            # A replayed recording is processed together with the simulated sensors.
            producer = [sys.executable, str(ROOT / "iot_producer.py"), "--bootstrap-servers", servers]
            recording = tmp_path / "recording.csv"
            recording.write_text(
                "sensor_id,sensor_type,value,timestamp\n"
                "oven,temperature,20.5,2026-01-01T12:00:00Z\noven,temperature,31.5,2026-01-01T12:00:01Z\n"
            )
            producer += ["--replay", str(recording), "--rate", "100"]
            sent = subprocess.run(producer, env=environment, capture_output=True, text=True, timeout=120)
            assert sent.returncode == 0, sent.stderr
            eventually(lambda: get("/api/alerts?sensor_id=oven").get("alerts"), 60)
            [alert] = get("/api/alerts?sensor_id=oven")["alerts"]
            assert (alert["type"], alert["threshold"]) == ("HIGH_TEMPERATURE", 30.0)
            children = descendants(process.pid)
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0
        finally:
            process.kill()
    eventually(lambda: not any(map(command_line, children)), 20)
    lines = output.read_text()
    for what in (f"broker   {servers}", "sensors  50 simulated", f"page     http://127.0.0.1:{port}", "Spark    4."):
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
