"""The embedded Kafka: a real broker of one node (KRaft) on loopback, and a look into any Kafka's topics and groups.

``python -m iot.broker`` runs it until Ctrl-C; what it stored is there again at the next start. It stands in for
Kafka's shell scripts too: ``topics`` shows partitions, offsets and settings, ``groups`` who reads them and how far.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from rich.console import Console

from iot import cli, settings
from iot.broker.tables import groups_table, topics_table
from iot.java.class_archives import jvm_flags
from iot.java.jars import class_path, read_lock
from iot.java.runtime import java_executable
from iot.kafka.connect import require_broker
from iot.kafka.topics import TOPICS, describe_error, ensure_topics, make_admin
from iot.processes import StopSignal, spawn
from iot.settings import Kafka, UserError, reason

PORT = 9092
START_S = 60.0
STOP_S = 30.0
# Of a broker whose parent was killed, the last trace is gone after this.
LET_GO_S = 3.0

JVM_FLAGS = ["-Xmx512m", "-Dfile.encoding=UTF-8", "-Djava.awt.headless=true"]
# All that the broker says goes to its standard output, which is the log file: so do the last words of a dying JVM.
LOG4J = """
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


def kafka_version() -> str:
    """The version of the embedded Kafka, from the lock."""
    return next(jar.version for jar in read_lock()["kafka"] if jar.artifact.startswith("kafka_"))


