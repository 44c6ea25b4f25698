"""Many windows of one browser on one dashboard: all of them stay live."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.page import (  # noqa: F401  # fixtures among them
    FakeProcessing,
    Site,
    a_reading,
    browser,
    processing,
    running_site,
    site,
)

# A browser opens six connections to a server.
WINDOWS = 8
PUSHED, READ = "pushed as it happens", "no push: read every 5 s"
NO_WORKER = "delete window.SharedWorker;"
# As on a page without HTTPS.
NO_LOCKS = "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined });"
# An event source and a clock that the test moves.
FAKES = """async (address) => {
    globalThis.made = [];
    globalThis.moved_ms = 0;
    globalThis.messages = [];
    const now = Date.now;
    Date.now = () => now() + moved_ms;
    globalThis.EventSource = class extends EventTarget {
        static CLOSED = 2;
        readyState = 0;
        constructor(url) { super(); this.url = String(url); made.push(this); }
        close() { this.readyState = 2; }
        say(type, data) { this.dispatchEvent(new MessageEvent(type, { data })); }
    };
    const { Stream } = await import(address + "/static/stream.js");
    globalThis.stream = new Stream(new URL("api/stream", address), (message) => messages.push(message));
}"""


@pytest.fixture
def new_context(browser) -> Iterator[Callable[..., BrowserContext]]:
    contexts = []

    def make(script: str = "") -> BrowserContext:
        context: BrowserContext = browser.new_context(viewport={"width": 500, "height": 400})
        # Charts cost much time in many windows, and are not looked at here.
        context.route("**/plotly.min.js", lambda route: route.abort())
        contexts.append(context)
        context.add_init_script(script)
        context.set_default_timeout(20_000)
        return context

    yield make
    for context in contexts:
        context.close()


def open_windows(context: BrowserContext, address: str, count: int) -> list[Page]:
    pages = []
    for _ in range(count):
        page = context.new_page()
        page.goto(address)
        expect(page.get_by_test_id("value-messages")).not_to_have_text("–")
        pages.append(page)
    return pages


def require_live(pages: list[Page], processing: FakeProcessing, *transports: str) -> None:
    """Process one more reading, and wait until every window counts it.

    Args:
        transports: how the windows receive it, sorted.
    """
    before = int(pages[0].get_by_test_id("value-messages").inner_text())
    processing.process(a_reading())
    for page in pages:
        assert page.evaluate("document.visibilityState") == "visible"
        expect(page.get_by_test_id("value-messages")).to_have_text(str(before + 1))
        expect(page.get_by_test_id("transport")).to_have_text(re.compile(f"^({PUSHED}|{READ})$"))
    found = sorted(page.get_by_test_id("transport").inner_text() for page in pages)
    assert found == list(transports)


def open_streams(site: Site) -> int:
    with urllib.request.urlopen(f"{site.address}/metrics") as answer:
        [line] = re.findall(r"^iot_event_streams (\S+)$", answer.read().decode(), re.MULTILINE)
    return int(float(line))


def test_all_windows_share_one_stream(new_context, site, processing, eventually):
    processing.process(a_reading())
    context = new_context()
    first, *others = open_windows(context, site.address, WINDOWS)
    require_live([first, *others], processing, *[PUSHED] * WINDOWS)
    assert open_streams(site) == 1
    first.close()
    # This one goes back and forth in its history.
    others[0].goto("about:blank")
    others[0].go_back()
    require_live(others, processing, *[PUSHED] * (WINDOWS - 1))

    site.stop()
    for page in others:
        expect(page.get_by_test_id("state-word")).to_have_text("Server unreachable")
    site.start(eventually)
    for page in others:
        expect(page.get_by_test_id("state-word")).to_have_text("Live", timeout=30_000)
        expect(page.get_by_test_id("transport")).to_have_text(PUSHED, timeout=30_000)
    require_live(others, processing, *[PUSHED] * (WINDOWS - 1))
    assert open_streams(site) == 1
    context.close()
    eventually(lambda: open_streams(site) == 0)


def test_a_worker_that_died_is_started_again(new_context, browser, site, processing, eventually):
    processing.process(a_reading())
    pages = open_windows(new_context(), site.address, 2)
    require_live(pages, processing, PUSHED, PUSHED)
    session: Any = browser.new_browser_cdp_session()
    found = session.send("Target.getTargets")["targetInfos"]
    [worker] = [target for target in found if target["type"] == "shared_worker"]
    session.send("Target.closeTarget", {"targetId": worker["targetId"]})
    eventually(lambda: open_streams(site) == 0)
    eventually(lambda: open_streams(site) == 1, 30)
    for page in pages:
        expect(page.get_by_test_id("transport")).to_have_text(PUSHED)
    require_live(pages, processing, PUSHED, PUSHED)


def test_without_shared_workers_one_window_holds_the_stream_and_the_others_read(
    new_context, site, processing, eventually
):
    processing.process(a_reading())
    leader, *others = open_windows(new_context(NO_WORKER), site.address, 3)
    require_live([leader, *others], processing, READ, READ, PUSHED)
    assert open_streams(site) == 1
    expect(leader.get_by_test_id("transport")).to_have_text(PUSHED)
    leader.close()
    eventually(lambda: [page.get_by_test_id("transport").inner_text() for page in others].count(PUSHED) == 1)
    require_live(others, processing, READ, PUSHED)


def test_without_workers_and_locks_every_window_reads(new_context, site, processing):
    processing.process(a_reading())
    pages = open_windows(new_context(NO_WORKER + NO_LOCKS), site.address, 2)
    require_live(pages, processing, READ, READ)
    assert open_streams(site) == 0


def test_a_silent_stream_is_opened_again_and_then_given_a_rest(new_context, site):
    page = new_context().new_page()
    page.goto(f"{site.address}/api/openapi.json")
    page.evaluate(FAKES, site.address)
    made = "made.map((source) => source.readyState)"
    page.evaluate("made[0].say('open')")
    assert page.evaluate("stream.pushing") is False, "an open connection alone proves nothing"
    page.evaluate("made[0].say('metrics', '{\"total_messages\": 1}')")
    assert page.evaluate("stream.pushing") is True
    page.evaluate("moved_ms += 14_000; stream.missed()")
    assert page.evaluate(made) == [0]
    page.evaluate("moved_ms += 2_000; stream.missed()")
    assert page.evaluate(made) == [2, 0]
    assert page.evaluate("stream.pushing") is False
    # The second one is silent from the beginning: something on the way holds the events back.
    page.evaluate("moved_ms += 16_000; stream.missed(); stream.missed()")
    assert page.evaluate(made) == [2, 2]
    page.evaluate("made[1].say('metrics', '{}')")
    assert page.evaluate("messages.map(({ type, pushing }) => pushing ?? type)") == [True, "metrics", False]
