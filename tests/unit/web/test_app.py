"""The page, its static files, the event stream and errors, on a fake database."""

from __future__ import annotations

import re

import pytest

from iot.web import events
from iot.web.app import create_app
from iot.web.mount import mounted
from iot.web.server import HAND_OVER


def test_the_page_and_plotly_are_served(client):
    page = client.get("/")
    assert page.content_type == "text/html; charset=utf-8"
    assert "static/plotly.min.js" in page.text
    plotly = client.get("/static/plotly.min.js")
    assert plotly.content_type == "text/javascript; charset=utf-8"
    assert b"plotly" in plotly.data[:100]
    assert plotly.headers["Cache-Control"] == "max-age=86400"
    again = client.get("/static/plotly.min.js", headers={"If-None-Match": plotly.headers["ETag"]})
    assert again.status_code == 304


def test_every_file_that_the_page_names_is_served_and_can_be_cached(client):
    named = set(re.findall(r'(?:href|src)="(static/[^"]+)', client.get("/").text))
    assert {"static/base.css", "static/dashboard.js"} <= named
    for path in named:
        with client.get(f"/{path}") as answer:
            assert (answer.status_code, bool(answer.headers["ETag"])) == (200, True), path


def test_every_icon_that_the_page_may_show_is_in_it(client):
    page = client.get("/").text
    drawn = set(re.findall(r'<symbol id="icon-(\w+)"', page))
    named = set(re.findall(r'href="#icon-(\w+)"', page))
    states = {"connecting", "unauthorised", "unreachable", "failed", "no_data", "stale", "live", "paused"}
    assert named | states | {"good", "warning", "play"} == drawn


def test_unknown_paths_are_not_found(client):
    answer = client.get("/api/nothing")
    assert answer.status_code == 404
    assert answer.json.keys() == {"error"}
    assert client.get("/nothing").content_type == "text/html; charset=utf-8"
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/api/metrics", "/api/stream", "/healthz", "/metrics"])
def test_only_read_methods_are_allowed(client, method, path):
    answer = client.open(path, method=method)
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_an_unexpected_error_reveals_nothing_to_the_client(client, store, capsys):
    client.get("/api/metrics")
    store.alerts = lambda *asked: {}["a secret"]
    answer = client.get("/api/alerts")
    assert answer.status_code == 500
    assert answer.json.keys() == {"error"}
    assert "secret" not in answer.text
    assert capsys.readouterr().err == "error: GET /api/alerts: KeyError: 'a secret'\n"


def test_a_stream_is_handed_over_while_there_is_room(client, monkeypatch):
    handed: list[object] = []
    answer = client.get("/api/stream", environ_overrides={HAND_OVER: handed.append})
    assert (answer.status_code, answer.content_type) == (200, "text/event-stream; charset=utf-8")
    assert "Content-Length" not in answer.headers
    assert len(handed) == 1
    assert client.head("/api/stream", environ_overrides={HAND_OVER: handed.append}).status_code == 200
    assert len(handed) == 1
    monkeypatch.setattr(events, "MAX_STREAMS", 0)
    answer = client.get("/api/stream", environ_overrides={HAND_OVER: handed.append})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert answer.json == {"error": "too many event streams are open"}
    assert len(handed) == 1


def test_a_server_that_cannot_push_refuses_the_event_stream(client):
    answer = client.get("/api/stream")
    assert answer.status_code == 501
    assert answer.json.keys() == {"error"}


@pytest.mark.parametrize(
    ("path", "prefix", "found"),
    [
        ("/", "", "/"),
        ("/iot", "/iot", "/"),
        ("/iot/", "/iot/", "/"),
        ("/api/metrics", "/iot", "/api/metrics"),
        ("/a/b/metrics", "/a/b", "/metrics"),
        ("/iota", "/iot", "/iota"),
        ("/metrics", "//evil.example", "/metrics"),
        ("/metrics", '/"><script>', "/metrics"),
    ],
)
def test_the_path_of_a_proxy_is_removed(path, prefix, found):
    seen = {}
    mounted(lambda environ, _: seen.update(environ) or [])({"PATH_INFO": path, "HTTP_X_FORWARDED_PREFIX": prefix}, None)
    assert seen["PATH_INFO"] == found
    valid = prefix.startswith(("/iot", "/a"))
    assert seen.get("SCRIPT_NAME", "") == (prefix.rstrip("/") if valid else "")


def test_below_a_path_the_page_says_where_its_links_begin(client):
    assert "<base" not in client.get("/").text
    page = client.get("/", headers={"X-Forwarded-Prefix": "/iot"})
    assert '<base href="/iot/" />' in page.text
    assert "base-uri 'self'" in page.headers["Content-Security-Policy"]
    assert "<base" not in client.get("/", headers={"X-Forwarded-Prefix": '/"onload="x'}).text
    assert 'href="../../static/message.css"' in client.get("/no/such/page").text
    assert 'href="/iot/static/message.css"' in client.get("/no/page", headers={"X-Forwarded-Prefix": "/iot"}).text


def test_a_proxy_is_told_to_pass_events_on_at_once(client):
    headers = client.get("/api/stream", environ_overrides={HAND_OVER: lambda take: None}).headers
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["Cache-Control"] == "no-store, no-transform"


def test_the_server_is_recognised_by_its_instance(store, clock):
    client = create_app({"STORE": store, "CLOCK": clock, "INSTANCE": "3f9a"}).test_client()
    assert client.get("/healthz").headers["X-Dashboard-Instance"] == "3f9a"
