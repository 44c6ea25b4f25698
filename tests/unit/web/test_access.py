"""Access to the web server: host names and the token."""

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
def test_names_of_this_machine_are_accepted(name):
    assert an_app().test_client().get("/api/metrics", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "elsewhere.example", "localhost.elsewhere.example:5000", "127.0.0.1.elsewhere.example", "10.0.0.1:5000",
        "elsewhere.example@localhost", "[::1", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/metrics", "/healthz", "/static/dashboard.js"])
def test_another_host_name_is_refused(name, path):
    answer = an_app().test_client().get(path, headers={"Host": name})
    assert answer.status_code == 403
    assert "figures" not in answer.text


def test_the_address_that_the_server_listens_on_is_accepted():
    client = an_app("127.0.0.2").test_client()
    assert client.get("/", headers={"Host": "127.0.0.2:5000"}).status_code == 200


def test_beyond_loopback_without_a_token_addresses_are_accepted_and_names_refused():
    client = an_app("0.0.0.0").test_client()
    assert client.get("/", headers={"Host": "192.0.2.7:5000"}).status_code == 200
    assert client.get("/", headers={"Host": "[2001:db8::1]:5000"}).status_code == 200
    assert client.get("/", headers={"Host": "elsewhere.example:5000"}).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_token_protects_under_any_host_name(host):
    client = an_app(host, TOKEN).test_client()
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
def test_requests_without_the_token_are_refused(path, headers):
    answer = an_app(token=TOKEN).test_client().get(path, headers=headers)
    assert answer.status_code == 401
    assert "figures" not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/static/dashboard.js"])
def test_health_and_static_files_need_no_token(path):
    assert an_app(token=TOKEN).test_client().get(path).status_code == 200


def test_the_token_is_accepted_as_a_bearer_header():
    client = an_app(token=TOKEN).test_client()
    assert client.get("/api/metrics", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
    assert client.get("/api/metrics").status_code == 401


def test_a_token_in_the_address_of_the_page_becomes_a_cookie():
    client = an_app(token=TOKEN).test_client()
    entry = client.get("/", query_string={"token": TOKEN})
    assert (entry.status_code, entry.headers["Location"]) == (303, "./")
    cookie = entry.headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert client.get("/").text == "figures"
    assert client.get("/api/metrics").status_code == 200


def test_below_a_path_the_token_leads_to_the_page_there():
    client = an_app(token=TOKEN).test_client()
    entry = client.get("/", query_string={"token": TOKEN}, environ_overrides={"SCRIPT_NAME": "/iot"})
    assert entry.headers["Location"] == "/iot/"


def test_a_cookie_for_another_token_is_refused():
    client = an_app(token=TOKEN).test_client()
    old = an_app(token="another").test_client().get("/", query_string={"token": "another"}).headers["Set-Cookie"]
    assert client.get("/api/metrics", headers={"Cookie": old.partition(";")[0]}).status_code == 401


@pytest.mark.parametrize("path", ["/api/metrics", "/metrics"])
def test_a_token_in_any_other_address_is_refused(path):
    assert an_app(token=TOKEN).test_client().get(path, query_string={"token": TOKEN}).status_code == 401


def test_a_wrong_token_in_the_address_is_refused():
    answer = an_app(token=TOKEN).test_client().get("/", query_string={"token": "wrong"})
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/api/metrics", "/api/nothing"])
@pytest.mark.parametrize("host", ["localhost", "elsewhere.example"])
def test_every_answer_has_the_security_headers(path, host):
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
def test_beyond_loopback_a_token_or_the_insecure_flag_is_required(host):
    require_token(host, TOKEN, False)
    require_token(host, None, True)
    with pytest.raises(UserError, match="IOT_TOKEN"):
        require_token(host, None, False)
