"""The page behind nginx with its default settings: at the root, under a path, and behind a proxy that holds events."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from playwright.sync_api import expect

from tests.support.nginx import running_nginx
from tests.support.page import (  # noqa: F401  # fixtures among them
    FakeProcessing,
    a_reading,
    browser,
    processing,
    running_site,
    site,
)
from tests.support.stored_alarms import an_alarm, put_alarms

LOCATIONS = """
location / {{ proxy_pass {address}; }}
location /iot/ {{ proxy_pass {address}/; }}
location /no-slash {{ proxy_pass {address}; proxy_set_header X-Forwarded-Prefix /no-slash; }}
location /kept/path/ {{ proxy_pass {address}; proxy_set_header X-Forwarded-Prefix /kept/path; }}
location /squeezed/ {{
    proxy_pass {address}/; gzip_types *; gzip_proxied any; gzip_min_length 0; proxy_http_version 1.1;
}}
location /held/ {{ proxy_pass {address}/; proxy_ignore_headers X-Accel-Buffering; proxy_buffers 8 64k; }}
"""
LIVE = ["/", "/iot/", "/iot", "/no-slash/", "/no-slash", "/kept/path/"]
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def proxy(running_site, tmp_path_factory) -> Iterator[str]:
    with running_nginx(tmp_path_factory.mktemp("nginx"), LOCATIONS.format(address=running_site.address)) as url:
        yield url


@pytest.fixture
def open_page(browser, site):
    contexts = []

    def open_one(url: str):
        context = browser.new_context()
        contexts.append(context)
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(url)
        return page, problems

    yield open_one
    for context in contexts:
        context.close()


def get(url: str, **headers: str):
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)


@pytest.mark.parametrize("path", LIVE)
def test_links_of_the_page_and_its_stream_work_at_every_place(proxy, processing, path):
    processing.process(a_reading())
    with get(proxy + path) as answer:
        base, text = answer.url, answer.read().decode()
    if found := re.search(r'<base href="([^"]+)"', text):
        base = urljoin(base, found[1])
    links = {link for link in re.findall(r'(?:href|src)="([^"#]+)"', text) if not link.endswith("/")}
    assert {"static/dashboard.js", "api/openapi.json", "metrics"} <= links
    for link in links:
        with get(urljoin(base, link)) as answer:
            assert answer.status == 200
    with get(urljoin(base, "api/stream")) as stream:
        for number in (2, 3):
            processing.process(a_reading())
            # Each change is passed on before the next one is made.
            while f'"total_messages":{number},' not in stream.readline().decode():
                pass


@pytest.mark.parametrize("path", ["/iot", "/no-slash?minutes=15", "/squeezed/"])
def test_the_page_is_pushed_to_below_a_path(proxy, processing, open_page, path):
    processing.process(a_reading())
    page, problems = open_page(proxy + path)
    expect(page.get_by_test_id("transport")).to_have_text("pushed as it happens")
    processing.process(a_reading())
    expect(page.get_by_test_id("value-messages")).to_have_text("2")
    with get(page.get_by_test_id("link-api").evaluate("link => link.href")) as answer:
        assert answer.status == 200
    assert problems == []


@pytest.mark.parametrize("path", ["/iot/", "/no-slash"])
def test_an_alarm_is_acknowledged_below_a_path(proxy, processing, site, open_page, path):
    processing.process(a_reading())
    put_alarms(site.store, [an_alarm(1)])
    page, problems = open_page(proxy + path)
    page.get_by_test_id("alarm-acknowledge").click()
    page.get_by_test_id("ack-by").fill("Ann")
    page.get_by_test_id("ack-send").click()
    expect(page.get_by_test_id("alarm-row")).to_contain_text("Acknowledged by Ann")
    assert problems == []


def test_behind_a_proxy_that_holds_events_the_page_reads(proxy, processing, open_page):
    processing.process(a_reading())
    page, _ = open_page(f"{proxy}/held/")
    expect(page.get_by_test_id("value-messages")).to_have_text("1")
    processing.process(a_reading())
    expect(page.get_by_test_id("value-messages")).to_have_text("2", timeout=20_000)
    expect(page.get_by_test_id("transport")).to_have_text("no push: read every 5 s")
    expect(page.get_by_test_id("state-word")).to_have_text("Live")


@pytest.mark.parametrize("path", ["/iot/nothing", "/iot/no/thing/here", "/kept/path/no/thing", "/no/thing"])
def test_an_error_page_finds_its_style(proxy, site, path):
    with pytest.raises(urllib.error.HTTPError) as error:
        get(proxy + path)
    assert error.value.code == 404
    text = error.value.read().decode()
    for link in re.findall(r'href="([^"]+)"', text):
        with get(urljoin(proxy + path, link)) as answer:
            assert answer.status == 200
