"""Addresses of the driver, the wait for executors, and what is said of executors that do not come."""

from __future__ import annotations

import socket
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iot import environment
from iot.settings import UserError
from iot.spark import cluster

LOG = """
26/11/26 22:00:01 INFO StandaloneAppClient$ClientEndpoint: Executor added: app-1/0 on worker-9 (10.0.0.7:7078) with 2
26/11/26 22:00:01 INFO StandaloneAppClient$ClientEndpoint: Executor added: app-1/1 on worker-8 (10.0.0.8:7078) with 2
26/11/26 22:00:02 INFO StandaloneAppClient$ClientEndpoint: Executor updated: app-1/0 is now RUNNING
"""
ENDED = "Executor updated: app-1/1 is now EXITED (Command exited with code 1)\n"


@pytest.mark.parametrize(
    ("master", "is_local"),
    [
        ("local", True),
        ("local[8]", True),
        ("local[*]", True),
        ("local-cluster[2,1,1024]", False),
        ("spark://localhost:7077", False),
        ("yarn", False),
        ("k8s://https://localhost:6443", False),
    ],
)
def test_which_masters_run_all_tasks_in_this_process(master: str, is_local: bool) -> None:
    assert cluster.is_local(master) == is_local


@pytest.mark.parametrize(
    ("master", "used"),
    [
        ("local", "local[1,4]"),
        ("local[8]", "local[8,4]"),
        ("local[*]", "local[*,4]"),
        ("local[8,1]", "local[8,1]"),
        ("local[nonsense]", "local[nonsense]"),
        ("local-cluster[2,1,1024]", "local-cluster[2,1,1024]"),
        ("spark://localhost:7077", "spark://localhost:7077"),
    ],
)
def test_a_failed_task_is_tried_again_on_a_local_master_too(master: str, used: str) -> None:
    assert cluster.with_retries(master) == used


@pytest.mark.parametrize(
    "master", ["local[2]", "spark://127.0.0.1:7077", "spark://127.0.0.1", "spark://127.0.0.1:7077,10.0.0.1:7077"]
)
def test_on_this_machine_the_driver_is_on_loopback(master: str) -> None:
    assert cluster.driver_address(master) == {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }


def test_elsewhere_the_driver_has_this_machines_address_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_towards", lambda _: "127.0.0.2")
    assert cluster.driver_address("spark://master.example:7077") == {
        "spark.driver.host": "127.0.0.2",
        "spark.driver.bindAddress": "127.0.0.2",
    }


@pytest.mark.parametrize("master", ["yarn", "k8s://https://localhost:6443", "local-cluster[2,1,1024]"])
def test_other_clusters_have_a_default_of_their_own(master: str) -> None:
    assert cluster.driver_address(master) == {}


def test_an_address_that_is_not_of_this_machine_is_advertised_only() -> None:
    # Of a block for documentation (RFC 5737).
    assert cluster.driver_address("spark://127.0.0.1:7077", "192.0.2.1") == {
        "spark.driver.host": "192.0.2.1",
        "spark.driver.bindAddress": "0.0.0.0",
    }


@pytest.mark.parametrize(
    ("master", "given", "said"),
    [
        ("spark://127.0.0.1:7077", "no.such.host.invalid", "--driver-host no.such.host.invalid does not resolve"),
        ("spark://no.such.host.invalid:7077", None, "no way to the Spark master spark://no.such.host.invalid:7077"),
    ],
)
def test_a_name_that_does_not_resolve_is_said(
    monkeypatch: pytest.MonkeyPatch, master: str, given: str | None, said: str
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match=said):
        cluster.driver_address(master, given)


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("", "none was granted"),
        (LOG, "not yet started on 10.0.0.7:7078, 10.0.0.8:7078"),
        (LOG + ENDED, "on 10.0.0.8:7078 an executor ended (Command exited with code 1); see its stderr"),
        (LOG + ENDED.partition(" (")[0] + "\n", "on 10.0.0.8:7078 an executor ended (no reason given)"),
    ],
)
def test_why_no_executor_comes(tmp_path: Path, log: str, why: str) -> None:
    file = tmp_path / "spark.log"
    file.write_text(log)
    assert cluster.why_no_executor(file, dict).startswith(why)


