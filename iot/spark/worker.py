"""Spark's daemon for Python workers, with all that a worker imports already there when it forks one.

Spark's own daemon imports nothing, so each worker spends most of a second on it, and keeps a copy in memory. And after
each task a worker collects garbage, which means to look at all objects there are: those of the imports, seventy
thousand, are set aside, so that little is left to look at.
"""

from __future__ import annotations

import gc
import os

# Numpy's threads would not survive the fork, and nothing here needs them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pyarrow.compute  # noqa: F401
import pyspark.worker  # noqa: F401
from pyspark.daemon import manager

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    manager()
