"""What tests of whole scripts need: where the scripts are, and the processes that they start."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXECUTOR = "org.apache.spark.executor.CoarseGrainedExecutorBackend"


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process with these options of ``Popen``, killed at the end of the block if it has not ended.

    ``with subprocess.Popen(…)`` would wait for it, after a failure in the block for ever.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Read the output of a process until a line begins with ``pattern``; return what was read."""
    assert process.stdout
    lines: list[str] = []
    while not lines or not re.match(pattern, lines[-1]):
        lines.append(process.stdout.readline())
        assert lines[-1], f"ended without {pattern!r}: {lines}"
    return "".join(lines)


def descendants(pid: int) -> list[int]:
    """The ids of all processes that a process started, directly or through others."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open; none if it has ended."""
    found = set()
    with suppress(FileNotFoundError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            # Any of them may be closed meanwhile.
            with suppress(FileNotFoundError):
                found.update(re.findall(r"^socket:\[(\d+)\]$", str(entry.readlink())))
    return found


def command_line(pid: int) -> str:
    """The command line of a process; empty if the process has ended, even if its parent has not waited for it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def executors(workers: Iterable[int]) -> list[int]:
    """The process ids of the executors that these workers of a Spark cluster have started."""
    return [pid for worker in workers for pid in descendants(worker) if EXECUTOR in command_line(pid)]
