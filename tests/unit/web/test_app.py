"""The API and the page, asked through Flask's test client with a fake database."""

from __future__ import annotations

import csv
import io
import json
import threading

import msgspec
import pytest

from iot.alerts import Alert
from iot.batches import Total
from iot.results.database import StoreUnavailable
from iot.results.model import QueryStatus, State, Status, Window
from iot.settings import UserError
from iot.web import app as web
from iot.web import events
from iot.web.figures import metrics
from iot.web.server import HAND_OVER
from tests.support.results import an_alert

NOW_S = 1_800_000_005.0


class FakeStore:
    """A database in memory; what it was asked is in ``asked``."""

    def __init__(self) -> None:
        self.state = State(
            version=1,
            messages=200,
            rejected=1,
            late=3,
            total_alerts=2,
            totals={"temperature": Total(200, 4_400.0, 10.0, 31.5, 0, "celsius")},
            active_sensors=10,
            active_alerts=1,
            rate_10s=20.0,
            locations=["building_a"],
            sensor_types=["temperature"],
            offsets={0: 90, 1: 111},
            processed_s=NOW_S - 2,
            status=Status(
                at_s=NOW_S,
                started_s=NOW_S - 60,
                queries=[QueryStatus(name, True, None, NOW_S) for name in ("windows", "alerts")],
                end_offsets={0: 95, 1: 111},
            ),
        )
        self.found_alerts: list[Alert] = []
        self.found_windows: list[Window] = []
        self.asked: list[tuple[object, ...]] = []
        self.trouble: UserError | None = None

    def _check(self) -> None:
        if self.trouble:
            raise self.trouble

    def version(self):
        self._check()
        return self.state.version

    def read(self, now_s):
        self._check()
        return self.state

    def alerts(self, *asked):
        self._check()
        self.asked.append(asked)
        return self.found_alerts

    def windows(self, *asked, limit):
        self._check()
        self.asked.append(asked)
        return self.found_windows[:limit]


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def app(store, clock):
    return web.create_app({"STORE": store, "CLOCK": clock})


@pytest.fixture
def client(app):
    return app.test_client()


# Figures --------------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_database(client, store):
    answer = client.get("/api/metrics")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert answer.json == json.loads(msgspec.json.encode(metrics(store.state, NOW_S)))
    assert answer.json["total_messages"] == 200
    assert answer.json["lag"] == {"total": 5, "partitions": {"0": 5, "1": 0}}


def test_metrics_follow_the_database(client, store):
    assert client.get("/api/metrics").json["total_messages"] == 200
    store.state = msgspec.structs.replace(store.state, version=2, messages=300)
    assert client.get("/api/metrics").json["total_messages"] == 300


def test_a_number_that_overflowed_is_null(client, store):
    store.state.totals["temperature"] = Total(2, float("nan"), 1e308, 1.7e308, 0, "celsius")
    [row] = client.get("/api/metrics").json["sensor_stats"]
    assert row["avg_value"] is None
    assert row["max_value"] == 1.7e308


def test_an_answer_that_has_not_changed_is_not_sent_again(client, store):
    etag = client.get("/api/metrics").headers["ETag"]
    assert client.get("/api/metrics", headers={"If-None-Match": etag}).status_code == 304
    store.state = msgspec.structs.replace(store.state, version=2, messages=300)
    assert client.get("/api/metrics", headers={"If-None-Match": etag}).status_code == 200


def test_a_database_that_cannot_be_read_is_said_and_what_was_known_stays(client, store, clock):
    client.get("/api/metrics")
    store.trouble = StoreUnavailable("the database is locked")
    clock.now_s += 1
    answer = client.get("/api/metrics").json
    assert answer["total_messages"] == 200
    assert answer["system_health"] == "Critical"
    assert (answer["state"], answer["state_reason"]) == ("failed", "the database is locked")
    assert "the database is locked" in answer["health_reasons"]
    health = client.get("/healthz")
    assert (health.status_code, health.json["reason"]) == (503, "the database is locked")
    store.trouble = None
    assert client.get("/api/metrics").json["state"] == "live"