OLD_JAVAS = [
    # Java 11 and Java 8, as far as they get with the flags that Spark gives them.
    ("UnsupportedClassVersionError: org/apache/X has been compiled by a more recent version of the Java Runtime (class "
     "file version 61.0), this version of the Java Runtime only recognizes class file versions up to 55.0",
     "Java 11 is"),
    ("Error occurred during initialization of boot layer\njava.lang.module.FindException: Module "
     "jdk.incubator.vector not found", "its Java is"),
    ("Unrecognized option: --add-modules=jdk.incubator.vector\nError: Could not create the JVM", "its Java is"),
]  # fmt: skip


@pytest.mark.parametrize(("stderr", "which"), OLD_JAVAS)
def test_a_java_that_is_too_old_is_named_with_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, which: str
) -> None:
    file = tmp_path / "spark.log"
    file.write_text(LOG + ENDED)
    question = "appId=app-1&executorId=1&logType=stderr&byteLength=10000"
    monkeypatch.setattr(cluster, "_read", {f"http://10.0.0.8:8081/log/?{question}": stderr}.__getitem__)
    said = cluster.why_no_executor(file, lambda: {"10.0.0.8:7078": "http://10.0.0.8:8081"})
    why = f"because {which} too old: install Java 17 or 21 there, and set the JAVA_HOME of its worker"
    assert said == f"on 10.0.0.8:7078 an executor ended, {why}"


def test_where_the_stderr_is_is_said_if_it_explains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "spark.log"
    file.write_text(LOG + ENDED)
    monkeypatch.setattr(cluster, "_read", lambda _: "")
    assert cluster.why_no_executor(file, lambda: {"10.0.0.8:7078": "http://10.0.0.8:8081"}) == (
        "on 10.0.0.8:7078 an executor ended (Command exited with code 1); see its stderr on http://10.0.0.8:8081"
    )
    assert cluster.why_no_executor(file, dict).endswith(
        "see its stderr on the page of that worker, by default port 8081"
    )


def session(counts: list[int]) -> Any:
    """A session with one more look at its executors for each of the counts; the last one stays."""

    class Status:
        def size(self) -> int:
            # The driver is listed too.
            return 1 + (counts.pop(0) if len(counts) > 1 else counts[0])

    java = SimpleNamespace(sc=lambda: SimpleNamespace(getExecutorMemoryStatus=Status))
    return SimpleNamespace(sparkContext=SimpleNamespace(_jsc=java, master="spark://there:7077"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(cluster, "SETTLED_S", 0.02)
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_the_wait_ends_once_no_more_executors_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_S", 300.0)
    counts = [0, 0, 1, 1, 2]
    cluster.await_executors(session(counts), tmp_path / "log", pytest.fail, threading.Event())
    assert counts == [2]


@pytest.mark.usefixtures("quick")
def test_a_long_wait_is_said_once_and_can_be_stopped(tmp_path: Path) -> None:
    said: list[str] = []
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    cluster.await_executors(session([0]), tmp_path / "log", said.append, stop)
    assert [line.partition(":")[0] for line in said] == ["waiting for executors from spark"]


def test_the_archive_for_executors_stays_and_has_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "work_folder", lambda: tmp_path)
    shipped: list[str] = []
    cluster.ship_package(SimpleNamespace(sparkContext=SimpleNamespace(addPyFile=shipped.append)))  # type: ignore[arg-type]
    with zipfile.ZipFile(shipped[0]) as archive:
        names = archive.namelist()
    assert {"iot/__init__.py", "iot/spark/fold.py", "iot/readings.py", "iot/kafka/sender.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize(
    ("master", "executors", "slots"), [("local[8]", 0, 8), ("spark://host:7077", 0, 0), ("spark://host:7077", 2, 8)]
)
def test_without_an_executor_there_is_no_slot(master: str, executors: int, slots: int) -> None:
    """Spark's own count is 2 then."""
    status = SimpleNamespace(size=lambda: executors + 1)
    java = SimpleNamespace(sc=lambda: SimpleNamespace(getExecutorMemoryStatus=lambda: status))
    context = SimpleNamespace(master=master, defaultParallelism=slots or 2, _jsc=java)
    assert cluster.slots(SimpleNamespace(sparkContext=context)) == slots  # type: ignore[arg-type]
