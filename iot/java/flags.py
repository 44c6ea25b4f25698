"""Java's best compiler, kept from taking the processors that the program itself needs.

Of two processors that compiler takes most of one for the first minutes of Spark, for code that is hardly run: a query
plans and commits much, and computes little. So code counts as hot later than usual, and while others want the
processors that compiler's threads give way. What is hot, as when a backlog is worked off, is compiled all the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FLAGS = [
    # So that all of its threads are there from the start.
    "-XX:-UseDynamicNumberOfCompilerThreads",
    # Twenty times the defaults of the HotSpot virtual machine.
    "-XX:Tier4InvocationThreshold=100000",
    "-XX:Tier4MinInvocationThreshold=12000",
    "-XX:Tier4CompileThreshold=300000",
    "-XX:Tier4BackEdgeThreshold=800000",
]
NICENESS = 19
# As Linux has it: 15 characters of a thread's name.
THREAD_NAME = "C2 CompilerThre"


def give_way(pid: int) -> int:
    """Have the best compiler's threads of a JVM give way to all others; how many did. Without /proc none do."""
    changed = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread may end at any moment.
            with suppress(OSError):
                if (task / "comm").read_text().strip() == THREAD_NAME:
                    os.setpriority(os.PRIO_PROCESS, int(task.name), NICENESS)
                    changed += 1
    return changed
