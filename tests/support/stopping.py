"""Start a script, stop it at a given moment, and say how it ended and what it left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.scripts import ROOT

MARK = "IOT_STOPPED_BY_A_TEST"
# How long a script may take to stop. Spark must have started before it can be stopped.
STOP_S = 60.0
# How long a JVM may take to notice that its parent has ended.
CHILD_S = 10.0


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    status: int
    output: str
    """Of both standard streams."""
    took_s: float
    """From the signal to the end."""
    left: list[str]
    """The command lines of processes that are left, and the names of temporary files."""


def is_ready_to_stop(pid: int) -> bool:
    """Whether the process handles SIGINT and SIGTERM. Before that, Python itself is still starting."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGINT))


def running(mark: str) -> list[str]:
    """The command lines of all processes that inherited the mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
        except OSError:
            continue
    return found


def stop_after(
    command: list[str], delay_s: float, number: int, folder: Path, environment: Mapping[str, str] | None = None
) -> Ended:
    """Start a script, and send it a signal ``delay_s`` after it handles signals, or sooner if it ends by itself.

    SIGINT goes to its process group, as from Ctrl-C in a terminal. Other signals go to the script alone.

    Args:
        folder: for what it writes; must be new.
    """
    mark, temporary = uuid.uuid4().hex, folder / "tmp"
    temporary.mkdir(parents=True)
    given = os.environ | {MARK: mark, "TMPDIR": str(temporary), "IOT_LOG_DIR": str(folder / "log")}
    given |= {"IOT_DATA_DIR": str(folder / "data"), "PYTHONPATH": str(ROOT)} | dict(environment or {})
    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=given, start_new_session=True, cwd=folder
        )
        try:
            while not is_ready_to_stop(process.pid) and process.poll() is None:
                time.sleep(0.001)
            try:
                process.wait(delay_s)
            except subprocess.TimeoutExpired:
                send = os.killpg if number == signal.SIGINT else os.kill
                send(process.pid, number)
            sent_s = time.monotonic()
            status = process.wait(STOP_S)
            took_s = time.monotonic() - sent_s
        finally:
            process.kill()
            process.wait()
            assert process.stdin
            process.stdin.close()
    deadline_s = time.monotonic() + CHILD_S
    while (left := running(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    # The private folder of a user stays, but of its content only links and the lock.
    found = [path for path in temporary.glob("iot-*/*") if not path.is_symlink() and path.name != "lock"]
    found += [path for path in temporary.iterdir() if not re.match(r"hsperfdata|iot-\d+$", path.name)]
    left += map(str, found)
    return Ended(status, said.read_text(errors="replace"), took_s, left)
