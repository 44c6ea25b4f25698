"""The answers of the HTTP API, with a writer that needs no Kafka."""

from __future__ import annotations

import gzip
import json

import pytest

from iot.gateway import app as gateway
from iot.gateway.app import MAX_BODY_BYTES, Services, create_app
from iot.gateway.intake import Intake
from iot.gateway.tokens import Clients, Tokens
from iot.gateway.writer import Full, Unavailable
from tests.support.gateway_writer import FakeWriter

READING = {
    "sensor_id": "s", "sensor_type": "temperature", "value": 21.5, "timestamp": "2026-11-24T02:15:07Z",
    "run_id": "r", "sequence": 1,
}  # fmt: skip
PATH = "/api/v1/readings"


@pytest.fixture
def writer():
    return FakeWriter()


def client_of(writer, token=None, tokens=None, host="127.0.0.1"):
    return create_app(Services(Intake(lambda text: None), writer, Clients(token, tokens)), host).test_client()


@pytest.fixture
def client(writer):
    return client_of(writer)


def encoded(content):
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("body", "status", "written", "errors"),
    [
        (READING, 200, 1, []),
        ([READING, READING | {"sequence": 2}], 200, 2, []),
        (b"\n".join([encoded(READING), encoded(READING | {"sequence": 2})]), 200, 2, []),
        ([READING, {"sensor_id": "s"}], 207, 1, [2]),
        ([{"sensor_id": "s"}, 7], 422, 0, [1, 2]),
        (b"garbage", 422, 0, [1]),
        (b"", 422, 0, [1]),
        ([], 200, 0, []),
    ],
)
def test_readings_are_counted_and_each_refused_record_is_named(client, writer, body, status, written, errors):
    answer = client.post(PATH, data=encoded(body))
    assert answer.status_code == status
    assert answer.json["written"] == len(writer.written) == written
    assert [error["record"] for error in answer.json["errors"]] == errors
    assert all(error["error"] for error in answer.json["errors"])
    assert answer.json["refused"] == len(errors)


def test_a_repeat_is_recognised(client, writer):
    for repeated in (0, 1):
        answer = client.post(PATH, data=encoded(READING))
        assert (answer.status_code, answer.json["repeated"]) == (200, repeated)
    assert len(writer.written) == 1


def test_a_message_that_is_refused_goes_to_the_dead_letter_topic(client, writer):
    client.post("/api/v1/d1/telemetry", data=b"{broken")
    [refusal] = writer.refused
    assert (refusal.value, refusal.device) == (b"{broken", "d1")


@pytest.mark.parametrize(("error", "status"), [(Full(), 429), (Unavailable("no Kafka"), 503)])
def test_what_cannot_be_written_now_is_to_be_sent_again(client, writer, error, status):
    writer.error = error
    answer = client.post(PATH, data=encoded(READING))
    assert answer.status_code == status
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json["error"]


@pytest.mark.parametrize("outcome", [False, None])
def test_nothing_is_confirmed_that_kafka_has_not_acknowledged(client, writer, outcome, monkeypatch):
    monkeypatch.setattr(gateway, "ACKNOWLEDGED_S", 0.01)
    writer.acknowledged = outcome
    answer = client.post(PATH, data=encoded(READING))
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers


def test_only_so_many_requests_wait_for_kafka(writer, monkeypatch):
    monkeypatch.setattr(gateway, "TURN_S", 0.01)
    services = Services(Intake(print), writer)
    client = create_app(services).test_client()
    while services.turns.acquire(blocking=False):
        pass
    assert client.post(PATH, data=encoded(READING)).status_code == 429
    services.turns.release()
    assert client.post(PATH, data=encoded(READING)).status_code == 200


def test_health(client, writer):
    assert client.get("/healthz").json == {"healthy": True, "reason": None}
    writer.why = "Kafka does not answer"
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json) == (503, {"healthy": False, "reason": "Kafka does not answer"})
    assert client.post(PATH, data=encoded(READING)).status_code == 503


def test_figures(client, writer):
    writer.counts["readings"] = 7
    answer = client.get("/metrics")
    assert "iot_gateway_readings_total 7.0" in answer.text


def test_a_body_may_be_compressed_if_it_stays_small(client, writer):
    packed = {"Content-Encoding": "gzip"}
    assert client.post(PATH, data=gzip.compress(encoded(READING)), headers=packed).status_code == 200
    assert client.post(PATH, data=gzip.compress(b" " * (MAX_BODY_BYTES + 1)), headers=packed).status_code == 413
    for wrong in (b"no gzip", gzip.compress(encoded(READING))[:-9]):
        assert client.post(PATH, data=wrong, headers=packed).status_code == 400
    assert client.post(PATH, data=b"", headers={"Content-Encoding": "br"}).status_code == 415
    assert len(writer.written) == 1


def test_a_token_of_all(writer):
    client = client_of(writer, token="sesame")
    for path in (PATH, "/api/v1/d1/telemetry"):
        assert client.post(path, data=encoded(READING)).status_code == 401
        assert client.post(path, data=encoded(READING), headers=bearer("wrong")).status_code == 401
        assert client.post(path, data=encoded(READING), headers=bearer("sesame")).status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/healthz").status_code == 200


def test_tokens_of_devices(writer):
    client = client_of(writer, tokens=Tokens({"A1": "greenhouse"}))
    assert client.post("/api/v1/A1/telemetry", data=b'{"temperature": 21.5}').status_code == 200
    assert client.post(PATH, data=b'{"temperature": 22.5}', headers=bearer("A1")).status_code == 200
    assert [message.sensor_id for message in writer.written] == ["greenhouse", "greenhouse"]
    for path in ("/api/v1/greenhouse/telemetry", "/api/v1/other/telemetry", PATH):
        assert client.post(path, data=b'{"temperature": 21.5}').status_code == 401


def test_without_tokens_the_path_names_the_device(client, writer):
    assert client.post("/api/v1/d1/telemetry", data=b'{"temperature": 21.5}').status_code == 200
    assert writer.written[0].sensor_id == "d1"


def test_thingsboard_payloads(client, writer):
    body = [
        {"ts": 1_700_000_000_000, "values": {"temperature": 21.5}},
        {"ts": 1_700_000_001_000, "values": {"humidity": 40}},
    ]
    assert client.post("/api/v1/d1/telemetry", data=encoded(body)).json["written"] == 2
    assert [each.timestamp for each in writer.written] == [
        "2023-11-14T22:13:20.000000+00:00",
        "2023-11-14T22:13:21.000000+00:00",
    ]


@pytest.mark.parametrize(
    "headers",
    [{"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_pages_of_other_sites_send_nothing(client, writer, headers):
    assert client.post(PATH, data=encoded(READING), headers=headers).status_code == 403
    assert writer.written == []


@pytest.mark.parametrize(("path", "status"), [("/", 404), (PATH, 405), ("/api/v1/a/b/telemetry", 404)])
def test_errors_are_json(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.json["error"]
