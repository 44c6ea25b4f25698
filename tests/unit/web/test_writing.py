"""Requests that change something: from where they may come, and what they must be."""

from __future__ import annotations

import pytest
from flask import Flask, request

from iot.web import access, writing
from iot.web.mount import mounted
from iot.web.server import MAX_BODY_BYTES

JSON = {"Content-Type": "application/json"}
OWN = "http://localhost:5000"


@pytest.fixture
def done():
    return []


@pytest.fixture
def app(done):
    return an_app(done)


@pytest.fixture
def client(app):
    return app.test_client()


def an_app(done, token=None):
    app = Flask(__name__, static_folder=None)
    access.protect(app, "127.0.0.1", 5000, token)
    writing.protect(app)

    @app.route("/api/thing", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def thing():
        if request.method != "GET":
            request.get_data()
            done.append(request.method)
        return "done"

    app.wsgi_app = mounted(app.wsgi_app)  # type: ignore[method-assign]
    return app


def status(client, done, headers, method="POST", data=b"{}"):
    """The status of a request to localhost:5000; it is done if, and only if, that is 200."""
    done.clear()
    answer = client.open("/api/thing", method=method, headers={"Host": "localhost:5000"} | headers, data=data)
    assert bool(done) == (answer.status_code == 200)
    return answer.status_code


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
def test_json_is_accepted(client, done, method, kind):
    assert status(client, done, {"Content-Type": kind}, method) == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "kind",
    [
        None, "", "text/plain", "text/plain; application/json", "text/plain;charset=application/json",
        "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json, text/plain",
        "text/json", "application/jsonp", "application/vnd.api+json",
    ],
)  # fmt: skip
def test_another_content_type_is_refused(client, done, method, kind):
    """A page of another origin can send those without asking first."""
    assert status(client, done, {} if kind is None else {"Content-Type": kind}, method) == 415


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        # Programs send neither header.
        ({}, 200),
        ({"Origin": OWN}, 200),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": OWN, "Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "null"}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": OWN, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": OWN, "Sec-Fetch-Site": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}, 403),
        # A browser that does not send Sec-Fetch-Site.
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "http://localhost:8080"}, 403),
        ({"Origin": "http://127.0.0.1:5000"}, 403),
        ({"Origin": "http://localhost:5000.elsewhere.example"}, 403),
        ({"Origin": "http://localhost:5000@elsewhere.example"}, 403),
        ({"Origin": "http://localhost:x"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "file://"}, 403),
        ({"Origin": "chrome-extension://abcdef"}, 403),
    ],
)
def test_the_request_must_come_from_the_own_page(client, done, headers, expected):
    assert status(client, done, JSON | headers) == expected


@pytest.mark.parametrize(
    ("host", "origin", "more", "expected"),
    [
        ("dash.example", "https://dash.example", {}, 200),
        ("dash.example:443", "https://dash.example", {}, 200),
        ("DASH.example", "http://dash.example", {}, 200),
        ("[::1]:5000", "http://[::1]:5000", {}, 200),
        ("dash.example:8443", "https://dash.example", {}, 403),
        # nginx passes on its own name for the server, unless it is told otherwise.
        ("127.0.0.1:5000", "https://dash.example", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("127.0.0.1:5000", "https://dash.example", {"X-Forwarded-Host": "dash.example"}, 200),
        ("127.0.0.1:5000", "https://dash.example", {"X-Forwarded-Host": "dash.example, inner.example"}, 200),
        ("127.0.0.1:5000", "https://dash.example", {"X-Forwarded-Host": "other.example"}, 403),
        ("127.0.0.1:5000", "https://dash.example", {}, 403),
    ],
)
def test_behind_a_proxy_the_page_is_recognised(done, host, origin, more, expected):
    client = an_app(done, "sesame").test_client()
    headers = JSON | {"Host": host, "Origin": origin, "Authorization": "Bearer sesame"} | more
    assert status(client, done, headers) == expected


def test_below_a_path_the_page_is_recognised(client, done):
    headers = JSON | {"Host": "localhost:5000", "Origin": OWN, "X-Forwarded-Prefix": "/iot"}
    assert client.post("/iot/api/thing", headers=headers).status_code == 200
    assert client.post("/iot/api/thing", headers=headers | {"Origin": "null"}).status_code == 403
    assert done == ["POST"]


def test_the_token_is_needed_and_another_page_has_no_use_for_the_cookie(done):
    client = an_app(done, "sesame").test_client()
    assert status(client, done, JSON) == 401
    assert status(client, done, JSON | {"Authorization": "Bearer wrong"}) == 401
    assert status(client, done, JSON | {"Authorization": "Bearer sesame"}) == 200
    client.set_cookie("iot-dashboard-5000", access._derived("sesame"))
    assert status(client, done, JSON | {"Origin": OWN}) == 200
    # A page on another port of the same host has the cookie too.
    assert status(client, done, JSON | {"Origin": "http://localhost:3000"}) == 403
    assert status(client, done, {"Content-Type": "text/plain", "Origin": OWN}) == 415


def test_a_large_body_is_refused(client, done):
    assert status(client, done, JSON, data=b" " * MAX_BODY_BYTES) == 200
    assert status(client, done, JSON, data=b" " * (MAX_BODY_BYTES + 1)) == 413


def test_reading_needs_none_of_this(client):
    there = {"Host": "localhost:5000", "Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    answer = client.get("/api/thing", headers=there)
    assert (answer.status_code, answer.text) == (200, "done")
    # No other origin is allowed to read the answer, or to send JSON.
    preflight = client.options("/api/thing", headers=there | {"Access-Control-Request-Method": "POST"})
    for name in [*preflight.headers.keys(), *answer.headers.keys()]:
        assert not name.startswith("Access-Control")
