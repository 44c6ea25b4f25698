"""The folder of a broker: Kafka's data, its configuration, its logs, and a lock against a second broker.

A cluster has such a folder for each node, in a folder that holds the lock and says how many nodes there are.
"""

from __future__ import annotations

import base64
import fcntl
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import IO

from iot.java.class_archives import jvm_flags
from iot.processes import spawn
from iot.properties_file import read_properties
from iot.settings import UserError, reason

# How long Kafka may outlive a parent that was killed.
LET_GO_S = 3.0

# What the broker writes. A folder that has one of these, but never had a lock, is not its own.
WRITTEN = ("kafka", "server.properties", "log4j2.properties", "broker.log", "cluster.properties", "node-1")

# Kafka logs to its standard output, which is the log file, so that the last words of a dying JVM are there too.
# How Java begins the lines that name an exception; the one that caused the others comes last.
EXCEPTION = ("Exception in thread ", "Caused by: ")

LOG4J = """
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


class DataFolder:
    """A folder that one broker at a time uses. Kafka runs in it, with paths relative to it, so any name works.

    Every method raises ``OSError`` if the folder cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.log = self.path / "broker.log"
        self._lock: IO[str] | None = None

    @property
    def _cluster_file(self) -> Path:
        return self.path / "cluster.properties"

    @property
    def lock_fd(self) -> int:
        """The file descriptor of the lock. Kafka inherits it, so the folder is free once both processes have ended."""
        assert self._lock, "not locked"
        return self._lock.fileno()

    def lock(self, owner: str, stop: threading.Event) -> None:
        """Create the folder if it is missing, and lock it for ``owner``.

        Raises:
            UserError: the folder has files of another program; or another broker uses it, which may need up to
                ``LET_GO_S`` to end, unless ``stop`` is set.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        found = [name for name in WRITTEN if (self.path / name).exists()]
        if found and not (self.path / "lock").exists():
            raise UserError(
                f"{self.path / found[0]} is of another program, and this broker would overwrite it: "
                "choose another folder with --data-dir"
            )
        self._lock = (self.path / "lock").open("a+", encoding="utf-8")
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
                f"another broker ({self._lock.read().strip()}) uses the data folder {self.path}; "
                "use that broker, stop it, or choose another folder with --data-dir"
            )
        self._lock.truncate(0)
        self._lock.write(owner)
        self._lock.flush()

    def unlock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def require_nodes(self, nodes: int) -> None:
        """Return if the folder is new, or has the data of this number of nodes.

        Raises:
            UserError: it has the data of another number of nodes.
        """
        if (self.path / "kafka").exists():
            found, owner = "1", "a single broker"
        elif self._cluster_file.exists():
            found = read_properties(self._cluster_file).get("nodes", "")
            owner = f"a cluster of {found} nodes"
        else:
            return
        if found != str(nodes):
            raise UserError(
                f"the data folder {self.path} is of {owner}: start it with --nodes {found}, "
                "or choose another folder with --data-dir"
            )

    def cluster_id(self, nodes: int) -> str:
        """Return the id of the cluster in this folder. The first call makes one, and notes the number of nodes.

        Raises:
            UserError: the file that holds the id is damaged.
        """
        if not self._cluster_file.exists():
            new = self._cluster_file.with_suffix(".new")
            new.write_text(f"nodes={nodes}\ncluster.id={_new_cluster_id()}\n")
            new.replace(self._cluster_file)
        try:
            return read_properties(self._cluster_file)["cluster.id"]
        except KeyError as error:
            raise UserError(f"{self._cluster_file} has no cluster.id: choose another folder with --data-dir") from error

    def prepare(self, java: list[str], properties: dict[str, str], cluster_id: str | None = None) -> None:
        """Write the configuration, begin a new log, and format a new folder.

        Args:
            java: the command, with its class path, that runs a class of Kafka.
            properties: the content of server.properties.
            cluster_id: the id of the cluster that the node belongs to; None for a node that is its own cluster.

        Raises:
            UserError: Kafka cannot format the folder.
        """
        (self.path / "log4j2.properties").write_text(LOG4J)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        if not (self.path / "kafka").exists():
            self._format(java, properties, cluster_id)
        self._write_properties(properties)

    def _format(self, java: list[str], properties: dict[str, str], cluster_id: str | None) -> None:
        """Format under another name, then rename, so that the folder is formatted completely or not at all."""
        with tempfile.TemporaryDirectory(prefix="new-", dir=self.path) as work:
            new = Path(work, "kafka")
            self._write_properties(properties | {"log.dirs": f"{new.parent.name}/{new.name}"})
            # The first controllers of a cluster are in its configuration.
            self._run_format(java, ["--standalone"] if cluster_id is None else [], cluster_id or _new_cluster_id())
            new.rename(self.path / "kafka")

    def _run_format(self, java: list[str], flags: list[str], cluster_id: str) -> None:
        # Such a short-lived JVM starts faster without the C2 compiler and with the serial collector.
        faster = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *jvm_flags("kafka", write=False)]
        command = [*java[:1], *faster, *java[1:]]
        command += ["kafka.tools.StorageTool"]
        command += ["format", *flags, "--config", "server.properties", f"--cluster-id={cluster_id}"]
        with open(self.log, "wb") as log:
            process = spawn(command, cwd=self.path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if process.wait():
                raise UserError(f"cannot format the data folder {self.path}; {self.log} says: {self.last_error()}")

    def _write_properties(self, properties: dict[str, str]) -> None:
        lines = [f"{key}={value}\n" for key, value in properties.items()]
        (self.path / "server.properties").write_text("".join(lines))

    def last_error(self) -> str:
        """Return the last error in the log on one line, without its stack trace; the last line if it has no error.

        A program of Kafka that logs nothing ends with an exception: then it is what caused it.
        """
        try:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        except OSError as error:
            return reason(error)
        errors = [number for number, line in enumerate(lines) if " ERROR " in line or " FATAL " in line]
        errors = errors or [number for number, line in enumerate(lines) if line.startswith(EXCEPTION)]
        at = errors[-1] if errors else len(lines) - 1
        # The exception is on the next line.
        found = lines[at : at + 1] + [line for line in lines[at + 1 : at + 2] if not line.startswith("[")]
        return " ".join(" ".join(found).split())[:400] or "nothing"


def _new_cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