def find_free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker:
    """A broker of our own: ``with Broker(port, folder) as broker`` starts it, waits until it answers, and stops it.

    ``data_dir`` holds all of it: Kafka's data, the log of the current run and of the one before, the configuration.
    """

    def __init__(
        self,
        port: int = PORT,
        data_dir: Path = settings.DATA_DIR / "broker",
        topics: Iterable[str] = TOPICS,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            port: where it listens, on loopback only.
            data_dir: made if missing.
            topics: which exist when it is ready.
            properties: of Kafka's server.properties, over ours. The listener PLAINTEXT on ``port`` must stay.
        """
        self.port = port
        self.data_dir = data_dir.absolute()
        self.topics = tuple(topics)
        self.properties = dict(properties or {})
        self.kafka = Kafka(f"localhost:{port}")
        self.log = self.data_dir / "broker.log"
        self.warnings: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka.bootstrap_servers

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
        """Start it; returns True once it answers and its topics exist, False (and stopped) if ``stop`` is set before.

        Raises:
            UserError: no Java or jars, the port is in use, the folder is unusable or another broker's, or Kafka ended.
        """
        stop = stop or threading.Event()
        java = [str(java_executable()), "-cp", class_path("kafka")]
        try:
            self._take_folder(stop)
            self._require_free_port()
            self._configure(java)
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

    def wait(self, timeout_s: float) -> int | None:
        """Wait for Kafka to end; its exit status (negative: the signal that killed it), None while it runs."""
        assert self._process, "not started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def require_alive(self) -> None:
        """Raises ``UserError``, with the last that the log says, when Kafka has ended by itself."""
        assert self._process, "not started"
        status = self._process.poll()
        if status is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise UserError(f"the broker on port {self.port} {how}; {self.log} ends: {_telling_line(self.log)}")

    def stop(self) -> None:
        """Stop it in an orderly way, or by force when that takes too long; nothing to do if it does not run."""
        if self._process:
            self._process.terminate()
            if self.wait(STOP_S) is None:
                self._process.kill()
                self._process.wait()
        if self._lock:
            self._lock.close()
            self._lock = None

    def _take_folder(self, stop: threading.Event) -> None:
        """Hold the folder's lock, which Kafka's process inherits: it is free when both have ended."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = (self.data_dir / "lock").open("a+", encoding="utf-8")
        deadline_s = time.monotonic() + LET_GO_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline_s and not stop.wait(0.1):
                    continue
            self._lock.seek(0)
            raise UserError(
                f"another broker ({self._lock.read().strip()}) uses the data folder {self.data_dir}; "
                "use that one, stop it, or choose another folder with --data-dir"
            )
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}, port {self.port}")
        self._lock.flush()

    def _require_free_port(self) -> None:
        with socket.socket() as probe:
            # As Kafka does: connections of an earlier run that are still closing do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise UserError(
                    f"port {self.port} cannot be had: {reason(error)}; see who has it with `lsof -i :{self.port}`, "
                    "or choose another with --port"
                ) from error

    def _configure(self, java: list[str]) -> None:
        """Write the configuration, and format a new folder. Paths are relative to it: any name of a folder is good."""
        controller = f"127.0.0.1:{find_free_port()}"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://localhost:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": controller,
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": "kafka",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker may come back when its session is over, which takes 9 s unless told.
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
        (self.data_dir / "log4j2.properties").write_text(LOG4J)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        if not (self.data_dir / "kafka").exists():
            self._format(java, properties)
        self._write_properties(properties)

    def _format(self, java: list[str], properties: dict[str, str]) -> None:
        """Format aside, then rename: a folder is formatted whole or not at all."""
        new = self.data_dir / "kafka.new"
        shutil.rmtree(new, ignore_errors=True)
        self._write_properties(properties | {"log.dirs": new.name})
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # A JVM this short-lived starts faster without its best compiler and collector.
        command = [*java[:1], "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *jvm_flags("kafka"), *java[1:]]
        command += ["kafka.tools.StorageTool"]
        command += ["format", "--standalone", "--config", "server.properties", f"--cluster-id={cluster_id}"]
        with open(self.log, "wb") as log:
            process = spawn(command, cwd=self.data_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if process.wait():
                raise UserError(f"cannot format {self.data_dir}; {self.log} ends: {_telling_line(self.log)}")
        new.rename(self.data_dir / "kafka")

    def _write_properties(self, properties: dict[str, str]) -> None:
        lines = [f"{key}={value}\n" for key, value in properties.items()]
        (self.data_dir / "server.properties").write_text("".join(lines))

    def _launch(self, java: list[str]) -> None:
        assert self._lock
        command = [java[0], *JVM_FLAGS, *jvm_flags("kafka"), "-Dlog4j2.configurationFile=log4j2.properties", *java[1:]]
        with open(self.log, "ab") as log:
            self._process = spawn(
                [*command, "kafka.Kafka", "server.properties"],
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._lock.fileno()],
            )

    def _await_ready(self, stop: threading.Event) -> bool:
        """True once Kafka answers and has the topics, False if ``stop`` is set before."""
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            self.require_alive()
            if time.monotonic() > deadline_s:
                raise UserError(f"Kafka did not answer within {START_S:.0f} s; {self.log} says why")
            if stop.wait(0.05):
                return False
        self.warnings = ensure_topics(self.kafka, self.topics)
        return True

    def _answers(self) -> bool:
        """Whether the broker has joined its cluster; before that it can't make topics."""
        from kafka.errors import KafkaError

        with contextlib.suppress(OSError, KafkaError):
            # kafka-python backs off after a refused connection, so the port is tried first.
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            with make_admin(self.kafka) as admin:
                return bool(admin.describe_cluster()["brokers"])
        return False


def _telling_line(log: Path) -> str:
    """The last error in a log, as one line and without its stack trace; the last line where there is none."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError as error:
        return reason(error)
    errors = [number for number, line in enumerate(lines) if " ERROR " in line or " FATAL " in line]
    at = errors[-1] if errors else len(lines) - 1
    # The exception is on the line after.
    told = lines[at : at + 1] + [line for line in lines[at + 1 : at + 2] if not line.startswith("[")]
    return " ".join(" ".join(told).split())[:400] or "nothing"


# The command ---------------------------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m iot.broker",
        description="Run a real single-node Kafka on loopback until Ctrl-C, or look at topics and groups of any Kafka.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=cli.port_number, default=PORT, help="where it listens, on loopback only")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", default=settings.DATA_DIR / "broker", help="its data, kept between runs"
    )
    commands = parser.add_subparsers(dest="command", metavar="topics | groups")
    shared = cli.parser(None, topic=False)
    for name, about in {"topics": "partitions, offsets and settings", "groups": "members, offsets and lag"}.items():
        commands.add_parser(name, parents=[shared], add_help=False, help=about, description=f"Show {about}.")
    return parser.parse_args(argv)


def run_broker(port: int, data_dir: Path) -> int:
    """Run a broker until a signal asks to stop."""
    begun_s = time.monotonic()
    # Fetched before signals are taken over: Ctrl-C ends that at once.
    class_path("kafka")
    stop = StopSignal().install().event
    broker = Broker(port, data_dir)
    try:
        if not broker.start(stop):
            print("Stopped before Kafka was ready.")
            return 0
        for warning in broker.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(
            f"Kafka {kafka_version()} is ready on {broker.bootstrap_servers} "
            f"(process {broker.pid}, after {time.monotonic() - begun_s:.1f} s); Ctrl-C stops it\n"
            f"  data  {broker.data_dir}\n  log   {broker.log}",
            flush=True,
        )
        while not stop.wait(0.2):
            broker.require_alive()
    finally:
        broker.stop()
    print(f"Kafka stopped after {time.monotonic() - begun_s:.0f} s; its data stays in {broker.data_dir}")
    return 0


def show(command: str, kafka: Kafka) -> int:
    """Print the topics or the groups of a Kafka."""
    from kafka.errors import KafkaError

    require_broker(kafka)
    try:
        table = topics_table(kafka) if command == "topics" else groups_table(kafka)
    except KafkaError as error:
        raise UserError(
            f"Kafka at {kafka.bootstrap_servers} does not tell its {command}: {describe_error(error)}"
        ) from error
    if not table.row_count:
        print(f"No {command} at {kafka.bootstrap_servers}.")
        return 0
    # Piped into a file there is no edge to fold at.
    Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False).print(table)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.command:
        return cli.exit_status(lambda: show(args.command, cli.kafka_from(args)))
    return cli.exit_status(lambda: run_broker(args.port, args.data_dir))
