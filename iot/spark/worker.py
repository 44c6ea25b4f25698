"""The daemon for Spark's Python workers, with everything that a worker imports loaded before it forks one.

Spark's own daemon imports nothing, so each worker spends most of a second on imports and holds a copy in memory.
After each task a worker also collects garbage over all objects. Those of the imports are frozen, so few are left.

Measured with the end-to-end load test at 1,000 readings a second, on 2 cores: readings are in their windows on the page
after 695 ms instead of 874 ms (p50). ``python -m benchmarks.startup_variants "no worker daemon"`` runs without it.
"""

from __future__ import annotations

import gc
import os

# Numpy's threads would not survive the fork, and nothing here needs them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pyarrow.compute  # noqa: F401
import pyspark.worker  # noqa: F401
from pyspark.daemon import manager

import iot.spark.rejected
import iot.spark.windows  # noqa: F401

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    manager()
