"""Less code generation for small batches: Spark's settings that decide whether it compiles a query or interprets it.

Once folded, a batch is a few thousand rows: compiling code for them takes longer than the rows do. And Spark
regenerates expression code for every batch, only to find it in its compile cache: half of the work of a small batch.
Interpreted, a large batch takes a fifth longer, so the choice is made batch by batch.

Measured with the end-to-end load test at 1,000 readings a second, on 2 cores: readings are in their windows on the page
after 695 ms instead of 791 ms (p50). ``python -m benchmarks.startup_variants "no factoryMode"`` runs without it.

``spark.sql.codegen.factoryMode`` is an internal setting of Spark; look at it again with each new version.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NO_WHOLE_STAGE_CODEGEN = {"spark.sql.codegen.wholeStage": "false"}
FACTORY_MODE, INTERPRETED, COMPILED = "spark.sql.codegen.factoryMode", "NO_CODEGEN", "FALLBACK"
# How soon a batch must follow the one before it to be small: it has what was sent meanwhile.
SMALL_S = 3.0
# The first batch after a start may be one that was cut off, and then the second has everything that came since.
STARTING_BATCHES = 2


def codegen_chooser(clock: Callable[[], float] = time.monotonic) -> Callable[[SparkSession], None]:
    """A function to call in each batch with the session of its frame: it chooses for the jobs that follow.

    Args:
        clock: in seconds.
    """
    begun_s: deque[float] = deque(maxlen=STARTING_BATCHES + 1)

    def choose(spark: SparkSession) -> None:
        begun_s.append(clock())
        is_small = len(begun_s) > STARTING_BATCHES and begun_s[-1] - begun_s[-2] < SMALL_S
        spark.conf.set(FACTORY_MODE, INTERPRETED if is_small else COMPILED)

    return choose


@contextmanager
def with_settings(spark: SparkSession, wanted: Mapping[str, str]) -> Iterator[None]:
    """Settings for the queries that are started in this block: a query keeps the settings of its start."""
    before = {key: str(spark.conf.get(key)) for key in wanted}
    for key, value in wanted.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)
