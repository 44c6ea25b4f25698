"""``python -m iot.cluster``: everything on a small cluster on this machine, until Ctrl-C.

Several Kafka nodes, a Spark master and workers, PostgreSQL where it is installed, the dashboard and simulated sensors
run as on several machines, each in a process of its own, and reach each other on loopback only. What ends is started
again, so try it: kill any of the processes that are listed.
"""

from __future__ import annotations

from iot.processes import stop_event

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Protocol

from iot import cli, settings
from iot.broker.cluster import Cluster, number_of_nodes
from iot.broker.embedded import PORT as KAFKA_PORT
from iot.cluster.postgres import PostgresServer, find_binaries
from iot.cluster.spark import PORT as MASTER_PORT
from iot.cluster.spark import SparkCluster
from iot.processes import Stopped, end, how_ended, spawn
from iot.restarts import Restarts
from iot.settings import READINGS_TOPIC, UserError
from iot.web.flags import PORT as PAGE_PORT

ROOT = Path(__file__).parents[2]
# How often to look whether everything still runs.
LOOK_EVERY_S = 0.2
# How long a script may take to stop. On a loaded machine, what it waits for in turn adds up.
SCRIPT_STOP_S = 60.0
# PostgreSQL refuses to run as root, and another user cannot enter root's folders.
POSTGRES_OF_ROOT = Path("/var/tmp")


class Watched(Protocol):
    """A part that is started again when it ends."""

    def watch(self, now_s: float) -> list[str]:
        """Start it again, if it has ended; return lines to print."""


