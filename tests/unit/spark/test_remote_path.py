"""Paths on Spark's file systems: their text, the errors in one line, and a server that says nothing."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from pyspark import SparkContext

from iot.pipeline.resume import Place
from iot.processes import Stopped
from iot.settings import UserError
from iot.spark import checkpoints, session
from iot.spark.checkpoints import how_to_reset
from iot.spark.remote_path import RemotePath, location, os_error, write_whole


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ("/mnt/shared", Path("/mnt/shared")),
        ("state", Path("state")),
        ("a:b", Path("a:b")),
        ("file:///mnt/a b", Path("/mnt/a b")),
        ("file:/mnt", Path("/mnt")),
        ("file://localhost/mnt", Path("/mnt")),
        ("FILE:///", Path("/")),
        ("hdfs://host:8020/iot/", RemotePath("hdfs://host:8020/iot")),
        ("hdfs://host", RemotePath("hdfs://host/")),
        ("hdfs:///iot", RemotePath("hdfs:///iot")),
        ("s3a://bucket/a//b/../c", RemotePath("s3a://bucket/a/c")),
        ("abfss://folder@account.example/x", RemotePath("abfss://folder@account.example/x")),
    ],
)
def test_a_folder_is_local_or_a_uri(given: str, folder: Any) -> None:
    assert checkpoints.folder(given) == folder


@pytest.mark.parametrize(("given", "why"), [("file://host/mnt", "three slashes"), ("hdfs://", "names no folder")])
def test_a_uri_that_names_no_folder_is_refused(given: str, why: str) -> None:
    with pytest.raises(Exception, match=why):
        checkpoints.folder(given)


def test_parts_of_a_path() -> None:
    path = RemotePath("hdfs://host:8020/a b/c")
    assert str(path) == location(path) == "hdfs://host:8020/a b/c"
    assert str(path / "d") == "hdfs://host:8020/a b/c/d"
    assert (path.name, str(path.parent), str(path.with_name("e"))) == (
        "c",
        "hdfs://host:8020/a b",
        "hdfs://host:8020/a b/e",
    )
    assert path.parts == ("hdfs://host:8020", "a b", "c")
    assert str(RemotePath("hdfs://host") / "a") == "hdfs://host/a"
    assert path.resolve() == path
    assert path != RemotePath("hdfs://host/a b/c")


def test_without_spark_nothing_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test of this process may have started one.
    monkeypatch.setattr(SparkContext, "_active_spark_context", None)
    with pytest.raises(OSError, match="Spark does not run"):
        RemotePath("hdfs://host/a").exists()
    assert not RemotePath("hdfs://host/a").is_dir()
    with pytest.raises(UserError, match=r"cannot read hdfs://host/a/iot-notes.json: Spark does not run"):
        checkpoints.read_notes(RemotePath("hdfs://host/a"))


CALL = "An error occurred while calling o1.create.\n: "
REMOTE = "Caused by: org.apache.hadoop.ipc.RemoteException("


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (
            f"{CALL}java.io.FileNotFoundException: File does not exist: /a\n\tat org.x.AccessControlException.of(A:1)",
            FileNotFoundError,
            "No such file or directory",
        ),
        (
            f"{CALL}org.apache.hadoop.fs.FileAlreadyExistsException: /a already exists\n\tat x.Y\n"
            f"{REMOTE}org.apache.hadoop.fs.FileAlreadyExistsException): /a already exists",
            FileExistsError,
            "/a already exists",
        ),
        (
            f"{CALL}org.apache.hadoop.ipc.RemoteException(org.apache.hadoop.hdfs.protocol.AlreadyBeingCreatedException)"
            ": Failed to CREATE_FILE /a",
            FileExistsError,
            "Failed to CREATE_FILE /a",
        ),
        (
            f"{CALL}org.apache.hadoop.security.AccessControlException: Permission denied: user=root, access=WRITE\n"
            f"{REMOTE}org.apache.hadoop.security.AccessControlException): Permission denied: user=root, access=WRITE",
            PermissionError,
            "no permission (Permission denied: user=root, access=WRITE)",
        ),
        (
            f"{CALL}java.net.ConnectException: Call From vm/127.0.0.1 to nn:8020 failed on connection exception: "
            "java.net.ConnectException: Connection refused; For more details see:  http://wiki\n"
            "Caused by: java.net.ConnectException: Connection refused",
            ConnectionError,
            "its server does not answer (Connection refused): check that it runs",
        ),
        (
            f'{CALL}java.io.EOFException: End of File Exception between local host is: "a"; destination host is: "b"',
            ConnectionError,
            "its server closed the connection: check that it runs",
        ),
        (
            f"{CALL}org.apache.hadoop.hdfs.server.namenode.SafeModeException: Cannot create. It is in safe mode.",
            OSError,
            "the name node is in safe mode: wait until it has left it",
        ),
        (
            f"{CALL}java.lang.RuntimeException: java.lang.ClassNotFoundException: Class org.A not found",
            OSError,
            "Spark lacks a class for abfs:// (Class org.A not found); add its jars with spark-submit --packages",
        ),
        (
            f'{CALL}org.apache.hadoop.fs.UnsupportedFileSystemException: No FileSystem for scheme "abfs"',
            OSError,
            "Spark knows no file system abfs://: check the URI, or add its jars",
        ),
        ("java.net.UnknownHostException: nn", ConnectionError, "the host does not resolve (nn): check the URI"),
        (f"{CALL}java.io.IOException: Incomplete HDFS URI, no host", OSError, "Incomplete HDFS URI, no host"),
        ("", OSError, "Spark's JVM does not answer"),
        ("Answer from Java side is empty", OSError, "Answer from Java side is empty"),
    ],
)
def test_an_error_of_java_becomes_one_of_python_in_one_line(text: str, kind: type[OSError], words: str) -> None:
    error = os_error(text, "abfs://a/b")
    assert isinstance(error, kind)
    assert (error.strerror, error.filename) == (words, "abfs://a/b")


def test_a_server_that_says_nothing_ends_the_wait_and_so_does_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, stop = threading.Event(), threading.Event()
    monkeypatch.setattr(RemotePath, "mkdir", lambda *_: answers.wait(30))
    monkeypatch.setattr(RemotePath, "exists", lambda *_: False)
    monkeypatch.setattr(checkpoints, "ANSWER_S", 0.2)
    root = RemotePath("hdfs://host/iot")
    with pytest.raises(UserError, match="hdfs://host/iot does not answer within 0 s"):
        checkpoints.require_writable(root, (), stop)
    stop.set()
    with pytest.raises(Stopped, match="stopped before anything was processed"):
        checkpoints.require_writable(root, (), stop)
    answers.set()


def test_on_an_object_store_a_file_is_written_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(RemotePath, "create", lambda path, *_, **__: done.append(f"create {path.name}"))
    monkeypatch.setattr(RemotePath, "replace", lambda path, target: done.append(f"{path.name} to {target.name}"))
    write_whole(RemotePath("s3a://bucket/5"), b"")
    assert done == ["create 5"]
    write_whole(RemotePath("hdfs://host/5"), b"")
    assert done[1:] == ["create 5.new", "5.new to 5"]


def test_the_command_that_resets_is_one_of_the_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place([RemotePath("s3a://bucket/a b"), RemotePath("s3a://bucket/c")], "")
    remove = "aws s3 rm --recursive"
    assert place.reset == f"to reset: {remove} 's3://bucket/a b' && {remove} s3://bucket/c"
    monkeypatch.setenv("HADOOP_CONF_DIR", "/etc/hadoop")
    tool = "/pyspark/bin/spark-class org.apache.hadoop.fs.FsShell -rm -r -f hdfs://host/a"
    assert how_to_reset(RemotePath("hdfs://host/a")).endswith(tool)
    monkeypatch.delenv("HADOOP_CONF_DIR")
    command = how_to_reset(RemotePath("hdfs://host/a"))
    found = re.fullmatch(f"to reset: env HADOOP_CONF_DIR=(\\S+) .*{tool}", command)
    assert found
    assert (Path(found[1]) / "core-site.xml").exists()


def test_spark_comes_first_where_only_spark_can_read_or_check_the_folder() -> None:
    assert not session.comes_first("local[4]", Path("/tmp"))
    assert session.comes_first("local[4]", RemotePath("hdfs://host/a"))
    assert session.comes_first("spark://host:7077", Path("/tmp"))
