"""The Flask application: one function for each endpoint, but for those of ``alarms``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Flask, Response, current_app, render_template, request

from iot.settings import SLIDE_S, UserError
from iot.web import access, alarms, failures, openapi, writing
from iot.web.flags import HOST, PORT
from iot.web.listening import INSTANCE_HEADER
from iot.web.mount import mounted
from iot.web.parameters import ParameterError, Parameters
from iot.web.responses import Body, json_answer, json_body, windows_csv, windows_json
from iot.web.schemas import MAX_ALERTS, Alerts, Error, Health
from iot.web.server import HAND_OVER
from iot.web.services import Services, shared
from iot.web.writing import BodyError

# Maximum number of windows in one answer: 24 hours of a dozen sensor types.
MAX_WINDOWS = 100_000
# A proxy on the way must pass every event on at once: the last two keep nginx from collecting and compressing them.
STREAM_HEADERS = {"Connection": "close", "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
SLIDE_US = SLIDE_S * 1_000_000

site = Blueprint("site", __name__)


def create_app(config: Mapping[str, Any]) -> Flask:
    """Make the application. The caller starts the threads in ``services.of(app)``.

    Args:
        config: ``STORE``, the results database; optionally ``TOKEN``, ``HOST`` and ``PORT``, which decide who may
            read; ``INSTANCE``, an id by which whoever started the server recognises it; and ``CLOCK``, which returns
            seconds since the epoch.
    """
    app = Flask("iot.web", template_folder="templates", static_folder="static")
    defaults = {"CLOCK": time.time, "TOKEN": None, "HOST": HOST, "PORT": PORT, "INSTANCE": ""}
    app.config.from_mapping(defaults | dict(config))
    app.extensions["services"] = Services(app.config)
    access.protect(app, app.config["HOST"], app.config["PORT"], app.config["TOKEN"])
    writing.protect(app)
    app.register_blueprint(site)
    app.register_blueprint(alarms.site)
    app.wsgi_app = mounted(app.wsgi_app)  # type: ignore[method-assign]
    app.register_error_handler(ParameterError, lambda error: _failure(400, str(error)))
    app.register_error_handler(BodyError, lambda error: _failure(400, str(error)))
    app.register_error_handler(UserError, lambda error: _failure(503, str(error)))
    failures.handle(app, _failure)
    return app


# Endpoints ------------------------------------------------------------------------------------------------------------


@site.get("/")
def page() -> Response:
    return _page("dashboard.html")


@site.get("/static/plotly.min.js")
def plotly() -> Response:
    return shared().plotly.answer(request)


@site.get("/api/metrics")
def metrics() -> Response:
    return shared().snapshots.latest().body.answer(request)


@site.get("/api/alerts")
def alerts() -> Response:
    given = Parameters(request.args)
    limit = given.whole("limit", openapi.DEFAULT_ALERTS, 1, MAX_ALERTS)
    question = (limit, given.string("sensor_type"), given.string("sensor_id"), given.moment_us("since"))
    services = shared()
    snapshot = services.snapshots.latest()

    def make() -> Body:
        found = services.store.alerts(*question)
        return json_body(Alerts(found, snapshot.metrics.total_alerts))

    return services.cache.get(("alerts", *question), snapshot.version, make).answer(request)


@site.get("/api/windows")
def windows() -> Response:
    given = Parameters(request.args)
    wanted = given.choice("format", ("json", "csv"))
    since_us, until_us = given.moment_us("since"), given.moment_us("until")
    services = shared()
    if given.has("minutes") and (given.has("since") or given.has("until")):
        raise ParameterError("minutes: cannot be combined with since or until")
    if since_us is not None and until_us is not None and until_us < since_us:
        raise ParameterError("until: must not be before since")
    minutes = given.whole("minutes", openapi.DEFAULT_MINUTES, 1, openapi.MAX_MINUTES)
    if since_us is None and until_us is None:
        since_us = int((services.clock() - 60 * minutes) * 1e6)
    # Windows end at multiples of the slide. Rounded to those, requests within one slide share a cached answer.
    since_s = None if since_us is None else -(-since_us // SLIDE_US) * SLIDE_S
    until_s = None if until_us is None else until_us // SLIDE_US * SLIDE_S
    question = (since_s, until_s, given.string("sensor_type"), given.string("location"))

    def make() -> Body:
        found = services.store.windows(*question, limit=MAX_WINDOWS + 1)
        if len(found) > MAX_WINDOWS:
            raise ParameterError(f"more than {MAX_WINDOWS:,} windows: ask for less time, or for one sensor_type")
        return windows_csv(found) if wanted == "csv" else windows_json(found)

    version = services.snapshots.latest().version
    return services.cache.get(("windows", wanted, *question), version, make).answer(request)


@site.get("/api/stream")
def stream() -> Response:
    streams, hand_over = shared().streams, request.environ.get(HAND_OVER)
    if hand_over is None:
        return _failure(501, "this web server cannot push events: poll /api/metrics and /api/alerts instead")
    if not streams.has_room:
        return _failure(503, "too many event streams are open", {"Retry-After": "10"})
    response = Response(iter(()), mimetype="text/event-stream", headers=STREAM_HEADERS)
    if request.method == "GET":
        last_event_id = request.headers.get("Last-Event-ID", "")
        hand_over(lambda connection: streams.add(connection, last_event_id))
    return response


@site.get("/api/openapi.json")
def api() -> Response:
    return shared().openapi.answer(request)


@site.get("/healthz")
def healthz() -> Response:
    problem = shared().snapshots.problem()
    headers = {INSTANCE_HEADER: current_app.config["INSTANCE"]}
    return json_answer(Health(problem is None, problem), 503 if problem else 200, headers)


@site.get("/metrics")
def prometheus() -> Response:
    body, content_type = shared().exporter.expose(request.headers.get("Accept", ""))
    return Response(body, content_type=content_type)


# Answers --------------------------------------------------------------------------------------------------------------


def _page(template: str, status: int = 200, text: str = "") -> Response:
    # Where the links of the page begin: below a proxy, its own path says nothing about the path in the browser.
    base = f"{request.script_root}/" if request.script_root else ""
    root = base or "../" * (request.path.count("/") - 1)
    content = render_template(template, status=status, text=text, base=base, root=root)
    return Response(content, status, {"Cache-Control": "no-cache"}, mimetype="text/html")


def _failure(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error: JSON for programs, a page for people."""
    if request.path.startswith("/api") or request.path in ("/healthz", "/metrics"):
        return json_answer(Error(text), status, headers)
    page = _page("message.html", status, text)
    page.headers.extend(headers or {})
    return page
