"""The embedded Kafka: a real broker of one node (KRaft) on loopback, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from iot import settings
from iot.broker.embedded import PORT, Embedded, kafka_version
from iot.broker.node import Node, find_free_port, has_ipv6_loopback, replication
from iot.kafka.topics import TOPICS

__all__ = ["PORT", "Broker", "find_free_port", "has_ipv6_loopback", "kafka_version"]

HEAP = "512m"


class Broker(Embedded):
    """An embedded broker: ``with Broker(port, folder) as broker`` starts it, waits until it answers, and stops it."""

    start_s = 60.0

    def __init__(
        self,
        port: int = PORT,
        data_dir: Path = settings.DATA_DIR / "broker",
        topics: Iterable[str] = TOPICS,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            port: the port on loopback.
            data_dir: the folder for Kafka's data, configuration and logs; created if missing.
            topics: the topics that exist once the broker is ready.
            properties: properties of Kafka's server.properties that override ours, except the PLAINTEXT listener.
        """
        super().__init__(data_dir, topics, properties)
        self.port = port
        self._node = Node(1, port, self._folder, HEAP)
        self.nodes = [self._node]

    @property
    def log(self) -> Path:
        return self._node.log

    @property
    def pid(self) -> int:
        """The process id of Kafka's JVM."""
        return self._node.pid

    def watch(self, now_s: float) -> list[str]:
        self.require_alive()
        return []

    def _ports_text(self) -> str:
        return f"port {self.port}"

    def _launch(self, java: list[str]) -> None:
        self._folder.require_nodes(1)
        self._node.require_free_port()
        controller = f"127.0.0.1:{find_free_port()}"
        cluster = {"controller.quorum.bootstrap.servers": controller, **replication(1)} | self.properties
        self._node.prepare(java, controller, cluster)
        self._node.launch(java, self._folder.lock_fd)