def test_why_the_database_is_not_written_is_said_until_it_is_again(app, client, store, clock):
    lines = iter([b"results cannot be written: it is full\n", b"\n"])

    def told():
        web.listen([next(lines)], web.dashboard(app).snapshots)
        clock.now_s += 1
        return client.get("/api/metrics").json

    answer = told()
    assert (answer["state"], answer["system_health"], answer["total_messages"]) == ("failed", "Critical", 200)
    assert answer["health_reasons"][0] == "results cannot be written: it is full"
    assert client.get("/healthz").json["reason"] == "results cannot be written: it is full"
    assert told()["state"] == "live"
    assert client.get("/healthz").status_code == 200


def test_a_database_that_could_never_be_read(client, store):
    store.trouble = StoreUnavailable("the database is locked")
    for path in ("/api/metrics", "/api/alerts", "/api/windows", "/metrics"):
        answer = client.get(path)
        assert (answer.status_code, answer.json) == (503, {"error": "the database is locked"})
    assert client.get("/healthz").status_code == 503
    assert client.get("/").status_code == 200


def test_health(client, store, clock):
    assert client.get("/healthz").status_code == 200
    store.state.status.queries[1].active = False
    store.state.status.queries[1].reason = "out of memory"
    clock.now_s += 1
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert "out of memory" in answer.json["reason"]


def test_prometheus(client, store):
    store.state.status.queries[1].active = False
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    lines = answer.text.splitlines()
    for line in (
        "iot_messages_total 200.0", "iot_rejected_messages_total 1.0", "iot_late_messages_total 3.0",
        "iot_alerts_total 2.0", 'iot_lag_messages{partition="0"} 5.0', 'iot_query_up{query="windows"} 1.0',
        'iot_query_up{query="alerts"} 0.0', "iot_last_update_age_seconds 2.0", "iot_healthy 0.0",
    ):  # fmt: skip
        assert line in lines
    openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.content_type.startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_prometheus_leaves_out_what_is_not_known(client, store):
    store.state = State(version=2)
    text = client.get("/metrics").text
    assert "iot_messages_total 0.0" in text
    for unknown in ("iot_active_sensors", "iot_messages_per_second ", "iot_lag_messages{", "iot_last_update"):
        assert not any(line.startswith(unknown) for line in text.splitlines())


# Alerts ---------------------------------------------------------------------------------------------------------------


def test_alerts(client, store):
    store.found_alerts = [an_alert(2), an_alert(1)]
    answer = client.get("/api/alerts").json
    assert [alert["alert_id"] for alert in answer["alerts"]] == ["iot-sensors-0-2", "iot-sensors-0-1"]
    assert answer["alerts"][0] == json.loads(msgspec.json.encode(an_alert(2)))
    assert answer["total_alerts"] == 2
    assert store.asked == [(100, None, None, None)]


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("limit=1", (1, None, None, None)),
        ("limit=1000&sensor_type=humidity&sensor_id=s%3D1", (1000, "humidity", "s=1", None)),
        ("since=2026-11-24T02:15:07.123456789Z", (100, None, None, 1_795_486_507_123_456)),
        ("since=2026-11-24T04:15:07%2B02:00", (100, None, None, 1_795_486_507_000_000)),
        # A plus sign that was not escaped.
        ("since=2026-11-24T04:15:07+02:00", (100, None, None, 1_795_486_507_000_000)),
        ("since=0001-01-01T00:00:00Z", (100, None, None, -62_135_596_800_000_000)),
        # What an empty field of a form sends.
        ("limit=&sensor_type=&sensor_id=&since=", (100, None, None, None)),
        ("and=more", (100, None, None, None)),
    ],
)
def test_alerts_asked_for(client, store, query, asked):
    assert client.get(f"/api/alerts?{query}").status_code == 200
    assert store.asked == [asked]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/alerts?limit=0", "limit: expected a whole number from 1 to 1000"),
        ("/api/alerts?limit=1001", "limit: expected"),
        ("/api/alerts?limit=-1", "limit: expected"),
        ("/api/alerts?limit=1.0", "limit: expected"),
        ("/api/alerts?limit=ten", "limit: expected"),
        ("/api/alerts?limit=%D9%A1", "limit: expected"),
        (f"/api/alerts?limit={'9' * 5000}", "limit: expected"),
        ("/api/alerts?limit=1&limit=2", "limit is given 2 times"),
        ("/api/alerts?since=yesterday", "since: expected YYYY-MM-DDTHH:MM:SS"),
        ("/api/alerts?since=2026-02-30T00:00:00Z", "since: no such day"),
        ("/api/alerts?since=1795486507", "since: expected"),
        (f"/api/alerts?sensor_id={'x' * 129}", "sensor_id: expected at most 128 characters"),
        ("/api/windows?minutes=0", "minutes: expected a whole number from 1 to 10080"),
        ("/api/windows?minutes=10081", "minutes: expected"),
        ("/api/windows?minutes=5&since=2026-11-24T02:15:07Z", "minutes: not together with since or until"),
        ("/api/windows?minutes=5&until=2026-11-24T02:15:07Z", "minutes: not together with since or until"),
        ("/api/windows?since=2026-11-24T02:15:08Z&until=2026-11-24T02:15:07Z", "until: expected not before since"),
        ("/api/windows?format=xml", "format: expected json or csv"),
        (f"/api/windows?location={'x' * 129}", "location: expected"),
    ],
)
def test_bad_parameters(client, store, path, says):
    answer = client.get(path)
    assert answer.status_code == 400
    assert answer.json.keys() == {"error"}
    assert says in answer.json["error"]
    assert not store.asked


