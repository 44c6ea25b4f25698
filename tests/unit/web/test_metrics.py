"""/api/metrics and /healthz, on a fake database."""

from __future__ import annotations

import json

import msgspec

from iot.batches import Total
from iot.results.store import StoreUnavailable
from iot.web import services
from iot.web.figures import metrics
from iot.web.process import take_reports


def test_metrics_come_from_the_database(client, store, clock):
    answer = client.get("/api/metrics")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert answer.json == json.loads(msgspec.json.encode(metrics(store.state, clock.now_s)))
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


def test_an_unchanged_answer_is_not_sent_again(client, store):
    etag = client.get("/api/metrics").headers["ETag"]
    assert client.get("/api/metrics", headers={"If-None-Match": etag}).status_code == 304
    store.state = msgspec.structs.replace(store.state, version=2, messages=300)
    assert client.get("/api/metrics", headers={"If-None-Match": etag}).status_code == 200


def test_a_failing_database_is_reported_and_the_last_figures_stay(client, store, clock):
    client.get("/api/metrics")
    store.failure = StoreUnavailable("the database is locked")
    clock.now_s += 1
    answer = client.get("/api/metrics").json
    assert answer["total_messages"] == 200
    assert answer["system_health"] == "Critical"
    assert (answer["state"], answer["state_reason"]) == ("failed", "the database is locked")
    assert "the database is locked" in answer["health_reasons"]
    health = client.get("/healthz")
    assert (health.status_code, health.json["reason"]) == (503, "the database is locked")
    store.failure = None
    assert client.get("/api/metrics").json["state"] == "live"


def test_a_write_failure_is_reported_until_writing_works_again(app, client, store, clock):
    lines = iter([b"results cannot be written: it is full\n", b"\n"])

    def told():
        take_reports([next(lines)], services.of(app).snapshots)
        clock.now_s += 1
        return client.get("/api/metrics").json

    answer = told()
    assert (answer["state"], answer["system_health"], answer["total_messages"]) == ("failed", "Critical", 200)
    assert answer["health_reasons"][0] == "results cannot be written: it is full"
    assert client.get("/healthz").json["reason"] == "results cannot be written: it is full"
    assert told()["state"] == "live"
    assert client.get("/healthz").status_code == 200


def test_a_database_that_was_never_readable_is_an_error(client, store):
    store.failure = StoreUnavailable("the database is locked")
    for path in ("/api/metrics", "/api/alerts", "/api/windows", "/metrics"):
        answer = client.get(path)
        assert (answer.status_code, answer.json) == (503, {"error": "the database is locked"})
    assert client.get("/healthz").status_code == 503
    assert client.get("/").status_code == 200


def test_healthz_reports_a_query_that_does_not_run(client, store, clock):
    assert client.get("/healthz").status_code == 200
    store.state.status.queries[1].active = False
    store.state.status.queries[1].reason = "out of memory"
    clock.now_s += 1
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert "out of memory" in answer.json["reason"]
