"""Keep Java's optimizing compiler (C2) from starving the application.

In the first minutes of Spark, C2 takes most of one processor. Little of the code that it compiles runs often: a query
plans and commits much, and computes little. So C2 starts later than usual, and its threads have a low priority. Code
that stays hot, for example while a backlog is processed, is compiled all the same.

Measured with ``python -m benchmarks.startup`` on 2 cores: the first number comes after 8.7 s, without it after 10.2 s.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FLAGS = [
    # All threads must exist from the start, because ``give_way`` is called only then.
    "-XX:-UseDynamicNumberOfCompilerThreads",
    # Twenty times HotSpot's defaults.
    "-XX:Tier4InvocationThreshold=100000",
    "-XX:Tier4MinInvocationThreshold=12000",
    "-XX:Tier4CompileThreshold=300000",
    "-XX:Tier4BackEdgeThreshold=800000",
]
NICENESS = 19
# Linux cuts a thread's name to 15 characters.
THREAD_NAME = "C2 CompilerThre"


def give_way(pid: int) -> int:
    """Lower the priority of a JVM's C2 threads; return how many there were. Without /proc it does nothing."""
    changed = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread may end at any moment.
            with suppress(OSError):
                if (task / "comm").read_text().strip() == THREAD_NAME:
                    os.setpriority(os.PRIO_PROCESS, int(task.name), NICENESS)
                    changed += 1
    return changed
