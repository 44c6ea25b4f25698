"""The HTTP API of the gateway: one function for each endpoint."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from flask import Blueprint, Flask, Response, abort, current_app, request

from iot.gateway import openapi
from iot.gateway.intake import Intake, Problem, Taken
from iot.gateway.metrics import Exporter
from iot.gateway.tokens import Tokens
from iot.gateway.writer import Full, Unavailable, Writer
from iot.web import access, failures
from iot.web.responses import json_answer
from iot.web.writing import READING, foreign

# Maximum size of a body, also once it is decompressed.
MAX_BODY_BYTES = 1 << 20
# How long a request waits for Kafka's acknowledgement.
ACKNOWLEDGED_S = 5.0
# Maximum number of requests that wait for it, and how long another one waits for its turn. The other threads stay free.
MAX_WAITING, TURN_S = 40, 1.0
# What a client that is refused for now is told to wait, in seconds.
RETRY_AFTER = {"Retry-After": "1"}

site = Blueprint("gateway", __name__)


@dataclass
class Services:
    """What the endpoints share.

    Attributes:
        token: the token of all clients, if there is one.
        tokens: those of devices, if there are any.
    """

    intake: Intake
    writer: Writer
    token: str | None = None
    tokens: Tokens | None = None
    turns: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MAX_WAITING))

    def __post_init__(self) -> None:
        self.exporter = Exporter(self.writer)


class Counts(msgspec.Struct):
    """The answer to readings: how many were written now, had been written before, and how many records were refused."""

    written: int
    repeated: int
    refused: int
    errors: list[dict[str, Any]]


def create_app(services: Services, host: str = "127.0.0.1") -> Flask:
    """Make the application.

    Args:
        host: the address that the server listens on, which decides the allowed ``Host`` headers.
    """
    app = Flask("iot.gateway", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.extensions["services"] = services
    is_allowed = access.allowed_hosts(host, bool(services.token or services.tokens))

    @app.before_request
    def check() -> None:
        if not is_allowed(request.headers.get("Host")):
            abort(403, "this server does not have that name: use localhost or the address that it listens on")
        if request.method not in READING and foreign(request):
            abort(403, "this request comes from a page of another site, which must not send readings")

    @app.after_request
    def forbid(response: Response) -> Response:
        response.headers.update(access.HEADERS)
        response.headers["Cache-Control"] = "no-store"
        return response

    app.register_blueprint(site)
    failures.handle(app, _failure)
    return app


# Endpoints ------------------------------------------------------------------------------------------------------------


@site.post("/api/v1/readings")
def readings() -> Response:
    return _keep(_authorise())


@site.post("/api/v1/<token>/telemetry")
def telemetry(token: str) -> Response:
    services = _shared()
    if services.tokens:
        device = services.tokens.device(token)
        if device is None:
            abort(401, "no device has this token: add it to the file of --tokens")
        return _keep(device)
    # Without a file of tokens, this is only a name, and proves nothing.
    return _keep(_authorise() or token)


@site.get("/healthz")
def healthz() -> Response:
    problem = _shared().writer.problem()
    return json_answer({"healthy": not problem, "reason": problem or None}, 503 if problem else 200)


@site.get("/metrics")
def metrics() -> Response:
    _authorise()
    body, content_type = _shared().exporter.expose(request.headers.get("Accept", ""))
    return Response(body, content_type=content_type)


@site.get("/api/openapi.json")
def api() -> Response:
    services = _shared()
    return json_answer(openapi.document(bool(services.token or services.tokens)))


# Steps ----------------------------------------------------------------------------------------------------------------


def _shared() -> Services:
    return cast(Services, current_app.extensions["services"])


def _authorise() -> str | None:
    """Return the device whose token the request presents; None if it presents the token of all, or needs none.

    The request is refused if it needs a token and has none that is valid.
    """
    services = _shared()
    if not services.token and not services.tokens:
        return None
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else ""
    if services.token and access.is_same(given, services.token):
        return None
    device = services.tokens.device(given) if services.tokens and given else None
    if device is None:
        abort(401, "a token is required: send the header Authorization: Bearer …")
    return device


def _keep(device: str | None) -> Response:
    """Write the readings of the body, and answer once Kafka has acknowledged them."""
    services = _shared()
    if problem := services.writer.problem():
        return _failure(503, problem, RETRY_AFTER)
    taken = services.intake.take(_body(), None, device)
    if not services.turns.acquire(timeout=TURN_S):
        return _failure(429, "too many requests wait for Kafka: send larger batches, or fewer at once", RETRY_AFTER)
    try:
        write = services.writer.write(taken.messages, taken.refusals)
        if not write.wait(ACKNOWLEDGED_S):
            return _failure(503, "Kafka has not acknowledged the readings yet: send them again", RETRY_AFTER)
    except Full:
        return _failure(429, "too much waits for Kafka: send it again later", RETRY_AFTER)
    except Unavailable as error:
        return _failure(503, str(error), RETRY_AFTER)
    finally:
        services.turns.release()
    if not write.is_acknowledged:
        return _failure(503, "Kafka failed, and may not have the readings: send them again", RETRY_AFTER)
    return _counts(taken, write.readings, write.repeated)


def _counts(taken: Taken, written: int, repeated: int) -> Response:
    errors = [_error(problem) for problem in taken.problems]
    status = 200 if not errors else 207 if taken.messages else 422
    return json_answer(Counts(written, repeated, len(errors), errors), status)


def _error(problem: Problem) -> dict[str, Any]:
    return {"record": problem.number, "error": problem.reason}


def _body() -> bytes:
    """Return the body, decompressed. A body that is too large once decompressed is refused."""
    data = request.get_data()
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip"):
        abort(415, "Content-Encoding: send the body as it is, or compressed with gzip")
    unpacking = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacking.decompress(data, MAX_BODY_BYTES + 1)
    except zlib.error:
        abort(400, "the body is not compressed with gzip, as its header says")
    if len(unpacked) > MAX_BODY_BYTES:
        abort(413, f"the body is larger than {MAX_BODY_BYTES} bytes once it is decompressed")
    if not unpacking.eof:
        abort(400, "the body is compressed with gzip, but ends too soon")
    return unpacked


# Errors ---------------------------------------------------------------------------------------------------------------


def _failure(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return json_answer({"error": text}, status, headers)
