"""A short soak: broker, dashboard and producer at full rate; every reading counted, and files as bounded as promised.

Three minutes in CI, and one elsewhere; IOT_SOAK_MINUTES makes it longer. From ten minutes on, nothing may have grown
either; before that all is warm-up.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest

from benchmarks import soak
from benchmarks.soak import Sample, Soak

MINUTES = float(os.environ.get("IOT_SOAK_MINUTES") or (3 if os.environ.get("CI") else 1))
RETENTION_S = 25
SEGMENT_BYTES = 2**20
PROCESSES = {"broker", "app", "Spark's JVM", "page", "producer", soak.WORKER, soak.WORKERS}
FILES = {"database", "checkpoints", "broker's data", "logs", "temporary files"}


def made(memory_mb: list[float], files_mb: list[float], **more: int) -> Soak:
    """A run of a second for each of these."""
    samples = [
        Sample(at_s, {"app": memory}, {"app": memory}, {"logs": files})
        for at_s, (memory, files) in enumerate(zip(memory_mb, files_mb, strict=True))
    ]
    counts: dict[str, Any] = {"sent": 600, "processed": 600, "rejected": 0, "unhealthy": 0} | more
    return Soak(minutes=1, rate_per_s=10, samples=samples, **counts)


@pytest.mark.parametrize(
    ("memory_mb", "grew"),
    [
        ([100] * 50, False),
        # Before the warm-up is over.
        ([*range(80, 100), *[100] * 30], False),
        ([*[100] * 25, *[106] * 25], True),
        ([*[100] * 25, *[104] * 25], False),
        # A moment is no growth, and neither is so little.
        ([*[100] * 47, 300, 100, 100], False),
        ([*[10] * 25, *[14] * 25], False),
        ([*[100] * 25, *[50] * 25], False),
    ],
)
def test_growth_is_what_stays_after_the_warm_up(memory_mb, grew):
    [memory], [files] = made(memory_mb, memory_mb).trends()
    assert (memory.grew, files.grew) == (grew, grew)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({}, None),
        ({"processed": 599}, "599 of 600 readings were counted, and 0 rejected"),
        ({"processed": 599, "rejected": 1}, "599 of 600 readings were counted, and 1 rejected"),
        ({"sent": 599, "processed": 599}, "599 readings were sent instead of 600"),
        ({"unhealthy": 1}, "not healthy in 1 of 50 samples"),
    ],
)
def test_what_is_lost_is_a_fault(more, fault):
    assert made([100] * 50, [1] * 50, **more).faults() == ([fault] if fault else [])


def test_the_page_holds_all_it_needs(tmp_path):
    run = made([*[100] * 25, *[200] * 25], [1] * 50)
    soak.write_page(tmp_path / "soak.html", run)
    page = (tmp_path / "soak.html").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link|img)\b[^>]*(?:src|href)=.?http", page.partition("<script>")[0])
    [data] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert len(json.loads(data)["samples"]) == 50
    assert "+100.0 %" in page


@pytest.mark.integration
@pytest.mark.timeout(600 + 60 * MINUTES)
def test_readings_flow_and_nothing_is_lost_or_kept_for_ever(tmp_path):
    run = soak.run(tmp_path, MINUTES, soak.RATE_PER_S, retention_s=RETENTION_S, segment_bytes=SEGMENT_BYTES)
    assert run.faults() == []
    # At the last look the producer may be gone.
    seen = run.samples[-2]
    assert (set(seen.memory_mb), set(seen.files_mb)) == (PROCESSES, FILES)
    most = {trend.what: trend.most_mb for trends in run.trends() for trend in trends}
    written_mb = run.sent * 200 / 2**20
    # Of what was written in a minute, less than half is kept, and some that is yet to be deleted.
    assert seen.files_mb["broker's data"] < written_mb / max(1, MINUTES)
    assert most["database"] < 40
    # Spark removes what it wrote for a batch after two minutes.
    assert most["checkpoints"] + most["logs"] + most["temporary files"] < 50
    if MINUTES >= 10:
        assert [trend.what for trends in run.trends() for trend in trends if trend.grew] == []
