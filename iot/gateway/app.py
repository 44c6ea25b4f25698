"""The HTTP API of the gateway: one function for each endpoint."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from flask import Blueprint, Flask, Response, abort, current_app, request

from iot.gateway import openapi
from iot.gateway.answers import (
    ACKNOWLEDGED_S,
    CROWDED,
    FULL,
    LATE,
    RETRY_AFTER,
    Answer,
    later,
    of_write,
)
from iot.gateway.intake import Intake
from iot.gateway.metrics import Exporter
from iot.gateway.tokens import Clients, Unauthorised
from iot.gateway.writer import Full, Unavailable, Writer
from iot.web import access, failures
from iot.web.responses import json_answer
from iot.web.writing import READING, foreign

# Maximum size of a body, also once it is decompressed.
MAX_BODY_BYTES = 1 << 20
# Maximum number of requests that wait for it, and how long another one waits for its turn. The other threads stay free.
MAX_WAITING, TURN_S = 40, 1.0

site = Blueprint("gateway", __name__)


@dataclass
class Services:
    """What the endpoints share."""

    intake: Intake
    writer: Writer
    clients: Clients = field(default_factory=Clients)
    turns: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MAX_WAITING))

    def __post_init__(self) -> None:
        self.exporter = Exporter(self.writer)


def create_app(services: Services, host: str = "127.0.0.1") -> Flask:
    """Make the application.

    Args:
        host: the address that the server listens on, which decides the allowed ``Host`` headers.
    """
    app = Flask("iot.gateway", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.extensions["services"] = services
    is_allowed = access.allowed_hosts(host, services.clients.need_a_token)

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
    return _keep(_authorise(token))


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
    return json_answer(openapi.document(services.clients.need_a_token))


# Steps ----------------------------------------------------------------------------------------------------------------


def _shared() -> Services:
    return cast(Services, current_app.extensions["services"])


def _authorise(name: str | None = None) -> str | None:
    """Return the device that sends the request, as ``Clients.device`` does; refuse it if it needs a token."""
    try:
        return _shared().clients.device(request.headers.get("Authorization", ""), name)
    except Unauthorised as error:
        abort(401, str(error))


def _keep(device: str | None) -> Response:
    """Write the readings of the body, and answer once Kafka has acknowledged them."""
    services = _shared()
    if problem := services.writer.problem():
        return _answer(later(503, problem))
    taken = services.intake.take(_body(), None, device)
    if not services.turns.acquire(timeout=TURN_S):
        return _answer(CROWDED)
    try:
        write = services.writer.write(taken.messages, taken.refusals)
        is_done = write.wait(ACKNOWLEDGED_S)
    except Full:
        return _answer(FULL)
    except Unavailable as error:
        return _answer(later(503, str(error)))
    finally:
        services.turns.release()
    return _answer(of_write(taken, write) if is_done else LATE)


def _answer(answer: Answer) -> Response:
    return json_answer(answer.content, answer.status, RETRY_AFTER if answer.is_temporary else None)


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