# Windows --------------------------------------------------------------------------------------------------------------


def test_windows(client, store):
    store.found_windows = [
        Window(1_799_999_990, "humidity", "percent", 3, 50.0, 40.0, 60.0),
        Window(1_800_000_000, "humidity", "percent", 2, None, 1e308, 1.7e308),
    ]
    answer = client.get("/api/windows").json
    assert answer["windows"] == [
        {
            "start": "2027-01-15T07:59:20.000000+00:00",
            "end": "2027-01-15T07:59:50.000000+00:00",
            "sensor_type": "humidity",
            "unit": "percent",
            "count": 3,
            "avg": 50.0,
            "min": 40.0,
            "max": 60.0,
        },
        {
            "start": "2027-01-15T07:59:30.000000+00:00",
            "end": "2027-01-15T08:00:00.000000+00:00",
            "sensor_type": "humidity",
            "unit": "percent",
            "count": 2,
            "avg": None,
            "min": 1e308,
            "max": 1.7e308,
        },
    ]


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        # The first window that ends in the last 15 minutes; those in progress too.
        ("", (1_799_999_110, None, None, None)),
        ("minutes=1&sensor_type=light&location=hall", (1_799_999_950, None, "light", "hall")),
        ("since=2027-01-15T08:00:00Z&until=2027-01-15T08:00:10Z", (1_800_000_000, 1_800_000_010, None, None)),
        ("since=2027-01-15T08:00:00.000001Z&until=2027-01-15T08:00:19Z", (1_800_000_010, 1_800_000_010, None, None)),
        ("since=2027-01-15T08:00:00Z", (1_800_000_000, None, None, None)),
        ("until=2027-01-15T08:00:00Z", (None, 1_800_000_000, None, None)),
    ],
)
def test_windows_asked_for(client, store, query, asked):
    assert client.get(f"/api/windows?{query}").status_code == 200
    assert store.asked == [asked]


def test_windows_are_read_once_until_something_changes(client, store, clock):
    for _ in range(3):
        client.get("/api/windows")
    assert len(store.asked) == 1
    client.get("/api/windows?format=csv")
    client.get("/api/windows?minutes=5")
    assert len(store.asked) == 3
    store.state = msgspec.structs.replace(store.state, version=2)
    client.get("/api/windows")
    assert len(store.asked) == 4
    clock.now_s += 10
    client.get("/api/windows")
    assert len(store.asked) == 5


def test_windows_asked_for_by_many_at_once_are_read_once(app, store):
    reading, go_on = threading.Event(), threading.Event()
    read = store.windows

    def slow(*asked, limit):
        reading.set()
        assert go_on.wait(10)
        return read(*asked, limit=limit)

    store.windows = slow
    answers: list[int] = []
    ask = lambda: answers.append(app.test_client().get("/api/windows").status_code)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert reading.wait(10)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert answers == [200] * 5
    assert len(store.asked) == 1


def test_a_failure_is_not_kept(client, store):
    client.get("/api/metrics")
    store.windows = lambda *asked, limit: 1 / 0
    assert client.get("/api/windows").status_code == 500
    del store.windows
    assert client.get("/api/windows").status_code == 200


