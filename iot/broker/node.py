"""One process of Kafka on loopback: its ports, its configuration, its start and its end.

``Broker`` runs one, ``Cluster`` several.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from iot.addresses import LOOPBACK
from iot.broker.data_folder import DataFolder
from iot.environment import jvm_options
from iot.java.class_archives import jvm_flags
from iot.java.jars import class_path
from iot.java.runtime import java_executable
from iot.processes import how_ended, spawn
from iot.settings import UserError, reason

# Maximum number of copies of a partition, if the cluster has so many nodes.
COPIES = 3


# Below the ports of outgoing connections, which may take any of theirs at any time.
PORTS = range(20_000, 30_000)
_given: set[int] = set()


def find_free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago, and another one at each call."""
    while True:
        # Not the seeded generator: programs with the same seed would all try the same ports.
        port = random.SystemRandom().choice(PORTS)
        if port not in _given and is_free(port):
            # Those that were given long ago are free again.
            if len(_given) > len(PORTS) // 2:
                _given.clear()
            _given.add(port)
            return port


def is_free(port: int) -> bool:
    """Whether Kafka can listen on a port, on every loopback address that this machine has."""
    return not any(_why_taken(host, port) for host in LOOPBACK)


def has_ipv6_loopback() -> bool:
    """Whether this machine has the address ::1. Many containers do not."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _why_taken(host: str, port: int) -> OSError | None:
    """Return why Kafka cannot listen at an address; None if it can, or if this machine does not have the address."""
    with contextlib.ExitStack() as stack:
        try:
            probe = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            # Kafka sets this option too: connections of an earlier run that are still closing do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        except OSError as error:
            return None if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) else error
    # macOS lets a program listen on one address although another listens on all of them.
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return None


def java_command() -> list[str]:
    """Return the command, with its class path, that runs a class of Kafka.

    Raises:
        UserError: Java or the jars are missing.
    """
    return [str(java_executable()), *jvm_options(), "-cp", class_path("kafka")]


def replication(nodes: int) -> dict[str, str]:
    """Return the properties that keep copies of each partition on several nodes.

    With three nodes or more a write is acknowledged once two of three copies have it. So one node may die: nothing is
    lost, and writing goes on.
    """
    copies = min(COPIES, nodes)
    in_sync = max(1, copies - 1)
    return {
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": str(in_sync),
    }


class Node:
    """One process of Kafka, which listens on a port of loopback and keeps its data in a folder."""

    def __init__(self, number: int, port: int, folder: DataFolder, heap: str) -> None:
        """
        Args:
            number: the id of the node in its cluster, from 1.
            heap: the maximum size of the JVM's heap, as Java takes it, such as 512m.
        """
        self.number, self.port = number, port
        self._folder, self._heap = folder, heap
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    @property
    def log(self) -> Path:
        return self._folder.log

    @property
    def pid(self) -> int:
        """The process id of the JVM. It is another one after each start."""
        assert self._process, "not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def require_free_port(self) -> None:
        """Return if the port is free on both loopback addresses: ``localhost`` may mean either of them.

        Raises:
            UserError: it is not.
        """
        for host in LOOPBACK:
            error = _why_taken(host, self.port)
            if error is None:
                continue
            if error.errno == errno.EADDRINUSE:
                where = "" if host == LOOPBACK[0] else f" on [{host}]"
                raise UserError(
                    f"port {self.port} is already in use{where}: stop the other broker (`lsof -i :{self.port}` shows "
                    "its process), or choose another port with --port"
                )
            raise UserError(
                f"cannot listen on port {self.port}: {reason(error)}; choose another port with --port"
            ) from error

    def prepare(
        self, java: list[str], controller: str, cluster: Mapping[str, str], cluster_id: str | None = None
    ) -> None:
        """Write the configuration, and format the folder if it is new.

        Args:
            java: as ``java_command`` returns it.
            controller: the address of the node's own controller; empty for a node without one.
            cluster: properties of the cluster; they override those of the node.
            cluster_id: None for a node that is its own cluster.

        Raises:
            OSError: the folder cannot be used.
            UserError: Kafka cannot format the folder.
        """
        self._folder.path.mkdir(exist_ok=True)
        self._folder.prepare(java, self.server_properties(controller, cluster), cluster_id)

    def server_properties(self, controller: str, cluster: Mapping[str, str]) -> dict[str, str]:
        """Return the content of Kafka's server.properties; the arguments are those of ``prepare``."""
        listeners = self._listeners(cluster)
        if controller:
            listeners["listeners"] += f",CONTROLLER://{controller}"
        return {
            **listeners,
            "process.roles": "broker,controller" if controller else "broker",
            "node.id": str(self.number),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": "kafka",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker can restart only after its session has timed out, by default 9 s later.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "1000",
            # Few partitions of Kafka's own topics start faster.
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.num.partitions": "3",
            "share.coordinator.state.topic.num.partitions": "3",
        } | dict(cluster)

    def launch(self, java: list[str], lock_fd: int) -> None:
        """Start the JVM, or start it again.

        Args:
            java: as ``java_command`` returns it.
            lock_fd: the lock of the data folder, which the JVM inherits.

        Raises:
            OSError: the JVM cannot be started.
        """
        # Several JVMs that end at the same time must not write the same archive of classes.
        archive = jvm_flags("kafka", write=self.number == 1)
        command = [java[0], f"-Xmx{self._heap}", "-Djava.awt.headless=true", *archive]
        command.append("-Dlog4j2.configurationFile=log4j2.properties")
        with open(self.log, "ab") as log:
            self._process = spawn(
                [*command, *java[1:], "kafka.Kafka", "server.properties"],
                cwd=self._folder.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock_fd],
            )

    def how_ended(self) -> str:
        """Return how the JVM ended, as the end of a sentence about it; empty if it runs."""
        assert self._process, "not started"
        status = self._process.poll()
        return "" if status is None else how_ended(status)

    def last_error(self) -> str:
        """Return the last error in the log, and where the log is."""
        return f"{self.log} says: {self._folder.last_error()}"

    def accepts_connections(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def terminate(self) -> None:
        """Ask Kafka to stop cleanly; does nothing if it does not run."""
        if self._process:
            self._process.terminate()

    def end(self, wait_s: float) -> None:
        """Wait until the JVM has ended, and kill it after ``wait_s``; does nothing if it does not run."""
        if self._process:
            try:
                self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _listeners(self, given: Mapping[str, str]) -> dict[str, str]:
        """Kafka listens on both loopback addresses, and names one that every client on this machine reaches."""
        listeners = {"PLAINTEXT": f"127.0.0.1:{self.port}"}
        if has_ipv6_loopback() and not given.keys() & {
            "listeners",
            "advertised.listeners",
            "listener.security.protocol.map",
        }:
            # Two listeners cannot have the same name.
            listeners["PLAINTEXT_IPV6"] = f"[::1]:{self.port}"
        names = [*listeners, "CONTROLLER"]
        return {
            "listeners": ",".join(f"{name}://{place}" for name, place in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{self.port}" for name in listeners),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
        }
