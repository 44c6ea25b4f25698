"""Who is let in: by the name they use for the server, by the token they have."""

from __future__ import annotations

import pytest
from flask import Flask

from iot.settings import UserError
from iot.web import access
from iot.web.access import require_token

TOKEN = "sesame, open"
PATHS = ("/", "/api/metrics", "/metrics", "/api/nothing")


def an_app(host: str = "127.0.0.1", token: str | None = None) -> Flask:
    app = Flask(__name__, static_folder=None)
    for path in ("/", "/api/metrics", "/metrics", "/healthz", "/static/dashboard.js"):
        app.add_url_rule(path, path, lambda: "figures")
    access.protect(app, host, 5000, token)
    return app


@pytest.mark.parametrize("name", ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "LOCALHOST:8080"])
def test_this_machine_is_known(name):
    assert an_app().test_client().get("/api/metrics", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "elsewhere.example", "localhost.elsewhere.example:5000", "127.0.0.1.elsewhere.example", "10.0.0.1:5000",
        "elsewhere.example@localhost", "[::1", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/metrics", "/healthz", "/static/dashboard.js"])
def test_another_name_is_turned_away(name, path):
    answer = an_app().test_client().get(path, headers={"Host": name})
    assert answer.status_code == 403
    assert "figures" not in answer.text


def test_the_name_that_it_listens_at_is_known():
    client = an_app("127.0.0.2").test_client()
    assert client.get("/", headers={"Host": "127.0.0.2:5000"}).status_code == 200


def test_beyond_loopback_without_a_token_an_address_will_do_but_no_name():
    client = an_app("0.0.0.0").test_client()
    assert client.get("/", headers={"Host": "192.0.2.7:5000"}).status_code == 200
    assert client.get("/", headers={"Host": "[2001:db8::1]:5000"}).status_code == 200
    assert client.get("/", headers={"Host": "elsewhere.example:5000"}).status_code == 403


def test_beyond_loopback_a_token_protects_whatever_the_name():
    client = an_app("0.0.0.0", TOKEN).test_client()
    there = {"Host": "dashboard.example"}
    assert client.get("/api/metrics", headers=there).status_code == 401
    assert client.get("/api/metrics", headers=there | {"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer schön"},
        {"Cookie": f"iot-dashboard-5000={TOKEN}"},
        {"Cookie": "iot-dashboard-5000="},
    ],
)
def test_nothing_without_the_token(path, headers):
    answer = an_app(token=TOKEN).test_client().get(path, headers=headers)
    assert answer.status_code == 401
    assert "figures" not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/static/dashboard.js"])
def test_health_and_the_code_of_the_page_are_open(path):
    assert an_app(token=TOKEN).test_client().get(path).status_code == 200


def test_the_token_opens_as_a_header():
    client = an_app(token=TOKEN).test_client()
    assert client.get("/api/metrics", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
    assert client.get("/api/metrics").status_code == 401


def test_the_token_is_given_once_in_the_address_and_leaves_it():
    client = an_app(token=TOKEN).test_client()
    entry = client.get("/", query_string={"token": TOKEN})
    assert (entry.status_code, entry.headers["Location"]) == (303, "./")
    cookie = entry.headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert client.get("/").text == "figures"
    assert client.get("/api/metrics").status_code == 200


def test_the_cookie_of_another_token_does_not_open():
    client = an_app(token=TOKEN).test_client()
    old = an_app(token="another").test_client().get("/", query_string={"token": "another"}).headers["Set-Cookie"]
    assert client.get("/api/metrics", headers={"Cookie": old.partition(";")[0]}).status_code == 401


@pytest.mark.parametrize("path", ["/api/metrics", "/metrics"])
def test_in_the_address_of_anything_but_the_page_the_token_is_not_taken(path):
    assert an_app(token=TOKEN).test_client().get(path, query_string={"token": TOKEN}).status_code == 401


def test_a_wrong_token_in_the_address_does_not_open():
    answer = an_app(token=TOKEN).test_client().get("/", query_string={"token": "wrong"})
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/api/metrics", "/api/nothing"])
@pytest.mark.parametrize("host", ["localhost", "elsewhere.example"])
def test_every_answer_forbids_the_browser_what_the_page_does_not_need(path, host):
    headers = an_app().test_client().get(path, headers={"Host": host}).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_loopback_needs_no_token(host):
    require_token(host, None, False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "dashboard.example", ""])
def test_beyond_loopback_a_token_is_needed_or_insecure_said(host):
    require_token(host, TOKEN, False)
    require_token(host, None, True)
    with pytest.raises(UserError, match="IOT_TOKEN"):
        require_token(host, None, False)
