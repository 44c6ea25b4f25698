"""The embedded Kafka: a real broker of one node (KRaft) on loopback, in a process of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from iot import settings
from iot.addresses import LOOPBACK
from iot.broker.data_folder import DataFolder
from iot.environment import jvm_options
from iot.java.class_archives import jvm_flags
from iot.java.jars import class_path, read_lock
from iot.java.runtime import java_executable
from iot.kafka import advertised
from iot.kafka.topics import TOPICS, ensure_topics, make_admin
from iot.processes import spawn
from iot.settings import Kafka, UserError, reason

PORT = 9092
# How long Kafka may take to start.
START_S = 60.0
# How long Kafka may take to stop before it is killed.
STOP_S = 30.0

JVM_FLAGS = ["-Xmx512m", "-Djava.awt.headless=true"]


def kafka_version() -> str:
    """Return the version of the embedded Kafka, from the lock file of the jars."""
    return next(jar.version for jar in read_lock()["kafka"] if jar.artifact.startswith("kafka_"))


def find_free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if not _why_taken("::1", port):
                return port


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


class Broker:
    """An embedded broker: ``with Broker(port, folder) as broker`` starts it, waits until it answers, and stops it."""

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
        self.port = port
        self.topics = tuple(topics)
        self.properties = dict(properties or {})
        self.kafka = Kafka(f"localhost:{port}")
        # The name localhost may be missing, or mean ::1 only.
        self._loopback = Kafka(f"127.0.0.1:{port}")
        self.warnings: list[str] = []
        self._folder = DataFolder(data_dir)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka.bootstrap_servers

    @property
    def data_dir(self) -> Path:
        return self._folder.path

    @property
    def log(self) -> Path:
        return self._folder.log

    @property
    def pid(self) -> int:
        """The process id of Kafka's JVM."""
        assert self._process, "not started"
        return self._process.pid

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, stop: threading.Event | None = None) -> bool:
        """Start Kafka; returns True once it answers and its topics exist, False if ``stop`` was set before.

        Raises:
            UserError: Java or the jars are missing, the port or the folder is in use, or Kafka ended.
        """
        stop = stop or threading.Event()
        java = [str(java_executable()), *jvm_options(), "-cp", class_path("kafka")]
        try:
            self._folder.lock(f"process {os.getpid()}, port {self.port}", stop)
            self._require_free_port()
            self._folder.prepare(java, self._server_properties())
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

    def require_alive(self) -> None:
        """Return if Kafka still runs.

        Raises:
            UserError: Kafka has ended. The text has the last error in its log.
        """
        assert self._process, "not started"
        status = self._process.poll()
        if status is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise UserError(f"the broker on port {self.port} {how}; {self.log} says: {self._folder.last_error()}")

    def stop(self) -> None:
        """Stop Kafka cleanly, or kill it after ``STOP_S``; does nothing if it does not run."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.unlock()

    def _require_free_port(self) -> None:
        """Return if the port is free on both loopback addresses: ``localhost`` may mean either of them."""
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

    def _listeners(self) -> dict[str, str]:
        """Kafka listens on both loopback addresses, and names one that every client on this machine reaches."""
        given = self.properties.keys() & {"listeners", "advertised.listeners", "listener.security.protocol.map"}
        listeners = {"PLAINTEXT": f"127.0.0.1:{self.port}"}
        if has_ipv6_loopback() and not given:
            # Two listeners cannot have the same name.
            listeners["PLAINTEXT_IPV6"] = f"[::1]:{self.port}"
        names = [*listeners, "CONTROLLER"]
        return {
            "listeners": ",".join(f"{name}://{place}" for name, place in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{self.port}" for name in listeners),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
        }

    def _server_properties(self) -> dict[str, str]:
        controller = f"127.0.0.1:{find_free_port()}"
        listeners = self._listeners()
        listeners["listeners"] += f",CONTROLLER://{controller}"
        return {
            **listeners,
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": controller,
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": "kafka",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker can restart only after its session has timed out, by default 9 s later.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "1000",
            # One node keeps one copy, and few partitions of Kafka's own topics start faster.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "3",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "3",
        } | self.properties

    def _launch(self, java: list[str]) -> None:
        command = [java[0], *JVM_FLAGS, *jvm_flags("kafka"), "-Dlog4j2.configurationFile=log4j2.properties", *java[1:]]
        with open(self.log, "ab") as log:
            self._process = spawn(
                [*command, "kafka.Kafka", "server.properties"],
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._folder.lock_fd],
            )

    def _await_ready(self, stop: threading.Event) -> bool:
        """Return True once Kafka answers and has the topics, False if ``stop`` was set before."""
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            self.require_alive()
            if time.monotonic() > deadline_s:
                why = advertised.outage(self._loopback)
                raise UserError(f"Kafka did not answer within {START_S:.0f} s{why and f' ({why})'}; see {self.log}")
            if stop.wait(0.05):
                return False
        self.warnings = ensure_topics(self._loopback, self.topics)
        return True

    def _answers(self) -> bool:
        """Whether the broker has joined its cluster; before that it cannot create topics."""
        from kafka.errors import KafkaError

        with contextlib.suppress(OSError, KafkaError):
            # kafka-python backs off after a refused connection, so the port is tried first.
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            with make_admin(self._loopback) as admin:
                return bool(admin.describe_cluster()["brokers"])
        return False
