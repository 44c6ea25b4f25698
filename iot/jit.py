"""Java's best compiler, kept from taking the processors that the program itself needs.

Of two processors that compiler takes most of one for the first minutes of Spark, for code that is hardly run: a query
plans and commits much, and computes little. So code counts as hot later than usual, and while others want the
processors that compiler's threads give way. What is hot, as when a backlog is worked off, is compiled all the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# Twenty times the defaults of the HotSpot virtual machine.
FLAGS = [
    "-XX:Tier4InvocationThreshold=100000",
    "-XX:Tier4MinInvocationThreshold=12000",
    "-XX:Tier4CompileThreshold=300000",
    "-XX:Tier4BackEdgeThreshold=800000",
]
NICENESS = 19
# As Linux has it: 15 characters of a thread's name.
THREADS = "C2 CompilerThre"


def give_way(pid: int) -> int:
    """Have the best compiler's threads of a JVM give way to all others; how many did. Nothing where there is no /proc.

    Threads that the JVM adds later are started by these, and inherit it.
    """
    changed = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread may end at any moment.
            with suppress(OSError):
                if (task / "comm").read_text().strip() == THREADS:
                    os.setpriority(os.PRIO_PROCESS, int(task.name), NICENESS)
                    changed += 1
    return changed
