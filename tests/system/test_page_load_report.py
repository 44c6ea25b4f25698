"""The report of a load test in a browser: what it shows, what it leaves out, and that it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from iot.loadtest.latency import Milliseconds
from iot.loadtest.report import render
from iot.loadtest.results import Report, Result
from iot.loadtest.thresholds import check, threshold
from iot.loadtest.usage import UsageSample
from tests.support.load_results import make_backlog, make_end_to_end, make_max_rate, make_result
from tests.support.page import TIMEOUT_MS
from tests.support.page import browser as browser

# The number of points of each line of a chart.
POINTS = "id => document.querySelector(`#${id} .plot`).data.map((trace) => trace.x.length)"
WIDTHS = (390, 1200, 1440)
TESTS: dict[str, Callable[[], list[Result]]] = {
    "burst": lambda: [short_result(client=client) for client in ("kafka-python", "confluent-kafka")],
    "sweep": lambda: [
        make_result(client=client, threads=threads, test="custom")
        for client in ("kafka-python", "confluent-kafka")
        for threads in (1, 4, 18)
    ],
    "end-to-end": lambda: [make_end_to_end(client="confluent-kafka", messages=1_000_000, throughput_per_s=1_000_000.0)],
    "max-rate": lambda: [make_max_rate()],
    "backlog": lambda: [make_backlog()],
}

OVER_TIME = {"percentiles", "latency", "throughput", "cpu", "memory"}
CHARTS = {
    "burst": {"percentiles"},
    "sweep": OVER_TIME | {"threads", "frugality"},
    "end-to-end": OVER_TIME,
    "max-rate": {"percentiles", "latency", "steps", "step-cpu", "processes"},
    "backlog": OVER_TIME | {"drain", "processes"},
}


def short_result(**changes: object) -> Result:
    """A test that ended before anything could be sampled."""
    defaults = {
        "duration_s": 0.015,
        "cpu_pct": None,
        "machine_cpu_pct": None,
        "throughput_per_cpu_pct": None,
        "latency_over_time": [],
        "timeline": [UsageSample(0.015, 1_000, 0.0, 0.0, 58.0)],
    }
    return make_result(**defaults | changes)


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[[Report], Page]]:
    """``show(report)`` opens a report. At the end, no page may have had an error or asked for anything."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    problems: list[str] = []
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))

    def show_one(report: Report) -> Page:
        path = tmp_path / "report.html"
        path.write_bytes(render(report))
        page.set_viewport_size({"width": 1440, "height": 1000})
        page.goto(path.as_uri())
        return page

    yield show_one
    context.close()
    assert problems == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def charts(page: Page) -> set[str]:
    """The ids of the charts that are shown."""
    return {figure.get_attribute("id") or "" for figure in page.locator("figure").all() if figure.is_visible()}


@pytest.mark.parametrize("test", TESTS)
def test_the_page_fits_and_has_only_the_charts_that_show_something(test, show):
    page = show(Report(environment={"cpu": "a processor", "cores": 2}, tests=TESTS[test]()))
    assert charts(page) == CHARTS[test]
    for name in CHARTS[test]:
        points = page.evaluate(POINTS, name)
        assert points, name
        assert min(points) > 1, name
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1000})
        # Charts follow the width a little later.
        page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")
        for table in page.locator(".scroll").all() if width >= 1200 else ():
            assert table.evaluate("one => one.scrollWidth <= one.clientWidth"), (width, table.inner_text())


def test_what_was_not_measured_is_said_to_be_so(show):
    page = show(Report(environment={}, tests=[short_result(latency_ms=Milliseconds(), latency_curve=[])]))
    row = page.locator("table.tests tbody tr")
    assert [cell.inner_text() for cell in row.locator("td").all()][5:8] == ["not measured"] * 3
    expect(page.get_by_text("CPU not measured, the test was too short")).to_be_visible()
    expect(page.get_by_role("heading", name="Charts")).to_be_hidden()


def test_the_result_of_a_search_comes_first_and_a_crossed_threshold_is_red(show):
    tests = [make_max_rate()]
    outcomes = check([threshold("p99<500"), threshold("p99<1")], tests)
    page = show(Report(environment={}, tests=tests, thresholds=outcomes))
    kept, crossed = page.locator(".thresholds li").all()
    colour = "one => getComputedStyle(one).color"
    assert crossed.evaluate(colour) == "rgb(179, 38, 30)"
    assert kept.evaluate(colour) != crossed.evaluate(colour)
    expect(crossed).to_contain_text("threshold p99<1 CROSSED: 10 ms in max-rate")
    result = page.locator("section").nth(1)
    expect(result).to_contain_text("38,000 readings/s")
    expect(result).to_contain_text("What gave out first: Spark's batch at 45,000/s")
    expect(page.locator("table.steps tbody tr.missed")).to_have_count(2)
