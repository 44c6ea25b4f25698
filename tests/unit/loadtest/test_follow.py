"""Threads that follow readings, and what they find lost or doubled."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka import KafkaError

from iot.broker.broker import find_free_port
from iot.loadtest.dashboard_client import DashboardClient
from iot.loadtest.follow import Arrivals, StreamFollower, TopicFollower, window_ends
from iot.settings import Kafka, UserError


def test_lost_and_doubled_arrivals_are_named_by_key():
    arrivals = Arrivals()
    arrivals.add("a", 1.5)
    arrivals.add("b", 2.0, times=3)
    arrivals.add("stranger", 3.0)
    stage = arrivals.compare("s", {"a": [1.0], "b": [1.0, 1.9], "c": [1.0], "d": [1.0, 2.0]})
    assert (stage.expected, stage.arrived, stage.lost, stage.doubled) == (6, 5, 3, 2)
    assert sorted(stage.which) == [
        "doubled b 1 times",
        "doubled stranger 1 times",
        "lost c 1 times",
        "lost d 2 times",
    ]
    assert stage.latency_ms.max == pytest.approx(1000, rel=0.01)
    assert stage.latency_ms.p50 == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize("second", [0, 9, 10, 29, 1_764_038_407])
def test_a_reading_belongs_to_three_windows(second):
    for time_us in (second * 1_000_000, second * 1_000_000 + 999_999):
        all_ends = range(second // 10 * 10 - 50, second + 100, 10)
        assert window_ends(time_us) == [end for end in all_ends if (end - 30) * 10**6 <= time_us < end * 10**6]


def test_a_missing_dashboard_error_says_how_to_start_one():
    with pytest.raises(
        UserError,
        match=r"no dashboard answers at http://localhost:\d+ \(Connection refused\); .*python iot_streaming_app\.py",
    ):
        DashboardClient(f"http://localhost:{find_free_port()}/", None).require()


@pytest.mark.parametrize(
    ("url", "token", "shown", "authorization"),
    [
        ("http://box:5000/iot/", None, "http://box:5000/iot", None),
        ("http://box:5000/?token=se%20same&minutes=5", None, "http://box:5000", "Bearer se same"),
        ("https://box/?token=a#b", "given", "https://box", "Bearer given"),
        ("http://user:pass%40word@[::1]:5000/", None, "http://[::1]:5000", "Basic dXNlcjpwYXNzQHdvcmQ="),
    ],
)
def test_secrets_in_the_url_become_headers_and_are_not_shown(url, token, shown, authorization):
    client = DashboardClient(url, token)
    assert (client.url, client._headers.get("Authorization")) == (shown, authorization)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>", "what answers at .* is no dashboard"),
        (200, b"[]", "what answers at .* is no dashboard"),
        (200, b'{"ok": true}', "what answers at .* is no dashboard"),
        (404, b"", r"has no figures of a dashboard \(HTTP 404\)"),
        (403, b"", r"refuses \(HTTP 403\): .*IOT_TOKEN"),
    ],
)
def test_what_is_no_dashboard_is_said_to_be_none(status, body, said):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(UserError, match=said):
            DashboardClient(f"http://127.0.0.1:{server.server_port}", None).require()
        server.shutdown()


def test_a_follower_ignores_missing_group_permission_and_reports_a_missing_broker(eventually):
    follower = TopicFollower(Kafka(f"localhost:{find_free_port()}"), "readings", {0: 0}, "run")
    follower._note_away(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    assert follower.away == ""
    follower.start()
    eventually(lambda: "refused" in follower.away)
    follower.close()
    assert follower.arrivals.count == 0


def test_alarms_on_the_stream_count_once_they_fire_and_a_reconnect_continues_after_the_last_event(eventually):
    def event(kind: str, number: int, content: str) -> bytes:
        return f"event: {kind}\nid: e{number}\ndata: {content}\n\n".encode()

    def alarm(state: str, location: str = "here", severity: str = "warning") -> str:
        fields = {"alarm_id": f"t-0-7-{severity}", "severity": severity, "state": state, "location": location}
        return json.dumps(fields)

    # The last event has no data: the connection breaks within it.
    answers = [
        event("alert", 1, '{"alert_id": "t-0-7", "location": "here"}')
        + event("metrics", 2, "{}")
        + event("alarm", 3, alarm("pending"))
        + event("alarm", 4, alarm("firing", "there"))
        + event("alarm", 5, alarm("firing", severity="critical"))
        + b"event: alarm\nid: e6\n",
        event("alarm", 6, alarm("resolved")),
    ]
    since = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            since.append(self.headers.get("Last-Event-ID"))
            self.send_response(200)
            self.end_headers()
            if len(since) <= len(answers):
                self.wfile.write(answers[len(since) - 1])

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        follower = StreamFollower(DashboardClient(f"http://127.0.0.1:{server.server_port}", None), "here")
        follower.start()
        eventually(lambda: len(since) >= 3)
        follower.close()
        server.shutdown()
    assert since[:3] == [None, "e5", "e6"]
    assert follower.arrivals.compare("alerts", {"t-0-7": [0.0]}).doubled == 0
    stage = follower.alarms.compare("alarms", {"t-0-7": [0.0]})
    assert (stage.arrived, stage.lost, stage.doubled) == (1, 0, 0)
