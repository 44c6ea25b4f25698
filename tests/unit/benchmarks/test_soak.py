"""The judgement of a soak test, on made-up samples, and its page."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from benchmarks.soak_growth import Sample, Soak
from benchmarks.soak_report import write_page


def make_soak(memory_mb: list[float], files_mb: list[float], **more: int) -> Soak:
    """A run with a sample a second."""
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
        # Growth during the warm-up does not count.
        ([*range(80, 100), *[100] * 30], False),
        ([*[100] * 25, *[106] * 25], True),
        ([*[100] * 25, *[104] * 25], False),
        # A single peak and a few megabytes do not count.
        ([*[100] * 47, 300, 100, 100], False),
        ([*[10] * 25, *[14] * 25], False),
        ([*[100] * 25, *[50] * 25], False),
    ],
)
def test_only_lasting_growth_after_the_warm_up_counts(memory_mb, grew):
    [memory], [files] = make_soak(memory_mb, memory_mb).trends()
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
def test_lost_readings_and_failed_health_checks_are_faults(more, fault):
    assert make_soak([100] * 50, [1] * 50, **more).faults() == ([fault] if fault else [])


def test_the_page_needs_no_network(tmp_path):
    run = make_soak([*[100] * 25, *[200] * 25], [1] * 50)
    write_page(tmp_path / "soak.html", run)
    page = (tmp_path / "soak.html").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link|img)\b[^>]*(?:src|href)=.?http", page.partition("<script>")[0])
    [data] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert len(json.loads(data)["samples"]) == 50
    assert "+100.0 %" in page
