"""A real Kafka cluster of several nodes on loopback, each in a process of its own.

The nodes are brokers, and an odd number of them are controllers too, so that a majority of controllers is left when one
dies. Who the controllers are is written in the configuration of every node, so all ports may change between two runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from iot import cli, settings
from iot.broker.data_folder import DataFolder
from iot.broker.embedded import PORT, STOP_S, Embedded
from iot.broker.node import Node, find_free_port, is_free, replication
from iot.kafka.topics import TOPICS
from iot.restarts import Restarts
from iot.settings import reason

MAX_NODES = 9
MAX_CONTROLLERS = 5
# Measured with three nodes on 2 cores: a node has 200 MB when it is idle, and 370 MB at 20,000 readings a second.
HEAP = "256m"
# The log cleaner allocates its buffer at the start. Kafka's default is 128 MB, which is for large compacted topics.
CLEANER_BUFFER = str(16 * 1024 * 1024)
# How many ports above the first one to try.
PORTS_TRIED = 200
# How long nodes may take to stop when no majority of controllers is left: Kafka would wait for one.
NO_MAJORITY_STOP_S = 5.0
# How soon the other controllers elect a new one: half of Kafka's defaults. Until then no partition of a node that died
# with the controller gets a new leader.
ELECTION = {
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.election.backoff.max.ms": "500",
}


def data_dir_of(nodes: int) -> Path:
    """Return the folder that a cluster of this size, or a single broker, has by default."""
    return settings.DATA_DIR / ("broker" if nodes == 1 else f"broker-{nodes}-nodes")


def controllers_of(nodes: int) -> int:
    """Return how many nodes are controllers: an odd number, because an even one survives no more failures."""
    return min(MAX_CONTROLLERS, nodes - 1 + nodes % 2)


def number_of_nodes(text: str) -> int:
    """argparse type: how many nodes."""
    nodes = cli.positive_int(text)
    if nodes > MAX_NODES:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MAX_NODES}")
    return nodes


def choose_ports(first: int, count: int) -> list[int]:
    """Return ``first`` and the free ports above it, or other free ones where too few are left; ``count`` in all."""
    ports = [first]
    for port in range(first + 1, min(first + PORTS_TRIED, 65_536)):
        if len(ports) < count and is_free(port):
            ports.append(port)
    while len(ports) < count:
        if (port := find_free_port()) not in ports:
            ports.append(port)
    return ports


class Cluster(Embedded):
    """A cluster: ``with Cluster(3, port, folder) as cluster`` starts it, waits until all nodes answer, and stops it.

    ``cluster.nodes[0].pid`` is the process of the first node. A node that ends stays so until ``watch`` is called.
    """

    start_s = 120.0

    def __init__(
        self,
        nodes: int = 3,
        port: int = PORT,
        data_dir: Path | None = None,
        topics: Iterable[str] = TOPICS,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            nodes: how many, from 2 to ``MAX_NODES``.
            port: the port of the first node on loopback. The others take the free ports above it.
            data_dir: the folder for the data, configuration and logs of all nodes; created if missing.
            topics: the topics that exist once the cluster is ready.
            properties: properties of each node's server.properties that override ours.
        """
        super().__init__(data_dir or data_dir_of(nodes), topics, properties)
        controllers = controllers_of(nodes)
        ports = choose_ports(port, nodes + controllers)
        self.nodes = [
            Node(number, ports[number - 1], DataFolder(self.data_dir / f"node-{number}"), HEAP)
            for number in range(1, nodes + 1)
        ]
        self._controllers = [f"127.0.0.1:{each}" for each in ports[nodes:]]
        self._restarts: dict[int, Restarts] = {}
        # The numbers of nodes that were started again and do not answer yet.
        self._starting: set[int] = set()
        self._java: list[str] = []

    def watch(self, now_s: float) -> list[str]:
        """Start nodes that have ended again, each after its pause. Call this several times a second.

        Returns:
            One line for each node that has ended, and for each one that is back.
        """
        lines = []
        for node in self.nodes:
            restarts = self._restarts[node.number]
            if how := node.how_ended():
                if pause_s := restarts.ended(now_s):
                    why = "" if how.startswith("was killed") else f" ({node.last_error()})"
                    lines.append(
                        f"node {node.number} ({node.address}) {how}{why}: starting it again in {pause_s:.0f} s"
                    )
                elif restarts.is_due(now_s):
                    self._starting.add(node.number)
                    try:
                        node.launch(self._java, self._folder.lock_fd)
                    except OSError as error:
                        lines.append(f"node {node.number} ({node.address}) cannot be started: {reason(error)}")
            elif node.number in self._starting and node.accepts_connections():
                self._starting.remove(node.number)
                lines.append(f"node {node.number} ({node.address}) is back, process {node.pid}")
        return lines

    def _ports_text(self) -> str:
        return f"ports {', '.join(str(node.port) for node in self.nodes)}"

    def _launch(self, java: list[str]) -> None:
        self._folder.require_nodes(len(self.nodes))
        for node in self.nodes:
            node.require_free_port()
        cluster_id = self._folder.cluster_id(len(self.nodes))
        voters = [f"{number}@{place}" for number, place in enumerate(self._controllers, start=1)]
        cluster = {
            "controller.quorum.voters": ",".join(voters),
            "log.cleaner.dedupe.buffer.size": CLEANER_BUFFER,
            **ELECTION,
            **replication(len(self.nodes)),
        } | self.properties

        def prepare(node: Node) -> None:
            controller = self._controllers[node.number - 1] if node.number <= len(self._controllers) else ""
            node.prepare(java, controller, cluster, cluster_id)

        # Formatting takes a JVM of its own for each node.
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(prepare, self.nodes))
        self._java = java
        for node in self.nodes:
            node.launch(java, self._folder.lock_fd)
        self._started(time.monotonic())

    def _started(self, now_s: float) -> None:
        self._restarts = {node.number: Restarts(now_s) for node in self.nodes}

    def _patience_s(self) -> float:
        controllers = self.nodes[: len(self._controllers)]
        has_majority = sum(node.is_running for node in controllers) > len(controllers) / 2
        return STOP_S if has_majority else NO_MAJORITY_STOP_S
