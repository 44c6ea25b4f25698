"""Broker, application and producer as processes that a test can kill and restart."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kafka.errors import KafkaError

from iot.broker.broker import find_free_port
from iot.processes import spawn
from iot.settings import READINGS_TOPIC, Kafka
from tests.support import oracle
from tests.support.app import App
from tests.support.scripts import ROOT

SENSORS = 60
# The default rules, and critical ones that the simulator's faults break and keep again and again. Alerts stay the same.
RULES = """
[[rule]]
sensor_type = "temperature"
unit = "celsius"
min = 15
max = 30
clear_min = 16
clear_max = 29

[[rule]]
sensor_type = "temperature"
unit = "celsius"
min = 12
max = 34
clear_max = 33.9
severity = "critical"

[[rule]]
sensor_type = "humidity"
unit = "percent"
min = 30
max = 70
clear_min = 32
clear_max = 68
keep_firing_for = "5s"

[[rule]]
sensor_type = "humidity"
unit = "percent"
min = 24
max = 78
severity = "critical"
for = "500ms"

[[rule]]
sensor_type = "pressure"
unit = "hPa"
min = 1000
max = 1030
for = "1s"

[[rule]]
sensor_type = "pressure"
unit = "hPa"
min = 992
max = 1037
severity = "critical"
keep_firing_for = "500ms"
"""
# How long to wait for a recovery.
PATIENCE_S = 600.0


class Processes:
    """Broker, application and producer, with all state and logs in one folder. ``with`` starts and stops them."""

    # In the order in which they are restarted: without a broker the others end.
    names: Sequence[str] = ("broker", "app", "producer")
    victims: Sequence[str] = names
    """Which of them are killed."""
    rate_per_s = 300
    late_ratio = 0.005

    def __init__(self, folder: Path, seed: int) -> None:
        kafka = Kafka(f"localhost:{find_free_port()}")
        self._prepare(folder, seed, kafka, App(kafka, READINGS_TOPIC, folder))
        port = kafka.bootstrap_servers.rpartition(":")[2]
        script = [sys.executable, "-m", "iot.broker", "--port", port, "--data-dir", str(folder / "broker")]
        self._commands["broker"] = script

    def _prepare(self, folder: Path, seed: int, kafka: Kafka, app: App) -> None:
        self.folder, self.kafka, self.app = folder, kafka, app
        self.rules_file = folder / "rules.toml"
        self.rules_file.write_text(RULES)
        app.command += ["--rules", str(self.rules_file)]
        producer = [sys.executable, str(ROOT / "iot_producer.py"), "--bootstrap-servers", kafka.bootstrap_servers]
        producer += ["--rate", str(self.rate_per_s), "--sensors", str(SENSORS), "--seed", str(seed)]
        producer += ["--malformed-ratio", "0.01", "--late-ratio", str(self.late_ratio)]
        self._commands = {"app": app.command, "producer": producer}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> Processes:
        try:
            for name in self.names:
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self.names):
            self.kill(name)

    def notify(self, file: str) -> None:
        """Let the application notify the receivers of a file with this content, from its next start on."""
        path = self.folder / "notify.toml"
        path.write_text(file)
        self.app.command += ["--notify", str(path)]

    def start(self, name: str) -> None:
        """Start a process; for the broker, wait until it is ready."""
        self._logs[name] = self.folder / f"{name}-{next(self._numbers)}.log"
        environment = os.environ | {"IOT_LOG_DIR": str(self.folder / "log"), "PYTHONPATH": str(ROOT)}
        with self._logs[name].open("wb") as log:
            self._processes[name] = spawn(
                self._commands[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        if name == "broker":
            self.wait_for("broker that is ready", lambda: "is ready on" in self.said("broker"))

    def kill(self, name: str) -> None:
        """Kill a process; its children end with it."""
        if process := self._processes.pop(name, None):
            process.kill()
            process.wait()

    def finish(self, name: str) -> int:
        """Stop a process with SIGINT; return its exit status."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGINT)
        return process.wait(PATIENCE_S)

    def said(self, name: str) -> str:
        """What a process has printed since its last start."""
        return self._logs[name].read_text(errors="replace")

    def pause_broker(self, for_s: float) -> None:
        """Suspend Kafka's process for this long."""
        pid = self._broker_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(for_s)
        finally:
            os.kill(pid, signal.SIGCONT)

    def _broker_pid(self) -> int:
        [pid] = re.findall(r"\(process (\d+),", self.said("broker"))
        return int(pid)

    def end_of_topic(self) -> int:
        """How many messages were written to the topic; -1 if Kafka does not answer."""
        try:
            return oracle.end_of(self.kafka.bootstrap_servers, READINGS_TOPIC)
        except KafkaError:
            return -1

    def wait_for_recovery(self) -> None:
        """Wait until the application is healthy and has processed readings that were sent after this call."""
        self.wait_for("broker that answers", lambda: self.end_of_topic() >= 0)
        least = self.end_of_topic() + self.rate_per_s
        self.wait_for("application that has caught up", lambda: self.app.messages() >= least)
        self.wait_for("application that is healthy", lambda: self.app.status("/healthz") == 200)

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true.

        Raises:
            TimeoutError: it is false for ``PATIENCE_S``, or a process has ended.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise TimeoutError(f"the {name} ended with status {process.returncode}: {self.said(name)[-500:]}")
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no {what} within {PATIENCE_S:.0f} s; healthz: {self.app.status('/healthz')}")
            time.sleep(0.1)