class Script:
    """One of the scripts, as a child that is started again when it was killed."""

    def __init__(self, name: str, command: list[str], output: Path | Callable[[str], None]) -> None:
        """
        Args:
            output: a log, or what prints its lines.
        """
        self._name, self._command, self._output = name, [sys.executable, *command], output
        self._relaying: threading.Thread | None = None
        self._process = self._launch()
        self._restarts = Restarts(time.monotonic())

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch(self, now_s: float) -> list[str]:
        """Start it again, if it was killed.

        Returns:
            A line for each end and each start.

        Raises:
            UserError: it ended by itself, so a new start would end in the same way.
        """
        if (status := self._process.poll()) is None:
            return []
        if status >= 0:
            where = f"see {self._output}" if isinstance(self._output, Path) else "its error is above"
            raise UserError(f"{self._name} {how_ended(status)}; {where}")
        if pause_s := self._restarts.ended(now_s):
            return [f"{self._name} {how_ended(status)}: starting it again in {pause_s:.0f} s"]
        if not self._restarts.is_due(now_s):
            return []
        self._process = self._launch()
        return [f"{self._name} was started again, process {self.pid}"]

    def stop(self) -> None:
        """Stop it as Ctrl-C does."""
        if not end(self._process, signal.SIGINT, SCRIPT_STOP_S):
            print(f"{self._name} did not stop within {SCRIPT_STOP_S:.0f} s, and was killed", flush=True)
        if self._relaying:
            self._relaying.join(1)

    def _launch(self) -> subprocess.Popen[bytes]:
        if isinstance(self._output, Path):
            with self._output.open("ab") as log:
                return spawn(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        process = spawn(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._relaying = threading.Thread(target=self._relay, args=(process.stdout, self._output), daemon=True)
        self._relaying.start()
        return process

    def _relay(self, pipe: IO[bytes], say: Callable[[str], None]) -> None:
        for line in pipe:
            # It has times of its own.
            say(re.sub(r"^ *[\d.]+ s  ", "", line.decode(errors="replace").rstrip()))


def run(args: argparse.Namespace, stop: threading.Event) -> int:
    """Start everything, and watch it until told to stop.

    Raises:
        UserError: something cannot be started, or has ended in a way that a new start does not change.
    """
    begun_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun_s:6.1f} s  {text}", flush=True)

    with ExitStack() as stack:
        kafka = Cluster(args.nodes, args.kafka_port, args.data_dir / f"kafka-{args.nodes}-nodes")
        kafka.partitions = {READINGS_TOPIC: args.partitions}
        spark = SparkCluster(
            args.data_dir / "spark", port=args.master_port, workers=args.workers, cores=args.cores, memory=args.memory
        )
        postgres = make_postgres(args.data_dir)
        stack.callback(kafka.stop)
        stack.callback(spark.stop)
        if postgres:
            stack.callback(postgres.close)
        start_all([kafka.start, spark.start, *([postgres.start] if postgres else [])], stop)
        for node in kafka.nodes:
            say(f"Kafka    node {node.number} at {node.address}, process {node.pid}, log {node.log}")
        say(f"Spark    master at {spark.url}, process {spark.pid('master')}, page {spark.ui}")
        for name in spark.workers:
            say(f"Spark    {name} with {args.cores} slots, process {spark.pid(name)}, log {spark.log(name)}")
        if postgres:
            say(f"database PostgreSQL, process {postgres.pid}, log {postgres.log}")
        else:
            say("database SQLite, because PostgreSQL is not installed (Debian, Ubuntu: apt-get install postgresql)")
        url = postgres.url if postgres else f"sqlite:///{(args.data_dir / 'results.db').absolute()}"
        app = Script("the application", app_command(args, kafka.bootstrap_servers, spark.url, url), say)
        stack.callback(app.stop)
        sensors = Script("the producer", sensors_command(args, kafka.bootstrap_servers), args.data_dir / "producer.log")
        stack.callback(sensors.stop)
        say(f"sensors  {args.sensors} simulated, process {sensors.pid}, log {args.data_dir / 'producer.log'}")
        flags = f"--bootstrap-servers {kafka.bootstrap_servers} --master {spark.url}"
        say(f"flags    for other scripts: {flags} --database-url {shlex.quote(url)}")
        watched: list[Watched] = [kafka, spark, app, sensors, *([postgres] if postgres else [])]
        while not stop.wait(LOOK_EVERY_S):
            for part in watched:
                for line in part.watch(time.monotonic()):
                    say(line)
        say("stopping")
    print(f"the cluster stopped; its data stays in {args.data_dir}")
    return 0


def start_all(starts: Sequence[Callable[[threading.Event], bool]], stop: threading.Event) -> None:
    """Start several parts at the same time, and wait until each is ready.

    Raises:
        UserError: one cannot be started; the others give up.
        Stopped: ``stop`` was set before.
    """
    given_up = threading.Event()
    with ThreadPoolExecutor(len(starts)) as pool:
        starting = [pool.submit(start, given_up) for start in starts]
        while any(not each.done() for each in starting):
            if stop.wait(LOOK_EVERY_S) or any(each.done() and each.exception() for each in starting):
                given_up.set()
    for each in starting:
        each.result()
    if stop.is_set():
        raise Stopped("stopped before the cluster was ready")


def make_postgres(data_dir: Path) -> PostgresServer | None:
    """A server with its data beside that of the others, if they are not root's; None where it is not installed."""
    binaries = find_binaries()
    name = f"iot-cluster-postgres-{hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()[:12]}"
    folder = POSTGRES_OF_ROOT / name if os.geteuid() == 0 else data_dir / "postgres"
    return PostgresServer(binaries, folder) if binaries else None


def app_command(args: argparse.Namespace, servers: str, master: str, database_url: str) -> list[str]:
    command = [str(ROOT / "iot_streaming_app.py"), "--bootstrap-servers", servers, "--master", master]
    command += ["--checkpoint-dir", str(args.data_dir / "checkpoints"), "--database-url", database_url]
    return [*command, "--port", str(args.port)]


def sensors_command(args: argparse.Namespace, servers: str) -> list[str]:
    command = [str(ROOT / "iot_producer.py"), "--bootstrap-servers", servers, "--client", "confluent-kafka"]
    return [*command, "--sensors", str(args.sensors), "--rate", str(args.rate or args.sensors)]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m iot.cluster",
        description=(__doc__ or "").partition(": ")[2],
        formatter_class=cli.HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--nodes", metavar="N", type=number_of_nodes, default=3, help="Kafka nodes")
    parser.add_argument("--workers", metavar="N", type=cli.positive_int, default=2, help="Spark workers")
    parser.add_argument("--cores", metavar="N", type=cli.positive_int, default=4, help="task slots of each worker")
    parser.add_argument("--memory", metavar="SIZE", default="1g", help="memory of each worker's executor")
    parser.add_argument(
        "--partitions", metavar="N", type=cli.positive_int, help="partitions of a new topic of readings"
    )
    parser.add_argument("--sensors", metavar="N", type=cli.positive_int, default=50, help="simulated sensors")
    parser.add_argument(
        "--rate", metavar="R", type=cli.positive_float, help="readings a second in all (default: one of each sensor)"
    )
    parser.add_argument("--port", type=cli.port_number, default=PAGE_PORT, help="port of the page")
    parser.add_argument(
        "--kafka-port",
        metavar="PORT",
        type=cli.port_number,
        default=KAFKA_PORT,
        help="port of the first Kafka node; the others take the free ports above it",
    )
    parser.add_argument(
        "--master-port", metavar="PORT", type=cli.port_number, default=MASTER_PORT, help="port of the Spark master"
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=settings.DATA_DIR / "cluster",
        help="folder for all data and logs, kept between runs",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
