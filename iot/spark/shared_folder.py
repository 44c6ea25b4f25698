"""Whether the machines of a cluster see the checkpoint folder of this process.

Executors write a query's state into the checkpoint folder, and the driver writes the rest. A local folder that is
another one on each machine would lose the state at the next restart.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iot.processes import Stopped, until_stopped
from iot.settings import UserError, reason
from iot.spark.cluster import slots
from iot.spark.errors import explain

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# How long an executor looks for the file: a network folder may show it late.
LOOK_S = 5.0


def require_shared(session: SparkSession, folder: Path, stop: threading.Event) -> None:
    """Check that each executor sees a file that this process writes into the folder.

    Args:
        folder: of this machine; it exists.
        stop: ends the wait for the executors.

    Raises:
        UserError: one does not see it, or executors run no task.
        Stopped: ``stop`` was set.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder.absolute(), prefix=".shared-") as marker:
            look = looking_for(marker.name, LOOK_S)
            count = max(slots(session), 1)
            # With a task for each slot, every executor has one.
            tasks = session.sparkContext.parallelize(range(count), count).mapPartitions(look)
            missing = sorted(set(until_stopped(tasks.collect, stop, "before anything was processed")) - {""})
    except OSError as error:
        fix = "choose another folder with --checkpoint-dir"
        raise UserError(f"cannot write {folder}: {reason(error)}; {fix}") from error
    except (UserError, Stopped):
        raise
    except Exception as error:
        raise UserError(f"the executors run no task: {explain(error)}") from error
    if missing:
        raise UserError(
            f"{', '.join(missing)} does not see the checkpoint folder {folder.absolute()} of this machine: choose a "
            "folder that all machines of the cluster share, or a URI such as hdfs://namenode:8020/iot, with "
            "--checkpoint-dir"
        )


def looking_for(path: str, patience_s: float) -> Any:
    """The function of a task: yields the name of its machine if that does not see ``path``, otherwise an empty text."""

    # Spark sends a function inside a function by value, so that the executors need none of this program's modules.
    def look(_: Any) -> Any:
        import os
        import socket
        import time

        deadline_s = time.monotonic() + patience_s
        while not os.path.exists(path):  # noqa: PTH110  # it never raises
            if time.monotonic() > deadline_s:
                yield socket.gethostname()
                return
            time.sleep(0.1)
        yield ""

    return look
