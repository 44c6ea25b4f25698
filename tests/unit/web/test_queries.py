"""/api/alerts and /api/windows, on a fake database."""

from __future__ import annotations

import csv
import io
import json
import threading

import msgspec
import pytest

from iot.results.model import Window
from iot.web import app as web
from tests.support.results import an_alert


def test_alerts_come_from_the_database(client, store):
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
        # The plus sign is not escaped.
        ("since=2026-11-24T04:15:07+02:00", (100, None, None, 1_795_486_507_000_000)),
        ("since=0001-01-01T00:00:00Z", (100, None, None, -62_135_596_800_000_000)),
        # A form sends this for empty fields.
        ("limit=&sensor_type=&sensor_id=&since=", (100, None, None, None)),
        ("and=more", (100, None, None, None)),
    ],
)
def test_parameters_select_alerts(client, store, query, asked):
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
        ("/api/windows?minutes=5&since=2026-11-24T02:15:07Z", "minutes: cannot be combined with since or until"),
        ("/api/windows?minutes=5&until=2026-11-24T02:15:07Z", "minutes: cannot be combined with since or until"),
        ("/api/windows?since=2026-11-24T02:15:08Z&until=2026-11-24T02:15:07Z", "until: must not be before since"),
        ("/api/windows?format=xml", "format: expected json or csv"),
        (f"/api/windows?location={'x' * 129}", "location: expected"),
    ],
)
def test_wrong_parameters_are_refused(client, store, path, says):
    answer = client.get(path)
    assert answer.status_code == 400
    assert answer.json.keys() == {"error"}
    assert says in answer.json["error"]
    assert not store.asked


# Windows --------------------------------------------------------------------------------------------------------------


def test_windows_come_from_the_database(client, store):
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
        # From the first window that ends in the last 15 minutes, without an end: windows in progress are included.
        ("", (1_799_999_110, None, None, None)),
        ("minutes=1&sensor_type=light&location=hall", (1_799_999_950, None, "light", "hall")),
        ("since=2027-01-15T08:00:00Z&until=2027-01-15T08:00:10Z", (1_800_000_000, 1_800_000_010, None, None)),
        ("since=2027-01-15T08:00:00.000001Z&until=2027-01-15T08:00:19Z", (1_800_000_010, 1_800_000_010, None, None)),
        ("since=2027-01-15T08:00:00Z", (1_800_000_000, None, None, None)),
        ("until=2027-01-15T08:00:00Z", (None, 1_800_000_000, None, None)),
    ],
)
def test_parameters_select_windows(client, store, query, asked):
    assert client.get(f"/api/windows?{query}").status_code == 200
    assert store.asked == [asked]


def test_windows_are_cached_until_something_changes(client, store, clock):
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


def test_simultaneous_requests_read_the_windows_once(app, store):
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


def test_a_failure_is_not_cached(client, store):
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


def test_windows_as_csv_contain_no_formulas(client, store):
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
    # A spreadsheet must not run names from the data as formulas.
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