def test_too_many_windows_are_refused(client, store, monkeypatch):
    monkeypatch.setattr(web, "MAX_WINDOWS", 2)
    store.found_windows = [Window(10 * number, "t", "u", 1, 1.0, 1.0, 1.0) for number in range(5)]
    answer = client.get("/api/windows")
    assert answer.status_code == 400
    assert "more than 2 windows" in answer.json["error"]


def test_windows_as_csv(client, store):
    store.found_windows = [
        Window(1_800_000_000, "temperature", "celsius", 2, -1.5, -2.0, -1.0),
        Window(1_800_000_000, '=HYPERLINK("http://elsewhere")', "@u", 1, None, 1.0, 1.0),
        Window(1_800_000_000, "+1", "a,\n\"b\"", 1, 1.0, 1.0, 1.0),
    ]  # fmt: skip
    answer = client.get("/api/windows?format=csv")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="windows.csv"'
    head, first, formula, odd = csv.reader(io.StringIO(answer.text, newline=""))
    assert head == ["start", "end", "sensor_type", "unit", "count", "avg", "min", "max"]
    assert first == [
        "2027-01-15T07:59:30.000000+00:00", "2027-01-15T08:00:00.000000+00:00", "temperature", "celsius", "2", "-1.5",
        "-2.0", "-1.0",
    ]  # fmt: skip
    # No spreadsheet takes what others wrote for a formula.
    assert formula[2:6] == ['\'=HYPERLINK("http://elsewhere")', "'@u", "1", ""]
    assert odd[2:4] == ["'+1", 'a,\n"b"']


def test_large_answers_are_compressed_for_other_machines(app, store):
    store.found_windows = [Window(10 * number, "temperature", "celsius", 1, 1.0, 1.0, 1.0) for number in range(500)]
    client = app.test_client()
    far = {"REMOTE_ADDR": "192.0.2.1"}
    plain = client.get("/api/windows", environ_overrides=far)
    packed = client.get("/api/windows", headers={"Accept-Encoding": "gzip"}, environ_overrides=far)
    near = client.get("/api/windows", headers={"Accept-Encoding": "gzip"}, environ_overrides={"REMOTE_ADDR": "::1"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert len(packed.data) < len(plain.data) / 5
    assert "Content-Encoding" not in plain.headers
    assert near.data == plain.data


# The page, and what is wrong ------------------------------------------------------------------------------------------


def test_the_page_and_its_parts(client):
    page = client.get("/")
    assert page.content_type == "text/html; charset=utf-8"
    assert "static/plotly.min.js" in page.text
    plotly = client.get("/static/plotly.min.js")
    assert plotly.content_type == "text/javascript; charset=utf-8"
    assert b"plotly" in plotly.data[:100]
    assert plotly.headers["Cache-Control"] == "max-age=86400"
    again = client.get("/static/plotly.min.js", headers={"If-None-Match": plotly.headers["ETag"]})
    assert again.status_code == 304
    style = client.get("/static/dashboard.css")
    assert style.headers["ETag"]
    style.close()


def test_where_nothing_is(client):
    answer = client.get("/api/nothing")
    assert answer.status_code == 404
    assert answer.json.keys() == {"error"}
    assert client.get("/nothing").content_type == "text/html; charset=utf-8"
    assert client.get("/static/../iot/web.py").status_code == 404
    assert client.get("/static/%2e%2e/iot/web.py").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/api/metrics", "/api/stream", "/healthz", "/metrics"])
def test_everything_is_only_read(client, method, path):
    answer = client.open(path, method=method)
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_what_should_not_happen_tells_no_more_than_that(client, store, capsys):
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


def test_without_a_server_that_can_push_this_is_said(client):
    answer = client.get("/api/stream")
    assert answer.status_code == 501
    assert answer.json.keys() == {"error"}


def test_the_description_names_what_there_is(app, client):
    document = client.get("/api/openapi.json").json
    assert document["openapi"].startswith("3.1")
    routes = {str(rule) for rule in app.url_map.iter_rules() if not str(rule).startswith("/static")}
    assert document["paths"].keys() == routes - {"/"}
    promised = document["components"]["schemas"]["Metrics"]["required"]
    assert set(promised) <= client.get("/api/metrics").json.keys()
    given = {parameter["name"] for parameter in document["paths"]["/api/windows"]["get"]["parameters"]}
    assert given == {"minutes", "since", "until", "sensor_type", "location", "format"}
