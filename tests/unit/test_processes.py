"""Stop signals and child processes: each test runs a small script that uses them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PRELUDE = "import os, time\nfrom iot.processes import StopSignal, spawn\n"


@contextmanager
def script(text: str, **popen: object) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-u", "-c", PRELUDE + text]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **popen) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


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
