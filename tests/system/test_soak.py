"""A short soak test at full rate: every reading is counted, and the files stay within their bounds.

Readings are sent for one minute; IOT_SOAK_MINUTES makes it longer. From ten minutes on it also checks that nothing
grew; a shorter run is over before all caches are full.
"""

from __future__ import annotations

import os

import pytest

from benchmarks import soak
from benchmarks.soak_growth import WORKER, WORKERS

MINUTES = float(os.environ.get("IOT_SOAK_MINUTES") or 1)
RETENTION_S = 25
SEGMENT_BYTES = 2**20
PROCESSES = {"broker", "app", "Spark's JVM", "page", "producer", WORKER, WORKERS}
FILES = {"database", "checkpoints", "broker's data", "logs", "temporary files"}


@pytest.mark.long
@pytest.mark.timeout(600 + 60 * MINUTES)
def test_no_reading_is_lost_and_disk_use_is_bounded(tmp_path):
    run = soak.run(tmp_path, soak.Settings(MINUTES, retention_s=RETENTION_S, segment_bytes=SEGMENT_BYTES))
    assert run.faults() == []
    assert run.told > 0
    # The producer may have ended before the last sample.
    seen = run.samples[-2]
    assert (set(seen.memory_mb), set(seen.files_mb)) == (PROCESSES, FILES)
    most = {trend.what: trend.most_mb for trends in run.trends() for trend in trends}
    written_mb = run.sent * 200 / 2**20
    # Less than half of what was written in a minute is retained, and some of the rest is not deleted yet.
    assert seen.files_mb["broker's data"] < written_mb / max(1, MINUTES)
    assert most["database"] < 40
    # Spark removes the files of a batch after two minutes.
    assert most["checkpoints"] + most["logs"] + most["temporary files"] < 50
    if MINUTES >= 10:
        assert [trend.what for trends in run.trends() for trend in trends if trend.grew] == []
