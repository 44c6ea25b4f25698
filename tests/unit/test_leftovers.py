"""No test leaves a process behind, whether it passes or fails."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests.support import leftovers
from tests.support.scripts import ROOT, command_line, started

TESTS = """
import subprocess, sys
import pytest

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

def start(name, *command):
    process = subprocess.Popen([*command, *SLEEP, name], start_new_session=True)
    print("pid", process.pid)

@pytest.fixture(scope="module")
def shared():
    start("shared")

def test_first(shared):
    start("passed")

def test_failed():
    start("failed")
    assert False

def test_detached():
    # The process that starts it has ended, so it is no descendant any more.
    silent = "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
    code = f"import subprocess, sys; print('pid', subprocess.Popen(sys.argv[1:], {silent}).pid)"
    print(subprocess.run([sys.executable, "-c", code, *SLEEP, "detached"], capture_output=True, text=True).stdout)

def test_tidy():
    process = subprocess.Popen(SLEEP)
    process.kill()
    process.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the variables of processes")
def test_what_a_test_leaves_is_ended_and_reported(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "short.py").write_text(
        "from tests.support import leftovers\nleftovers.end.__defaults__ = (None, 0.2)\n"
    )
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "tests.conftest", "-p", "short", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, "-c", "/dev/null", "--rootdir", tmp_path, "test_some.py"],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    pids = [int(pid) for pid in re.findall(r"^pid (\d+)", ran.stdout, re.MULTILINE)]
    assert len(set(pids)) == 4, ran.stdout
    assert [command_line(pid) for pid in sorted(set(pids))] == [""] * 4
    reported = re.findall(
        r"^E +AssertionError: processes were left running: .* (\w+) of \w+=(.*)$", ran.stdout, re.MULTILINE
    )
    assert reported == [
        ("passed", "test_some.py::test_first (call)"),
        ("failed", "test_some.py::test_failed (call)"),
        ("detached", "test_some.py::test_detached (call)"),
        ("shared", "test_some.py::test_first (setup)"),
    ]
    assert re.search(r"1 failed, 3 passed, 4 errors", ran.stdout)


def test_others_are_left_alone():
    assert leftovers.running("no such run") == {}


def test_no_failure_waits_for_a_process():
    """``with subprocess.Popen`` would: tests use ``started``, which kills it."""
    waits = re.compile(r"^ *with\b[^\n]*\bPopen\(", re.MULTILINE)
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py") if waits.search(path.read_text())}
    assert files == {"tests/support/scripts.py"}


def test_a_failure_ends_a_process():
    with pytest.raises(ZeroDivisionError), started([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGKILL
