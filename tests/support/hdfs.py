"""A real HDFS for the tests: a name node and a data node, in two processes on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from iot.broker.broker import find_free_port
from iot.java.jars import Jar, fetched
from iot.java.runtime import find_java
from iot.processes import how_ended, spawn

# The servers, in the version of the client that PySpark brings along. It is only for tests, so it is not in jars.lock.
SERVERS = Jar(
    "org.apache.hadoop",
    "hadoop-client-minicluster",
    "3.5.0",
    "06772d24529e59939915979b3edba204d367750ef7dc5120411f35221dd4818c",
)
NAME_NODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATA_NODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
ADMIN = "org.apache.hadoop.hdfs.tools.DFSAdmin"
# What of PySpark's jars the servers need besides.
OF_PYSPARK = ("hadoop-client-*.jar", "*slf4j*.jar", "log4j-*.jar")
SUPERUSER = "hdfs"
JVM = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx200m"]
START_S = 60.0


class Hdfs:
    """``with Hdfs(folder) as hdfs`` starts it. Everyone may write to ``/iot``; the rest belongs to another user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, self._http_port = find_free_port(), find_free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def uri(self) -> str:
        """The URI of a folder for checkpoints."""
        return f"hdfs://127.0.0.1:{self.port}/iot"

    def __enter__(self) -> Hdfs:
        try:
            (self._folder / "etc").mkdir(parents=True)
            _write_xml(self._folder / "etc" / "core-site.xml", {"fs.defaultFS": f"hdfs://127.0.0.1:{self.port}"})
            settings = {
                "dfs.namenode.name.dir": str(self._folder / "names"),
                "dfs.datanode.data.dir": str(self._folder / "blocks"),
                "dfs.replication": "1",
                "dfs.namenode.http-address": f"127.0.0.1:{self._http_port}",
                "dfs.namenode.safemode.extension": "0",
                **{f"dfs.datanode.{name}address": "127.0.0.1:0" for name in ("", "http.", "ipc.")},
            }
            _write_xml(self._folder / "etc" / "hdfs-site.xml", settings)
            self._run("format", NAME_NODE, "-format", "-force").wait(START_S)
            self.start(NAME_NODE)
            self.start(DATA_NODE)
            self._await(lambda: self._state()["NumLiveDataNodes"] == 1 and self._state()["FSState"] == "Operational")
            self.ask("PUT", "/iot", "MKDIRS", permission="777")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str) -> None:
        self._processes[name] = self._run(name.rpartition(".")[2], name)

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def safe_mode(self, what: str) -> None:
        """``enter`` or ``leave`` safe mode."""
        process = self._run("admin", ADMIN, "-safemode", what)
        assert process.wait(START_S) == 0

    def ask(self, method: str, path: str, operation: str, data: bytes | None = None, **parameters: str) -> Any:
        """Ask the HTTP interface, which is another way than that of the tested code; returns the JSON or the bytes."""
        query = "".join(f"&{name}={value}" for name, value in parameters.items())
        url = f"http://127.0.0.1:{self._http_port}/webhdfs/v1{quote(path)}?op={operation}&user.name={SUPERUSER}{query}"
        if data is not None:
            # The name node only says which data node takes the content.
            with urlopen(Request(f"{url}&noredirect=true", method=method), timeout=30) as answer:
                url = json.load(answer)["Location"]
        with urlopen(Request(url, data, method=method), timeout=30) as answer:
            content: bytes = answer.read()
        return content if operation == "OPEN" else json.loads(content or b"null")

    def read(self, path: str) -> bytes:
        content: bytes = self.ask("GET", path, "OPEN")
        return content

    def write(self, path: str, content: bytes) -> None:
        """Replace a file."""
        self.ask("PUT", path, "CREATE", content, overwrite="true")

    def names(self, path: str) -> set[str]:
        """The names in a folder; none if there is no folder."""
        try:
            listed = self.ask("GET", path, "LISTSTATUS")
        except HTTPError as error:
            if error.code != 404:
                raise
            return set()
        return {status["pathSuffix"] for status in listed["FileStatuses"]["FileStatus"]}

    def remove(self, path: str) -> None:
        self.ask("DELETE", path, "DELETE", recursive="true")

    def _state(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._http_port}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
        # The list is empty until the server is up.
        with suppress(OSError, IndexError), urlopen(url, timeout=5) as answer:
            return dict(json.load(answer)["beans"][0])
        return {"NumLiveDataNodes": 0, "FSState": "unknown"}

    def _await(self, is_reached: Any) -> None:
        deadline_s = time.monotonic() + START_S
        while not is_reached():
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} {how_ended(process.returncode)}; see {self._folder}"
            assert time.monotonic() < deadline_s, f"HDFS did not start; see {self._folder}"
            time.sleep(0.1)

    def _run(self, log: str, *command: str) -> subprocess.Popen[bytes]:
        spec = find_spec("pyspark")
        assert spec is not None
        pyspark = Path(str(spec.origin)).parent / "jars"
        jars = [
            *fetched("hdfs", [SERVERS], "HDFS for the tests"),
            *(j for name in OF_PYSPARK for j in pyspark.glob(name)),
        ]
        class_path = os.pathsep.join([str(self._folder / "etc"), *map(str, jars)])
        java = [str(find_java() / "bin" / "java"), *JVM, f"-Djava.io.tmpdir={self._folder}", "-cp", class_path]
        with (self._folder / f"{log}.log").open("ab") as output:
            return spawn(
                [*java, *command],
                variables={"HADOOP_USER_NAME": SUPERUSER},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )


def _write_xml(file: Path, settings: dict[str, str]) -> None:
    rows = "".join(
        f"<property><name>{name}</name><value>{value}</value></property>" for name, value in settings.items()
    )
    file.write_text(f"<configuration>{rows}</configuration>")


@pytest.fixture(scope="module")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    with Hdfs(tmp_path_factory.mktemp("hdfs")) as started:
        yield started
