"""End processes that tests leave behind. They are found by variables that they inherited, so on Linux only."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

# Its value is the same for all processes that one run of pytest starts, directly or through others.
RUN = "IOT_TESTS_RUN"
# pytest sets it to the test and its phase, such as "tests/test_x.py::test_y (call)".
TEST = "PYTEST_CURRENT_TEST"
# How long processes may take to notice that their parent has ended.
GRACE_S = 10.0


def running(run: str, test: str | None = None) -> dict[int, str]:
    """Return the command lines of the processes of a run, or of one phase of a test, by process id."""
    wanted = {f"{RUN}={run}".encode()} | ({f"{TEST}={test}".encode()} if test else set())
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            if wanted.issubset(variables):
                [started_by] = [text for text in variables if text.startswith(f"{TEST}=".encode())] or [b"no test"]
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")[:200]
                found[int(folder.name)] = (command + b"of " + started_by).decode(errors="replace")
    return found


def end(run: str, test: str | None = None, grace_s: float = GRACE_S) -> None:
    """Wait until no process of a run, or of one phase of a test, is left; kill what does not end.

    Raises:
        AssertionError: a process had to be killed. The text has the command lines.
    """
    deadline_s = time.monotonic() + grace_s
    while (left := running(run, test)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "processes were left running: " + "; ".join(left.values())
