"""The API against its own description: valid and invalid requests generated from it, over a real database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from iot.results.model import QueryStatus, Status
from iot.results.store import Store
from iot.web import app as web
from iot.web import openapi
from iot.web.server import HAND_OVER
from tests.support.results import IDENTITY, NOW_S, Sample, delivered, write_batch
from tests.support.stored_alarms import an_alarm, put_alarms

TOKEN = "sesame"
EXAMPLES = 40
HOSTILE = "<script>'\";--\n\u202e=1+1"
KNOWN = (
    an_alarm(1, sensor_id=HOSTILE, location=HOSTILE),
    an_alarm(2, state="resolved", resolved="2026-11-24T02:16:07.000000+00:00"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Store]:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('fuzz')}/results.db")
    store.reset(IDENTITY, "state")
    write_batch(
        store, 0, [Sample(), Sample(1e308, 1), Sample(1e308, 2), Sample(1, 3, HOSTILE, HOSTILE, HOSTILE, HOSTILE)]
    )
    store.write_alerts([delivered(1), delivered(2, sensor_id=HOSTILE, location=HOSTILE)], {0: 3}, "topic")
    put_alarms(store, KNOWN)
    queries = [QueryStatus(name, True, None, NOW_S) for name in ("windows", "alerts")]
    store.heartbeat(Status(at_s=NOW_S, started_s=NOW_S - 60, queries=queries, end_offsets={0: 4}))
    yield store
    store.close()


def description(store: Store, token: str | None) -> Any:
    """The API as it describes itself, of an application whose event streams end at once."""
    app = web.create_app({"STORE": store, "CLOCK": lambda: NOW_S, "TOKEN": token})

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ |= {HAND_OVER: lambda take: None, "REMOTE_ADDR": "127.0.0.1"}
        return app(environ, start_response)

    return schemathesis.openapi.from_wsgi("/api/openapi.json", serve, headers=authorization(token))


def authorization(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def ask(store: Store, operation: str, mode: GenerationMode, examples: int, token: str | None = None) -> None:
    """Send many valid or invalid requests of an operation, and check each answer against the description."""
    method, path = operation.split()
    headers = authorization(token) | ({} if method == "get" else {"Content-Type": "application/json"})

    @given(case=description(store, token)[path][method.upper()].as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        # The API also refuses what a description cannot express: minutes with since, 5.0 as a whole number.
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

    check()


OPERATIONS = [f"{method} {path}" for path, its in openapi.PATHS.items() for method in its]
WITH_INPUT = [
    f"{method} {path}"
    for path, its in openapi.PATHS.items()
    for method, of in its.items()
    if "requestBody" in of or any(one["in"] == "query" for one in of.get("parameters", []))
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_valid_requests_are_answered_as_described(store, operation):
    ask(store, operation, GenerationMode.POSITIVE, EXAMPLES)


@pytest.mark.parametrize("operation", WITH_INPUT)
def test_invalid_requests_are_refused_as_described(store, operation):
    ask(store, operation, GenerationMode.NEGATIVE, EXAMPLES)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_requests_without_the_token_are_refused_as_described(store, operation):
    ask(store, operation, GenerationMode.POSITIVE, EXAMPLES // 10, TOKEN)


def test_every_kind_of_answer_is_as_described(store):
    """Generated ids name no alarm and no silence, so these requests are chosen."""
    api = description(store, None)
    active, over = KNOWN
    headers = {"Content-Type": "application/json"}

    def call(method: str, path: str, **parts: Any) -> int:
        case = api[path][method].Case(**parts)
        return int(case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance]).status_code)

    ack = "/api/alarms/{alarm_id}/ack"
    for alarm, status in ((active, 200), (over, 409)):
        named = {"path_parameters": {"alarm_id": alarm.alarm_id}}
        body = {"body": {"by": HOSTILE, "comment": HOSTILE}, "media_type": "application/json"}
        assert call("POST", ack, **named, **body) == status
        assert call("DELETE", ack, **named) == status
    matchers = [{"name": "sensor_id", "value": ".+", "isRegex": True, "isEqual": True}]
    moments = {"startsAt": "2026-11-24T00:00:00Z", "endsAt": "2036-11-24T00:00:00+01:00"}
    silence = {"matchers": matchers, "createdBy": HOSTILE, "comment": HOSTILE} | moments
    assert call("POST", "/api/silences", body=silence, media_type="application/json") == 200
    assert call("GET", "/api/silences") == 200
    assert call("GET", "/api/alarms", query={"state": "firing,resolved"}) == 200
    [made] = store.silences.all()
    assert call("DELETE", "/api/silences/{silence_id}", path_parameters={"silence_id": made.id}) == 200
