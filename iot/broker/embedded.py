"""What a single broker and a cluster have in common: they start in a data folder, answer, and stop."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from iot.broker.data_folder import DataFolder
from iot.broker.node import Node, java_command
from iot.java.jars import read_lock
from iot.kafka import advertised
from iot.kafka.topics import ensure_topics, make_admin
from iot.settings import Kafka, UserError, reason

PORT = 9092
# How long Kafka may take to stop before it is killed.
STOP_S = 30.0

Self = TypeVar("Self", bound="Embedded")


def kafka_version() -> str:
    """Return the version of the embedded Kafka, from the lock file of the jars."""
    return next(jar.version for jar in read_lock()["kafka"] if jar.artifact.startswith("kafka_"))


class Embedded(ABC):
    """Embedded Kafka: ``with`` starts it, waits until it answers, and stops it.

    ``nodes`` are its processes, ``warnings`` is what ``topics.ensure_topics`` returned. ``partitions`` and
    ``replication_factor`` of the topics can be set before the start, as ``ensure_topics`` takes them.
    """

    # How long Kafka may take to start.
    start_s: float

    def __init__(self, data_dir: Path, topics: Iterable[str], properties: Mapping[str, str] | None) -> None:
        self.topics = tuple(topics)
        self.properties = dict(properties or {})
        self.nodes: list[Node] = []
        self.warnings: list[str] = []
        self.partitions: dict[str, int | None] = {}
        self.replication_factor: int | None = None
        self._folder = DataFolder(data_dir)

    @property
    def kafka(self) -> Kafka:
        return Kafka(",".join(node.address for node in self.nodes))

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka.bootstrap_servers

    @property
    def data_dir(self) -> Path:
        return self._folder.path

    def __enter__(self: Self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, stop: threading.Event | None = None) -> bool:
        """Start Kafka; returns True once it answers and its topics exist, False if ``stop`` was set before.

        Raises:
            UserError: Java or the jars are missing, a port or the folder is in use, or Kafka ended.
        """
        stop = stop or threading.Event()
        java = java_command()
        try:
            self._folder.lock(f"process {os.getpid()}, {self._ports_text()}", stop)
            self._launch(java)
            ready = self._await_ready(stop)
        except OSError as error:
            self.stop()
            raise UserError(
                f"cannot use the data folder {self.data_dir}: {reason(error)}; choose another with --data-dir"
            ) from error
        except BaseException:
            self.stop()
            raise
        if not ready:
            self.stop()
        return ready

    def stop(self) -> None:
        """Stop Kafka cleanly, or kill it after ``STOP_S``; does nothing if it does not run."""
        for node in self.nodes:
            node.terminate()
        deadline_s = time.monotonic() + self._patience_s()
        for node in self.nodes:
            node.end(max(0.0, deadline_s - time.monotonic()))
        self._folder.unlock()

    def require_alive(self) -> None:
        """Return if every node runs.

        Raises:
            UserError: one has ended. The text has the last error in its log.
        """
        for node in self.nodes:
            if how := node.how_ended():
                raise UserError(f"the broker on port {node.port} {how}; {node.last_error()}")

    @abstractmethod
    def watch(self, now_s: float) -> list[str]:
        """Check that the processes run. Call this several times a second.

        Returns:
            Lines to print.

        Raises:
            UserError: one has ended, and is not started again.
        """

    @abstractmethod
    def _launch(self, java: list[str]) -> None:
        """Check the ports and the locked folder, write the configuration and start the processes."""

    @abstractmethod
    def _ports_text(self) -> str:
        """Return the ports, for the owner of the folder's lock."""

    def _patience_s(self) -> float:
        """Return how long the processes may take to stop."""
        return STOP_S

    def _await_ready(self, stop: threading.Event) -> bool:
        """Return True once Kafka answers and has the topics, False if ``stop`` was set before."""
        # The name localhost may be missing, or mean ::1 only.
        loopback = Kafka(",".join(f"127.0.0.1:{node.port}" for node in self.nodes))
        deadline_s = time.monotonic() + self.start_s
        while not self._answers(loopback):
            self.require_alive()
            if time.monotonic() > deadline_s:
                why = advertised.outage(loopback)
                logs = ", ".join(str(node.log) for node in self.nodes)
                raise UserError(f"Kafka did not answer within {self.start_s:.0f} s{why and f' ({why})'}; see {logs}")
            if stop.wait(0.05):
                return False
        self.warnings = ensure_topics(loopback, self.topics, self.partitions, self.replication_factor)
        return True

    def _answers(self, loopback: Kafka) -> bool:
        """Whether every node has joined the cluster; before that it cannot create topics."""
        from kafka.errors import KafkaError

        # kafka-python backs off after a refused connection, so the ports are tried first.
        if not all(node.accepts_connections() for node in self.nodes):
            return False
        with contextlib.suppress(OSError, KafkaError), make_admin(loopback) as admin:
            return len(admin.describe_cluster()["brokers"]) >= len(self.nodes)
        return False
