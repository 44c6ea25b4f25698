"""A cluster as processes that a test can kill and restart."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

from iot.broker.broker import find_free_port
from iot.broker.cluster import Cluster
from iot.cluster.postgres import PostgresServer, find_binaries
from iot.cluster.spark import SparkCluster
from iot.settings import READINGS_TOPIC, UserError
from tests.support.app import App
from tests.support.postgres import OPTIONS
from tests.support.processes import PATIENCE_S, Processes
from tests.support.scripts import executors


class ClusterProcesses(Processes):
    """Kafka nodes, Spark, PostgreSQL, application and producer. ``with`` starts and stops them.

    All state and logs are in one folder, but for PostgreSQL's.
    """

    names = ("Kafka node", "PostgreSQL", "worker", "app", "producer")
    victims = ("Kafka node", "PostgreSQL", "worker", "executor", "app")
    rate_per_s = 1_000
    late_ratio = 0.01

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._nodes = Cluster(3, find_free_port(), folder / "kafka")
        self._spark = SparkCluster(folder / "spark", port=find_free_port(), workers=2, cores=4)
        binaries = find_binaries()
        assert binaries, "PostgreSQL is not installed; on Debian and Ubuntu: apt-get install postgresql"
        # Its user may not enter pytest's own temporary folders.
        self._data = Path(tempfile.mkdtemp(prefix="iot-postgres-data-"))
        # A killed server must find what it has committed, so fsync stays on.
        self._postgres = PostgresServer(binaries, self._data, {"shared_buffers": OPTIONS["shared_buffers"]})
        self._killed: dict[str, str] = {}
        flags = ["--master", self._spark.url, "--database-url", self._postgres.url]
        self._prepare(folder, seed, self._nodes.kafka, App(self._nodes.kafka, READINGS_TOPIC, folder, *flags))

    def __enter__(self) -> ClusterProcesses:
        try:
            self._nodes.start()
            self._spark.start(threading.Event())
            self._postgres.start(threading.Event())
            for name in ("app", "producer"):
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("producer", "app"):
            self.kill(name)
        self._spark.stop()
        self._postgres.close()
        self._nodes.stop()
        shutil.rmtree(self._data)

    def kill(self, name: str) -> None:
        """Kill a process, or one of those with that name."""
        if name == "Kafka node":
            os.kill(self._broker_pid(), signal.SIGKILL)
        elif name == "PostgreSQL":
            os.kill(self._postgres.pid, signal.SIGKILL)
        elif name == "worker":
            self._killed[name] = self._chance.choice(self._spark.workers)
            os.kill(self._spark.pid(self._killed[name]), signal.SIGKILL)
        elif name == "executor":
            # There may be none, while the application starts.
            for pid in executors(map(self._spark.pid, self._spark.workers))[:1]:
                os.kill(pid, signal.SIGKILL)
        else:
            super().kill(name)

    def start(self, name: str) -> None:
        """Start what was killed; the master replaces executors by itself."""
        if name == "Kafka node":
            self._await_nodes()
        elif name == "PostgreSQL":
            self._start_postgres()
        elif name == "worker":
            self._spark.launch(self._killed[name])
        elif name != "executor":
            super().start(name)

    def _broker_pid(self) -> int:
        return self._chance.choice(self._nodes.nodes).pid

    def _await_nodes(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        lines: list[str] = []
        while not any(" is back" in line for line in lines):
            assert time.monotonic() < deadline_s, lines
            lines += self._nodes.watch(time.monotonic())
            time.sleep(0.1)

    def _start_postgres(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._postgres.start(threading.Event())
                return
            except UserError:
                # Processes of the killed server may still be ending.
                if time.monotonic() > deadline_s:
                    raise
