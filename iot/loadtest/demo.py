"""A broker and an application of the load test's own (``--demo``), with all their state in a temporary folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iot.broker.broker import Broker, find_free_port
from iot.kafka.topics import TOPICS
from iot.loadtest.dashboard_client import DashboardClient
from iot.logs import open_log
from iot.processes import Stopped, end, spawn
from iot.settings import Kafka, UserError

APPLICATION = Path(__file__).parents[2] / "iot_streaming_app.py"
# How long the application may take to process readings, and to stop.
START_S, STOP_S = 120.0, 60.0
# How often to check whether it does.
LOOK_S = 0.1


class DemoSystem:
    """A broker that runs, and an application that can be started and stopped."""

    def __init__(self, broker: Broker, topic: str, folder: Path) -> None:
        self.kafka: Kafka = broker.kafka
        self.dashboard_url = f"http://localhost:{(port := find_free_port())}"
        self._folder = folder
        self._command = [sys.executable, str(APPLICATION), "--bootstrap-servers", self.kafka.bootstrap_servers]
        self._command += ["--topic", topic, "--port", str(port), "--checkpoint-dir", str(folder / "checkpoints")]
        self._command += ["--database-url", f"sqlite:///{folder / 'results.db'}", "--starting-offsets", "earliest"]
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "application.log"

    def start_application(self) -> None:
        """Start the application, without waiting until it is ready."""
        self._log, output = open_log(self._log)
        with output:
            self._process = spawn(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                variables={"IOT_LOG_DIR": str(self._folder / "log")},
            )

    def await_processing(self, stop: threading.Event) -> None:
        """Wait until the application processes readings.

        Raises:
            UserError: it has ended, or takes too long.
            Stopped: ``stop`` was set before.
        """
        dashboard = DashboardClient(self.dashboard_url, None)
        deadline_s = time.monotonic() + START_S
        while not dashboard.is_processing():
            self.require_running()
            if time.monotonic() > deadline_s:
                raise UserError(f"the application does not process readings after {START_S:.0f} s: {self._last_line()}")
            if stop.wait(LOOK_S):
                raise Stopped("stopped before anything was sent")

    def require_running(self) -> None:
        """Check that the application runs.

        Raises:
            UserError: it has ended; the message has its last line.
        """
        if self._process is None or self._process.poll() is not None:
            raise UserError(f"the application has ended: {self._last_line()}")

    def stop_application(self) -> None:
        """Stop the application as Ctrl-C does, and wait for its end."""
        if self._process:
            end(self._process, signal.SIGINT, STOP_S)

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


@contextmanager
def demo_system(
    topic: str, partitions: int | None, replication_factor: int | None, stop: threading.Event
) -> Iterator[DemoSystem]:
    """Start a broker on a free port; application and broker end with this block, and their folder is deleted.

    Args:
        partitions, replication_factor: of the topic, as ``topics.ensure_topics`` takes them.

    Raises:
        UserError: the broker does not start.
        Stopped: ``stop`` was set before Kafka was ready.
    """
    with tempfile.TemporaryDirectory(prefix="iot-load-test-") as folder:
        broker = Broker(find_free_port(), Path(folder, "broker"), dict.fromkeys((*TOPICS, topic)))
        broker.partitions, broker.replication_factor = {topic: partitions}, replication_factor
        try:
            if not broker.start(stop):
                raise Stopped("stopped before Kafka was ready")
            system = DemoSystem(broker, topic, Path(folder))
            try:
                yield system
            finally:
                system.stop_application()
        finally:
            broker.stop()
