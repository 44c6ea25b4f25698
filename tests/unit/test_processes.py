"""Stop signals and child processes: each test runs a small script that uses them."""

from __future__ import annotations

import ast
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iot import processes
from iot.processes import Stopped, until_stopped
from tests.support.scripts import ROOT, started

ENTRIES = [
    *("iot_producer.py", "iot_consumer.py", "iot_streaming_app.py", "structured_streaming_processor.py"),
    *("performance_test.py", "iot/rejected.py", "iot/broker/__main__.py", "iot/java/__main__.py"),
    *("iot/web/__main__.py", "iot/pipeline/training.py", "iot/loadtest/worker.py", "iot/gateway/__main__.py"),
]
PRELUDE = "import os, time\nfrom iot.processes import StopSignal, Stopped, spawn, stop_event, until_stopped\n"


@contextmanager
def script(text: str, **popen: object) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-u", "-c", PRELUDE + text]
    with started(command, stdout=subprocess.PIPE, text=True, env=environment, **popen) as process:
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_sets_the_event(number):
    # Under nohup, the script would inherit that SIGHUP is ignored.
    text = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    text += "stop = StopSignal().install().event\nprint('ready')\nstop.wait()\nprint('summary')\n"
    with script(text) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "summary\n"
        assert process.wait(10) == 0


def test_the_second_signal_ends_the_process_at_once():
    text = "stop = StopSignal().install().event\nprint('ready')\nstop.wait()\nprint('stopping')\n"
    text += "time.sleep(0.8)\nprint('still stopping')\ntime.sleep(600)\n"
    with script(text) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"
        # `timeout` signals the process and then its group, which counts as one request.
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "still stopping\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


WAITS = {
    "a FIFO without a writer": "lambda: open('fifo')",
    "standard input": "lambda: os.read(0, 1)",
    "a long sleep": "lambda: time.sleep(600)",
    "a buffered standard input": "lambda: __import__('sys').stdin.readline()",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_any_wait(wait, number, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    text = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\nstop = stop_event()\nprint('ready')\n"
    text += f"try: until_stopped({wait}, stop, 'before it ended')\nexcept Stopped as how: print(how)\n"
    with script(text, stdin=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "stopped before it ended\n"
        assert process.wait(10) == 0


def test_work_until_a_stop_gives_its_result_or_its_error(monkeypatch):
    monkeypatch.setattr(processes, "LOOK_S", 0.001)
    stop, looks, done = threading.Event(), [], threading.Event()

    def meanwhile() -> None:
        looks.append(1)
        done.set()

    assert until_stopped(done.wait, stop, "before", meanwhile) is True
    assert looks
    with pytest.raises(TimeoutError, match="slow"):
        until_stopped(lambda: failing(TimeoutError("slow")), stop, "before")
    stop.set()
    with pytest.raises(Stopped, match=r"^stopped before it began$"):
        until_stopped(looks.clear, stop, "before it began")
    assert looks, "a script that was stopped begins nothing"


def failing(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_go_nowhere(closed, tmp_path):
    code = "from iot.processes import stop_event; stop_event(); import os, sys\n"
    # A file that is opened later must not become a standard stream.
    code += "made = open(sys.argv[1], 'w')\nassert made.fileno() > 2\n"
    code += "print('out'); print('err', file=sys.stderr); made.write(repr(sys.stdin.read()))\n"
    code += "sys.stdout.isatty(); sys.stdout.flush(); sys.stderr.flush()"
    command = [*("bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, "-c", code), str(tmp_path / "made")]
    ran = subprocess.run(command, cwd=ROOT, input="", capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "made").read_text() == "''"
    assert ran.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "out\n")
    assert ran.stderr == ("" if "2>&-" in closed else "err\n")


def test_a_closed_terminal_is_a_stop_and_not_an_error(tmp_path):
    text = f"{PRELUDE}stop = stop_event()\nprint('ready', flush=True)\nstop.wait()\nprint('summary', flush=True)\n"
    text += "open('done', 'w').close()\n"
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(ROOT)
        # Under nohup, the script would inherit that it is ignored.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-c", text])
    said = b""
    while not said.endswith(b"\n"):
        said += os.read(terminal, 100)
    assert said == b"ready\r\n"
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "done").exists()


def test_a_suspended_script_continues_and_can_still_be_stopped():
    # A group of its own: SIGTSTP suspends no process whose group has no parent in its session.
    text = "stop = stop_event()\nprint('ready')\nstop.wait()\nprint('summary')\n"
    with script(text, process_group=0) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "summary\n"
        assert process.wait(10) == 0


def test_a_signal_while_python_ends_changes_nothing():
    # The class is removed after Python has reset its signal handlers.
    text = "import signal\nclass Last:\n  def __init__(self): self.kill = os.kill, os.getpid(), signal.SIGTERM\n"
    text += "  def __del__(self): self.kill[0](*self.kill[1:])\n"
    text += "stop_event()\nimport builtins\nbuiltins.last = Last()\nprint('ready')\n"
    with script(text) as process:
        assert process.stdout.read() == "ready\n"
        assert process.wait(10) == 0


@pytest.mark.parametrize("module", ENTRIES)
def test_each_script_handles_signals_before_it_imports_the_rest(module):
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    code = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    first, guarded = [node for node in code if getattr(node, "module", "") != "__future__"][:2]
    assert ast.unparse(first).startswith("from iot.processes import ")
    assert ast.unparse(guarded) == "if __name__ == '__main__':\n    stop_event()"


@pytest.mark.parametrize("system", ["linux", "other"])
@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "raise SystemExit"])
def test_a_child_dies_with_its_parent(end, system, tmp_path):
    reader, writer = os.pipe()
    text = f"child = spawn(['sleep', '600'], pass_fds=[{writer}])\nprint(child.pid)\ninput()\n{end}\n"
    if system == "other":
        # Linux can also run the code for systems whose kernel does not kill a child with its parent.
        source = Path(__file__).parents[2] / "iot" / "processes.py"
        changed = source.read_text().replace('sys.platform == "linux"', "False")
        (tmp_path / "processes.py").write_text(changed)
        text = f"import iot.processes\niot.processes.__file__ = {str(tmp_path / 'processes.py')!r}\n{text}"
    with script(text, stdin=subprocess.PIPE, pass_fds=[writer]) as process:
        os.close(writer)
        os.kill(int(process.stdout.readline()), 0)
        assert not select.select([reader], [], [], 0)[0], "the child lives as long as its parent"
        process.stdin.write("\n")
        process.stdin.flush()
        # The pipe closes when the last process that holds it has ended.
        assert select.select([reader], [], [], 10)[0]
    os.close(reader)
