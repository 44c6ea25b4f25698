"""A standalone Spark on loopback: a master and workers, each in a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

from iot import environment
from iot.broker.broker import find_free_port
from iot.java.runtime import find_java
from iot.processes import end, how_ended, spawn
from iot.restarts import Restarts
from iot.settings import UserError, reason

HOST = "127.0.0.1"
PORT = 7077
# How long master and workers may take to start.
START_S = 60.0
LOOK_EVERY_S = 0.1
MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"
DAEMON = {
    "SPARK_DAEMON_MEMORY": "256m",
    # After a worker was killed, its tasks must not wait for a minute until the master notices.
    "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC",
    "SPARK_MASTER_OPTS": "-Dspark.worker.timeout=10 -Dspark.master.rest.enabled=false",
    # The folders of applications that ended are removed after an hour.
    "SPARK_WORKER_OPTS": "-Dspark.worker.timeout=10 -Dspark.worker.cleanup.enabled=true "
    "-Dspark.worker.cleanup.interval=600 -Dspark.worker.cleanup.appDataTtl=3600",
}


class SparkCluster:
    """``with SparkCluster(folder) as cluster`` starts it, waits until its workers have registered, and stops it."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str = HOST,
        port: int = PORT,
        workers: int = 2,
        cores: int = 4,
        memory: str = "1g",
    ) -> None:
        """
        Args:
            folder: for logs, and for what executors write; created if missing.
            host: the address at which all parts listen; by default loopback.
            port: of the master.
            workers: how many.
            cores: task slots of each worker. They need not be cores of this machine.
            memory: for the executors of each worker, in Spark's notation.
        """
        self.host, self.port = host, port
        self.ui_port = find_free_port()
        self.folder = folder
        self._cores, self._memory = cores, memory
        self._names = ["master", *(f"worker-{number}" for number in range(1, workers + 1))]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts: dict[str, Restarts] = {}

    @property
    def url(self) -> str:
        """For ``--master``."""
        return f"spark://{self.host}:{self.port}"

    @property
    def ui(self) -> str:
        """The page of the master."""
        return f"http://{self.host}:{self.ui_port}"

    @property
    def workers(self) -> list[str]:
        """The names of the workers."""
        return self._names[1:]

    def pid(self, name: str) -> int:
        """The process id of ``master`` or of a worker."""
        return self._processes[name].pid

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def __enter__(self) -> SparkCluster:
        try:
            self.start(threading.Event())
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, stop: threading.Event) -> bool:
        """Start everything; returns True once all workers have registered, False if ``stop`` was set before.

        Raises:
            UserError: Java or PySpark is missing, a folder cannot be written, or a process ended.
        """
        deadline_s = time.monotonic() + START_S
        for name in self._names:
            self.launch(name)
            # A worker that finds no master tries again only some seconds later.
            if name == "master" and not self._await(self._listens, deadline_s, stop):
                return False
        return self._await(lambda: len(self.alive_workers()) == len(self.workers), deadline_s, stop)

    def _await(self, is_reached: Callable[[], bool], deadline_s: float, stop: threading.Event) -> bool:
        while not is_reached():
            for name in self._processes:
                self.require_alive(name)
            if time.monotonic() > deadline_s:
                raise UserError(f"Spark's master and workers did not start within {START_S:.0f} s; see {self.folder}")
            if stop.wait(LOOK_EVERY_S):
                return False
        return True

    def _listens(self) -> bool:
        with suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=1).close()
            return True
        return False

    def watch(self, now_s: float) -> list[str]:
        """Start what has ended again, each after its pause. Call this several times a second.

        Returns:
            A line for each process that has ended or was started again.

        Raises:
            UserError: one cannot be started.
        """
        lines = []
        for name, process in self._processes.items():
            if (status := process.poll()) is None:
                continue
            restarts = self._restarts.setdefault(name, Restarts(now_s))
            if pause_s := restarts.ended(now_s):
                lines.append(f"Spark's {name} {how_ended(status)}: starting it again in {pause_s:.0f} s")
            elif restarts.is_due(now_s):
                self.launch(name)
                lines.append(f"Spark's {name} was started again, process {self.pid(name)}")
        return lines

    def stop(self) -> None:
        """Stop everything. Executors end with their workers."""
        for process in reversed(self._processes.values()):
            end(process, 15)

    def launch(self, name: str) -> None:
        """Start the master or a worker, for the first time or after its end.

        Raises:
            UserError: Java or PySpark is missing, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.log(name).open("ab") as log:
                self._processes[name] = spawn(
                    self.command(name, self.host),
                    variables=variables(self.host),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        except OSError as error:
            raise UserError(f"cannot start Spark's {name} in {self.folder}: {reason(error)}") from error

    def command(self, name: str, host: str) -> list[str]:
        """The command of the master or a worker that listens at ``host``.

        Raises:
            UserError: PySpark is missing.
        """
        is_master = name == "master"
        ui_port = self.ui_port if is_master else find_free_port()
        command = [str(_spark_home() / "bin" / "spark-class"), MASTER if is_master else WORKER]
        command += ["--host", host, "--port", str(self.port if is_master else 0), "--webui-port", str(ui_port)]
        if not is_master:
            command += ["--cores", str(self._cores), "--memory", self._memory]
            command += ["--work-dir", str(self.folder.absolute() / name), self.url]
        return command

    def require_alive(self, name: str) -> None:
        """Return if the master or a worker still runs.

        Raises:
            UserError: it has ended.
        """
        if (status := self._processes[name].poll()) is not None:
            raise UserError(f"Spark's {name} {how_ended(status)}; see {self.log(name)}")

    def alive_workers(self) -> list[str]:
        """The pages of the workers that the master knows and hears from; none while it does not answer."""
        with suppress(OSError, ValueError), urlopen(f"{self.ui}/json/", timeout=5) as answer:
            state = json.load(answer)
            return [worker["webuiaddress"] for worker in state["workers"] if worker["state"] == "ALIVE"]
        return []


def variables(host: str) -> dict[str, str]:
    """The environment of a master or worker that listens at ``host``, and of its executors.

    Raises:
        UserError: Java or PySpark is missing.
    """
    return {
        **DAEMON,
        "SPARK_HOME": str(_spark_home()),
        "SPARK_LOCAL_IP": host,
        "JAVA_HOME": str(find_java()),
        "TMPDIR": str(environment.work_folder()),
        "PYSPARK_PYTHON": sys.executable,
    }


def _spark_home() -> Path:
    """The folder of the Spark that PySpark brings along.

    Raises:
        UserError: PySpark is missing.
    """
    spec = find_spec("pyspark")
    if spec is None:
        raise UserError("cannot import PySpark: pip install -r requirements.txt")
    return environment.plain(Path(str(spec.origin)).resolve().parent)
