"""The web server's process: with a real broker, and where it cannot start."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iot.alerts import encode
from iot.broker.broker import Broker, find_free_port
from iot.kafka.sender import make_sender
from iot.settings import ALERTS_TOPIC
from tests.support.results import an_alert
from tests.support.scripts import ROOT, started


@contextmanager
def web_process(folder: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "iot.web", "--database-url", f"sqlite:///{folder / 'results.db'}", *args]
    with started(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield process


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


class EventReader:
    """An open event stream, read in a thread."""

    def __init__(self, url: str) -> None:
        self._answer = urllib.request.urlopen(f"{url}/api/stream", timeout=60)
        self.lines: list[str] = []
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._answer:
            self.lines.append(line.decode().rstrip("\n"))
        self.ended.set()


def test_the_page_works_without_kafka_and_alerts_are_pushed_once_kafka_is_back(tmp_path, eventually):
    broker = Broker(find_free_port(), tmp_path / "broker")
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ["--port", str(port), "--bootstrap-servers", broker.bootstrap_servers]
    with web_process(tmp_path, *flags) as process:
        eventually(lambda: answers(url))
        assert json.load(urllib.request.urlopen(f"{url}/api/metrics"))["total_messages"] == 0
        stream = EventReader(url)
        eventually(lambda: "event: metrics" in stream.lines)
        with broker:
            sender = make_sender("confluent-kafka", broker.kafka, ALERTS_TOPIC)
            sent: list[str] = []

            def an_alert_has_come() -> bool:
                sent.append(an_alert(len(sent)).alert_id)
                sender.send([{"key": b"s", "value": encode(an_alert(len(sent) - 1))}], threading.Event())
                return any(f"id: {alert_id}" in stream.lines for alert_id in sent)

            eventually(an_alert_has_come)
            sender.close()
        assert stream.lines[stream.lines.index("event: alert") + 2].startswith('data: {"alert_id":"iot-sensors-0-')
        process.terminate()
        begun_s = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - begun_s < 5
        assert stream.ended.wait(10)
        assert process.stdout.read() == ""


def test_an_error_at_start_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with web_process(tmp_path, "--port", str(port)) as process:
            said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    why = "the port is already in use; choose another with --port"
    assert said == f"error: cannot serve at 127.0.0.1 port {port}: {why}\n"
    with web_process(tmp_path, "--host", "0.0.0.0") as process:
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.startswith("error: --host 0.0.0.0 can be reached from other machines")
    assert said.count("\n") == 1
