"""The API of the gateway against its own description: valid and invalid requests generated from it."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from iot.gateway import openapi
from iot.gateway.app import Services, create_app
from iot.gateway.intake import Intake
from iot.gateway.tokens import Clients
from iot.gateway.writer import Full, Unavailable
from tests.support.gateway_writer import FakeWriter

TOKEN = "sesame"
EXAMPLES = 25
# The gateway takes more forms than a description can name, and a valid object may still hold no measurement.
EXCLUDED = [positive_data_acceptance, negative_data_rejection, ignored_auth]
OPERATIONS = [f"{method} {path}" for path, its in openapi.PATHS.items() for method in its]
SENDING = [each for each in OPERATIONS if each.startswith("post")]


def ask(operation: str, mode: GenerationMode, examples: int, token: str | None = None, error: Any = None) -> None:
    """Send many requests of an operation, and check each answer against the description."""
    method, path = operation.split()
    writer = FakeWriter()
    writer.error = error
    app = create_app(Services(Intake(lambda text: None), writer, Clients(token)))
    api = schemathesis.openapi.from_wsgi("/api/openapi.json", app)

    @given(case=api[path][method.upper()].as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=EXCLUDED + [not_a_server_error] * bool(error))

    check()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_valid_requests_are_answered_as_described(operation):
    ask(operation, GenerationMode.POSITIVE, EXAMPLES)


@pytest.mark.parametrize("operation", SENDING)
def test_invalid_requests_are_answered_as_described(operation):
    ask(operation, GenerationMode.NEGATIVE, EXAMPLES)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_requests_without_the_token_are_refused_as_described(operation):
    ask(operation, GenerationMode.POSITIVE, EXAMPLES // 10, TOKEN)


@pytest.mark.parametrize("error", [Full(), Unavailable("Kafka does not answer")])
@pytest.mark.parametrize("operation", SENDING)
def test_requests_that_must_wait_are_answered_as_described(operation, error):
    ask(operation, GenerationMode.POSITIVE, EXAMPLES // 10, error=error)
