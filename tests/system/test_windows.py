"""Many windows of one browser on one dashboard: all of them stay live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.page import (  # noqa: F401  # fixtures among them
    FakeProcessing,
    a_reading,
    browser,
    processing,
    running_site,
    site,
)

WINDOWS = 12
PUSHED, READ = "pushed as it happens", "no push: read every 5 s"


@pytest.fixture
def context(browser) -> Iterator[BrowserContext]:
    made = browser.new_context()
    made.set_default_timeout(20_000)
    yield made
    made.close()


def open_windows(context: BrowserContext, address: str, count: int = WINDOWS) -> list[Page]:
    pages = []
    for _ in range(count):
        page = context.new_page()
        page.goto(address)
        expect(page.get_by_test_id("value-messages")).not_to_have_text("–")
        pages.append(page)
    return pages


def require_live(pages: list[Page], processing: FakeProcessing, text: str | None = PUSHED) -> None:
    """Process one more reading, and wait until every window counts it."""
    before = int(pages[0].get_by_test_id("value-messages").inner_text())
    processing.process(a_reading())
    for page in pages:
        expect(page.get_by_test_id("value-messages")).to_have_text(str(before + 1))
        if text:
            expect(page.get_by_test_id("transport")).to_have_text(text)
        assert page.evaluate("document.visibilityState") == "visible"


def streams(site: Any) -> int:
    import urllib.request

    with urllib.request.urlopen(f"{site.address}/metrics") as answer:
        return next(
            int(float(line.split()[-1]))
            for line in answer.read().decode().splitlines()
            if line.startswith("iot_event_streams")
        )


def test_twelve_windows_share_one_stream(context, site, processing, eventually):
    processing.process(a_reading())
    pages = open_windows(context, site.address)
    require_live(pages, processing)
    print(streams(site))
    begun = time.monotonic()
    pages += open_windows(context, site.address, 1)
    print("13th", time.monotonic() - begun)
    for page in pages[:6]:
        page.close()
    require_live(pages[6:], processing)
    site.stop()
    for page in pages[6:]:
        expect(page.get_by_test_id("state-word")).to_have_text("Server unreachable")
    site.start(eventually)
    require_live(pages[6:], processing)
