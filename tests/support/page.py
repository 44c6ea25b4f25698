"""Shared by the tests of the page: the web server on a database, a stand-in for Spark, and the browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from iot.alerts import DEFAULT_RULES, Delivered
from iot.broker.broker import Broker, find_free_port
from iot.results.model import QueryStatus, Status
from iot.results.store import Store
from tests.support import leftovers
from tests.support.results import IDENTITY, NOW_S, Sample, Stream, delivered, write_batch

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# How long an expectation may take on a busy machine.
TIMEOUT_MS = 60_000
# What Chromium says of a page that starts slowly, because the machine is busy.
SLOW = re.compile("preloaded using link preload but not used within a few seconds")
TOPIC = "page-readings"


class Site:
    """The web server's process on its own database."""

    def __init__(self, folder: Path, bootstrap_servers: str) -> None:
        port = find_free_port()
        url = f"sqlite:///{folder / 'results.db'}"
        self._command = [
            *(sys.executable, "-m", "iot.web", "--database-url", url, "--port", str(port)),
            *("--bootstrap-servers", bootstrap_servers, "--topic", TOPIC),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.bootstrap_servers = bootstrap_servers
        self.address = f"http://127.0.0.1:{port}"
        self.store = Store(url)

    def start(self, eventually: Callable[..., None]) -> None:
        # It outlives the test that starts it.
        environment = os.environ | {leftovers.TEST: "page"}
        process = self._process = subprocess.Popen(self._command, cwd=ROOT, env=environment)

        def answers() -> bool:
            assert process.poll() is None, "the web server has ended"
            try:
                urllib.request.urlopen(f"{self.address}/api/metrics", timeout=5).close()
            except OSError:
                return False
            return True

        eventually(answers, 60)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


class FakeProcessing:
    """Stands in for Spark, on a database that it empties first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stream = Stream()
        self._batches = self._alerts = 0
        store.reset(IDENTITY, "state-1")
        self.beat()

    def process(self, *samples: Sample, ago_s: float = 0) -> None:
        write_batch(self._store, self._batches, list(samples), self._stream, DEFAULT_RULES, time.time() - ago_s)
        self._batches += 1
        self.beat()

    def beat(self, failure: str | None = None, ago_s: float | None = None, **status: Any) -> None:
        # A time in the future, so that a slow test does not look like a Spark that is gone.
        at_s = time.time() + (600 if ago_s is None else -ago_s)
        queries = [QueryStatus("windows", not failure, failure, at_s), QueryStatus("alerts", True, None, at_s)]
        self._store.heartbeat(Status(at_s=at_s, started_s=at_s, queries=queries, topic=TOPIC, **status))

    def alert(self, **fields: Any) -> str:
        """Store an alert and return its id."""
        self._alerts += 1
        made = an_alert(self._alerts, **fields)
        self._store.write_alerts([made], {0: self._alerts}, IDENTITY.topic_id)
        return made.alert.alert_id


def a_reading(ago_s: float = 0, **fields: Any) -> Sample:
    return Sample(at_s=time.time() - ago_s - NOW_S, **fields)


def readings(**fields: Any) -> list[Sample]:
    """Readings of the last four minutes, one every 5 s."""
    return [a_reading(ago_s, **fields) for ago_s in range(240, -1, -5)]


def an_alert(number: int, **fields: Any) -> Delivered:
    return delivered(number, time.time() - NOW_S, **({"alert_id": f"{TOPIC}-0-{number}"} | fields))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, one for all tests of a module."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        text = f"the page is NOT tested: none of {', '.join(BROWSERS)} is installed"
        if os.environ.get("CI"):
            pytest.fail(text)
        warnings.warn(text, stacklevel=1)
        pytest.skip(text)
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=BROWSER_FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def running_site(browser: Browser, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("page"), broker.bootstrap_servers)
    yield made
    made.stop()
    made.store.close()


@pytest.fixture
def site(running_site, eventually):
    if not running_site._process:
        running_site.start(eventually)
    return running_site


@pytest.fixture
def processing(site):
    return FakeProcessing(site.store)


@pytest.fixture
def open_page(browser, site) -> Iterator[Callable[..., Page]]:
    """``open_page(path)`` opens the page. At the end, no page may have had an error or requested another origin.

    ``expected`` is a pattern of the errors that the test provokes.
    """
    contexts = []
    problems: list[str] = []
    asked: list[str] = []

    def open_one(path: str = "/", expected: str | None = None, push: bool = True, **options: Any) -> Page:
        defaults: dict[str, Any] = {"viewport": {"width": 1440, "height": 1600}, "locale": "en-GB"}
        context = browser.new_context(**(defaults | options))
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        if not push:
            # This is the answer of a server that cannot push. Requests of a shared worker cannot be answered here.
            context.add_init_script("delete window.SharedWorker")
            context.route("**/api/stream", lambda route: route.fulfill(status=501))
        page: Page = context.new_page()

        def said(message: ConsoleMessage) -> None:
            is_expected = SLOW.search(message.text) or (expected and re.search(expected, message.text))
            if message.type in ("error", "warning") and not is_expected:
                problems.append(message.text)

        page.on("console", said)
        page.on("pageerror", lambda error: problems.append(str(error)))
        context.on("request", lambda request: asked.append(request.url))
        page.goto(site.address + path)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert problems == [], problems
    # blob: and data: stay within the page.
    assert [url for url in asked if not url.startswith((f"{site.address}/", "blob:", "data:"))] == []
    assert any(url.endswith("/static/dashboard.js") for url in asked)


def wait_for_state(page: Page, name: str) -> None:
    expect(page.get_by_test_id("state-banner")).to_have_attribute("data-state", name)


def wait_for_charts(page: Page) -> None:
    for name in ("chart-window", "chart-rate"):
        chart = page.get_by_test_id(name).first
        # Charts out of sight are not drawn.
        chart.scroll_into_view_if_needed()
        expect(chart.locator(".xtick text").first).to_be_visible()
