"""Broker, application and producer as processes that a test can kill and restart."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kafka.errors import KafkaError

from iot.broker.broker import find_free_port
from iot.processes import spawn
from iot.settings import READINGS_TOPIC, Kafka
from tests.support import oracle
from tests.support.app import App
from tests.support.scripts import ROOT

# In the order in which they are restarted: without a broker the others end.
NAMES = ("broker", "app", "producer")
RATE_PER_S = 300
SENSORS = 60
# How long to wait for a recovery.
PATIENCE_S = 600.0


class Processes:
    """Broker, application and producer, with all state and logs in one folder. ``with`` starts and stops them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.kafka = Kafka(f"localhost:{find_free_port()}")
        self.app = App(self.kafka, READINGS_TOPIC, folder)
        port = self.kafka.bootstrap_servers.rpartition(":")[2]
        script, producer = [sys.executable, "-m", "iot.broker"], [sys.executable, str(ROOT / "iot_producer.py")]
        producer += ["--bootstrap-servers", self.kafka.bootstrap_servers, "--rate", str(RATE_PER_S)]
        producer += ["--sensors", str(SENSORS), "--malformed-ratio", "0.01", "--late-ratio", "0.005"]
        self._commands = {
            "broker": [*script, "--port", port, "--data-dir", str(folder / "broker")],
            "app": self.app.command,
            "producer": [*producer, "--seed", str(seed)],
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> Processes:
        try:
            for name in NAMES:
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(NAMES):
            self.kill(name)

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
        [pid] = re.findall(r"\(process (\d+),", self.said("broker"))
        os.kill(int(pid), signal.SIGSTOP)
        try:
            time.sleep(for_s)
        finally:
            os.kill(int(pid), signal.SIGCONT)

    def end_of_topic(self) -> int:
        """How many messages were written to the topic; -1 if Kafka does not answer."""
        try:
            return oracle.end_of(self.kafka.bootstrap_servers, READINGS_TOPIC)
        except KafkaError:
            return -1

    def wait_for_recovery(self) -> None:
        """Wait until the application is healthy and has processed readings that were sent after this call."""
        self.wait_for("broker that answers", lambda: self.end_of_topic() >= 0)
        least = self.end_of_topic() + RATE_PER_S
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
