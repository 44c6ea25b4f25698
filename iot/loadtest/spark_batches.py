"""How long Spark and the database take in a batch, from the REST interface of Spark's UI.

A batch of the windows query is one SQL execution, which ends when its results are in the database. Within it, another
one computes these results. The rest of the batch is spent on writing them.
"""

from __future__ import annotations

import json
import re
import statistics
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

# How long to wait for Spark's answer.
ANSWER_S = 5.0
# The description of an execution of the query begins with its name.
_BATCH = re.compile(r"windows\b")


class BatchTimes(NamedTuple):
    """Median seconds of the newest batches: until Spark has computed the results, and until they are written."""

    spark_s: float
    database_s: float


def newest_batches(spark_ui: str | None) -> BatchTimes | None:
    """The times of the newest batches; None if Spark's UI cannot be reached from here."""
    if not spark_ui:
        return None
    try:
        [application, *_] = _get(f"{spark_ui}/api/v1/applications")
        return batch_times(_get(f"{spark_ui}/api/v1/applications/{application['id']}/sql?details=false&length=1000"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def batch_times(executions: Iterable[dict[str, Any]]) -> BatchTimes | None:
    """The median times of completed batches.

    Args:
        executions: as Spark's ``/applications/{id}/sql`` lists them.
    """
    of_batch: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in executions:
        if _BATCH.match(one["description"]):
            of_batch[one["rootExecutionId"]].append(one)
    times = []
    for root, found in of_batch.items():
        spans = {one["id"]: _span_s(one) for one in found if one["status"] == "COMPLETED"}
        if root in spans and len(spans) == len(found) > 1:
            begin_s, end_s = spans.pop(root)
            computed_s = max(end_s for _, end_s in spans.values())
            times.append((computed_s - begin_s, max(0.0, end_s - computed_s)))
    return BatchTimes(*(statistics.median(column) for column in zip(*times, strict=True))) if times else None


def _span_s(execution: dict[str, Any]) -> tuple[float, float]:
    """When an execution began and ended, in seconds since the epoch."""
    begin_s = datetime.fromisoformat(execution["submissionTime"].replace("GMT", "+00:00")).timestamp()
    return begin_s, begin_s + execution["duration"] / 1000


def _get(url: str) -> Any:
    # Spark is on this machine or network, so no proxy is used.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=ANSWER_S) as response:
        return json.load(response)
