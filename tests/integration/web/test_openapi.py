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

TOKEN = "sesame"
EXAMPLES = 40
HOSTILE = "<script>'\";--\n\u202e=1+1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Store]:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('fuzz')}/results.db")
    store.reset(IDENTITY, "state")
    write_batch(
        store, 0, [Sample(), Sample(1e308, 1), Sample(1e308, 2), Sample(1, 3, HOSTILE, HOSTILE, HOSTILE, HOSTILE)]
    )
    store.write_alerts([delivered(1), delivered(2, sensor_id=HOSTILE, location=HOSTILE)], {0: 3}, "topic")
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


def ask(store: Store, path: str, mode: GenerationMode, examples: int, token: str | None = None) -> None:
    """Send many valid or invalid requests for a path, and check each answer against the description."""

    @given(case=description(store, token)[path]["GET"].as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        # The API also refuses what a description cannot express: minutes with since, 5.0 as a whole number.
        case.call_and_validate(headers=authorization(token), excluded_checks=[positive_data_acceptance])

    check()


@pytest.mark.parametrize("path", openapi.PATHS)
def test_valid_requests_are_answered_as_described(store, path):
    ask(store, path, GenerationMode.POSITIVE, EXAMPLES)


@pytest.mark.parametrize("path", [path for path, its in openapi.PATHS.items() if its["get"].get("parameters")])
def test_invalid_requests_are_refused_as_described(store, path):
    ask(store, path, GenerationMode.NEGATIVE, EXAMPLES)


@pytest.mark.parametrize("path", openapi.PATHS)
def test_requests_without_the_token_are_refused_as_described(store, path):
    ask(store, path, GenerationMode.POSITIVE, EXAMPLES // 10, TOKEN)
