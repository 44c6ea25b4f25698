"""Only the supported Pythons run the program. make setup finds one; all others get one line."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iot import SUPPORTED

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
COMMANDS = ["iot.broker", "iot.java", "iot.rejected", "iot.web"]
NAMES = ["{}.{}".format(*version) for version in SUPPORTED]
ALL = f"CPython {', '.join(NAMES[:-1])} or {NAMES[-1]}"


def run(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in a Python without any packages."""
    return subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def pretend(version: tuple[int, ...], start: str) -> subprocess.CompletedProcess[str]:
    # The modules of the standard library are imported before they can see the other version.
    imports = "import argparse, dataclasses, math, pathlib, random, runpy, sys, threading, uuid, concurrent.futures"
    return run(f"{imports}; sys.path.insert(0, ''); sys.version_info = {version}; {start}")


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 9, 1), (3, 10, 13), (3, 15, 0), (4, 0, 0)])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_stops_on_an_unsupported_python(script, version):
    ended = pretend(version, f"runpy.run_path({script!r}, run_name='__main__')")
    found = "Python " + ".".join(map(str, version))
    assert ended.stderr == (
        f"error: {sys.executable} is {found}, which is not supported: install {ALL}, run 'make clean setup', then use "
        ".venv/bin/python\n"
    )
    assert ended.returncode == 1


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 15, 0)])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_stops_on_an_unsupported_python(command, version):
    ended = pretend(version, f"runpy.run_module({command!r}, run_name='__main__')")
    assert ended.stderr.startswith(f"error: {sys.executable} is Python 3.1")
    assert ended.stderr.count("\n") == ended.returncode == 1


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_supported_python_passes(version):
    assert pretend((*version, 0), "import iot").returncode == 0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("sys.abiflags = 't'", "Python without GIL 3.1"),
        ("sys.implementation.name = 'pypy'", "pypy 3.1"),
        ("sys.implementation.name = 'graalpy'", "graalpy 3.1"),
    ],
)
def test_another_kind_of_python_is_not_supported(change, name):
    ended = run(f"import sys; sys.path.insert(0, ''); {change}; import iot")
    assert ended.stderr.startswith(f"error: {sys.executable} is {name}")
    assert ended.stderr.count("\n") == ended.returncode == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_old_pythons_can_read_the_scripts(script):
    ast.parse((ROOT / script).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_every_python_can_read_what_tells_it_to_stop():
    source = (ROOT / "iot" / "__init__.py").read_text(encoding="utf-8")
    assert source.isascii()
    for node in ast.walk(ast.parse(source, feature_version=(3, 4))):
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr)


def test_all_files_name_the_same_pythons():
    makefile = (ROOT / "Makefile").read_text()
    assert "set -- python3 " + " ".join(f"python{name}" for name in reversed(NAMES)) in makefile
    assert ALL in makefile
    assert f"--python-version {NAMES[0]} " in makefile
    project = (ROOT / "pyproject.toml").read_text()
    assert f'target-version = "py{NAMES[0].replace(".", "")}"' in project
    assert f'python_version = "{NAMES[0]}"' in project
    for page in ("README.md", "docs/installation.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert f"Python {NAMES[0]} to {NAMES[-1]}" in text, page
        assert not re.findall(r"Python 3\.(?:[0-9]|10|15)\b", text), page


# Answers what the Makefile asks a Python, and writes its name into .venv.
FAKE = """#!/bin/sh
case "$*" in
  *platform*) echo "{version}" ;;
  iot/__init__.py) exit {unsupported} ;;
  *ensurepip*) exit {without_venv} ;;
  "-m venv --clear .venv") {mkdir} -p .venv/bin && echo "{name}" > .venv/bin/python ;;
  *) exit 9 ;;
esac
"""


class Machine:
    """A folder with the Makefile, and a PATH on which only fake Pythons are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin of this machine"
        self.bin.mkdir()
        shutil.copy(ROOT / "Makefile", folder)

    def has(self, name: str, version: str, *, supported: bool = True, venv: bool = True) -> Path:
        path = self.bin / name
        mkdir = shutil.which("mkdir")
        path.write_text(
            FAKE.format(
                version=version, unsupported=int(not supported), without_venv=int(not venv), mkdir=mkdir, name=name
            )
        )
        path.chmod(0o755)
        return path

    def has_broken(self, name: str) -> None:
        """A shim of pyenv for a version that is not selected."""
        (self.bin / name).write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
        (self.bin / name).chmod(0o755)

    def setup(self, *arguments: str) -> str:
        """Return the name of the Python that make chose, or the error."""
        command = [shutil.which("make") or "make", ".venv/bin/python", *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS")}
        environment["PATH"] = str(self.bin)
        ran = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, env=environment)
        if ran.returncode == 0:
            return (self.folder / ".venv" / "bin" / "python").read_text().strip()
        errors = [line for line in ran.stderr.splitlines() if not line.startswith("make")]
        assert len(errors) == 1, ran.stderr
        return errors[0]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_default_python_is_taken_where_it_is_supported(machine):
    machine.has("python3", "CPython 3.12")
    machine.has("python3.14", "CPython 3.14")
    assert machine.setup() == "python3"


@pytest.mark.parametrize("default", ["CPython 3.10", "CPython 3.15", "CPython 3.13t", "PyPy 3.11"])
def test_the_newest_supported_python_is_found_beside_another_default(machine, default):
    machine.has("python3", default, supported=False)
    machine.has("python3.11", "CPython 3.11")
    machine.has("python3.13", "CPython 3.13")
    assert machine.setup() == "python3.13"


def test_a_python_that_does_not_run_or_has_no_venv_is_passed_over(machine):
    machine.has("python3", "CPython 3.12", venv=False)
    machine.has_broken("python3.14")
    machine.has("python3.11", "CPython 3.11")
    assert machine.setup() == "python3.11"


def test_an_error_names_what_is_there_and_what_is_needed(machine):
    machine.has("python3", "CPython 3.10", supported=False)
    machine.has("python3.12", "CPython 3.12", venv=False)
    assert machine.setup() == (
        "error: python3 is CPython 3.10, python3.12 has no venv module (on Debian and Ubuntu: apt-get install "
        f"python3.12-venv); {ALL} is needed: install one, on Debian and Ubuntu: apt-get install python3 python3-venv, "
        "or name it: make setup PYTHON=/path/to/python3.14"
    )


def test_without_any_python_the_error_says_so(machine):
    assert machine.setup().startswith(f"error: python3 does not run; {ALL} is needed: ")


def test_only_the_python_that_the_user_names_is_tried(machine):
    machine.has("python3", "CPython 3.12")
    old = machine.has("old python", "CPython 3.10", supported=False)
    assert machine.setup(f"PYTHON={old}").startswith(f"error: {old} is CPython 3.10; ")
    assert machine.setup("PYTHON=/nowhere/python3.14").startswith("error: /nowhere/python3.14 does not run; ")
    new = machine.has("new python", "CPython 3.14")
    assert machine.setup(f"PYTHON={new}") == "new python"


def test_an_old_virtual_environment_gets_the_same_line(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/sh\n[ \"$*\" = iot/__init__.py ] && echo 'error: too old' >&2 && exit 1\necho installed\n"
    )
    python.chmod(0o755)
    command = ["make", "--no-print-directory", ".venv/.installed"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[0] == "error: too old"
    assert ran.returncode == 2
