"""The dashboard's web server: the page, the API and the stream of events, served from the results database.

It is a process of its own, started by iot_streaming_app.py. It never touches Spark, so it answers in milliseconds
whatever Spark is doing; alerts come to it straight from their topic.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import distribution
from io import FileIO
from pathlib import Path
from typing import Any, cast

import msgspec
from flask import Blueprint, Flask, Response, current_app, render_template, request
from werkzeug.exceptions import HTTPException, InternalServerError

from iot import cli, settings
from iot.kafka.alert_feed import AlertFeed
from iot.processes import StopSignal
from iot.results.store import DATABASE_URL, Store
from iot.settings import SLIDE_S, Kafka, UserError
from iot.terminal import printable
from iot.web import access, openapi
from iot.web.access import require_token as require_token  # iot_streaming_app.py has its flags from here
from iot.web.events import EventStreams
from iot.web.parameters import ParameterError, Parameters
from iot.web.prometheus import Exporter
from iot.web.responses import Body, Cache, json_body, windows_csv, windows_json
from iot.web.server import HAND_OVER, Server
from iot.web.snapshots import Snapshots

HOST = "127.0.0.1"
PORT = 5000
ROOT = Path(__file__).parents[2]
PLOTLY_MAX_AGE_S = 24 * 3600
LOOK_EVERY_S = 1.0
# Of one answer: 24 hours of a dozen sensor types.
MAX_WINDOWS = 100_000
SLIDE_US = SLIDE_S * 1_000_000

site = Blueprint("site", __name__)


class Dashboard:
    """What the endpoints answer from; one for an application."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.store: Store = config["STORE"]
        self.clock: Callable[[], float] = config["CLOCK"]
        self.streams = EventStreams()
        self.snapshots = Snapshots(self.store, self.clock, self.streams.publish_metrics)
        self.exporter = Exporter(self.snapshots.latest, lambda: self.streams.open, self.clock)
        self.cache = Cache()
        self.openapi = json_body(openapi.document(bool(config["TOKEN"])))

    @cached_property
    def plotly(self) -> Body:
        """plotly.js, out of the installed package, which is not imported for it."""
        script = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
        content = Path(str(script)).read_bytes()
        return Body(content, "text/javascript", {"Cache-Control": f"max-age={PLOTLY_MAX_AGE_S}"})


def create_app(config: Mapping[str, Any]) -> Flask:
    """The application.

    Args:
        config: ``STORE``, the database; optionally ``TOKEN``, ``HOST`` and ``PORT``, which say who may read, and
            ``CLOCK``. ``dashboard(app)`` has the threads that fill it; who serves it starts them.
    """
    app = Flask("iot.web", template_folder="templates", static_folder="static")
    app.config.from_mapping({"CLOCK": time.time, "TOKEN": None, "HOST": HOST, "PORT": PORT} | dict(config))
    app.extensions["dashboard"] = Dashboard(app.config)
    access.protect(app, app.config["HOST"], app.config["PORT"], app.config["TOKEN"])
    app.register_blueprint(site)
    app.register_error_handler(ParameterError, lambda error: _failure(400, str(error)))
    app.register_error_handler(UserError, lambda error: _failure(503, str(error)))
    app.register_error_handler(HTTPException, _http_failure)
    app.register_error_handler(Exception, _unexpected)
    return app


def dashboard(app: Flask) -> Dashboard:
    return cast(Dashboard, app.extensions["dashboard"])


# Endpoints ------------------------------------------------------------------------------------------------------------


@site.get("/")
def page() -> Response:
    return _page("dashboard.html")


@site.get("/static/plotly.min.js")
def plotly() -> Response:
    return _dashboard().plotly.answer(request)


@site.get("/api/metrics")
def metrics() -> Response:
    return _dashboard().snapshots.latest().body.answer(request)


@site.get("/api/alerts")
def alerts() -> Response:
    given = Parameters(request.args)
    limit = given.whole("limit", openapi.DEFAULT_ALERTS, 1, openapi.MAX_ALERTS)
    question = (limit, given.string("sensor_type"), given.string("sensor_id"), given.moment_us("since"))
    here = _dashboard()
    snapshot = here.snapshots.latest()

    def make() -> Body:
        found = here.store.alerts(*question)
        return json_body({"alerts": found, "total_alerts": snapshot.metrics["total_alerts"]})

    return here.cache.get(("alerts", *question), snapshot.version, make).answer(request)


@site.get("/api/windows")
def windows() -> Response:
    given = Parameters(request.args)
    wanted = given.choice("format", ("json", "csv"))
    since_us, until_us = given.moment_us("since"), given.moment_us("until")
    here = _dashboard()
    if given.has("minutes") and (given.has("since") or given.has("until")):
        raise ParameterError("minutes: not together with since or until")
    if since_us is not None and until_us is not None and until_us < since_us:
        raise ParameterError("until: expected not before since")
    minutes = given.whole("minutes", openapi.DEFAULT_MINUTES, 1, openapi.MAX_MINUTES)
    if since_us is None and until_us is None:
        since_us = int((here.clock() - 60 * minutes) * 1e6)
    # Windows end at whole slides: so the question is the same until the next one, and need not be answered again.
    since_s = None if since_us is None else -(-since_us // SLIDE_US) * SLIDE_S
    until_s = None if until_us is None else until_us // SLIDE_US * SLIDE_S
    question = (since_s, until_s, given.string("sensor_type"), given.string("location"))

    def make() -> Body:
        found = here.store.windows(*question, limit=MAX_WINDOWS + 1)
        if len(found) > MAX_WINDOWS:
            raise ParameterError(f"more than {MAX_WINDOWS:,} windows: ask for less time, or for one sensor_type")
        return windows_csv(found) if wanted == "csv" else windows_json(found)

    version = here.snapshots.latest().version
    return here.cache.get(("windows", wanted, *question), version, make).answer(request)


@site.get("/api/stream")
def stream() -> Response:
    streams, hand_over = _dashboard().streams, request.environ.get(HAND_OVER)
    if hand_over is None:
        return _failure(501, "this web server cannot push events; read /api/metrics and /api/alerts instead")
    if not streams.has_room:
        return _failure(503, "too many event streams are open", {"Retry-After": "10"})
    response = Response(iter(()), mimetype="text/event-stream", headers={"Connection": "close"})
    if request.method == "GET":
        last_event_id = request.headers.get("Last-Event-ID", "")
        hand_over(lambda connection: streams.add(connection, last_event_id))
    return response


@site.get("/api/openapi.json")
def api() -> Response:
    return _dashboard().openapi.answer(request)


@site.get("/healthz")
def healthz() -> Response:
    problem = _dashboard().snapshots.problem()
    return _json({"healthy": problem is None, "reason": problem}, 503 if problem else 200)


@site.get("/metrics")
def prometheus() -> Response:
    body, content_type = _dashboard().exporter.expose(request.headers.get("Accept", ""))
    return Response(body, content_type=content_type)


# Answers --------------------------------------------------------------------------------------------------------------


def _dashboard() -> Dashboard:
    return dashboard(current_app)


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, mimetype="application/json")


def _page(template: str, status: int = 200, text: str = "") -> Response:
    content = render_template(template, status=status, text=text)
    return Response(content, status, {"Cache-Control": "no-cache"}, mimetype="text/html")


def _failure(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error: JSON where programs read, a page where people do."""
    if request.path.startswith("/api") or request.path in ("/healthz", "/metrics"):
        return _json({"error": text}, status, headers)
    page = _page("message.html", status, text)
    page.headers.extend(headers or {})
    return page


def _http_failure(error: HTTPException) -> Response:
    if error.response is not None:
        return cast(Response, error.response)
    headers = {name: value for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")}
    if error.code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _failure(error.code or 500, error.description or error.name, headers)


def _unexpected(error: Exception) -> Response:
    what = f"{request.method} {request.path}: {type(error).__name__}: {settings.reason(error)}"
    print(f"error: {printable(what)}", file=sys.stderr, flush=True)
    return _failure(500, InternalServerError.description)


# The process ----------------------------------------------------------------------------------------------------------


def serve(args: argparse.Namespace, stop: threading.Event) -> None:
    """Serve until told to stop.

    Raises:
        UserError: something that the user can cure.
    """
    require_token(args.host, args.token, args.insecure)
    kafka = cli.kafka_from(args)
    with ExitStack() as stack:
        store = Store(args.database_url)
        stack.callback(store.close)
        app = create_app({"STORE": store, "TOKEN": args.token, "HOST": args.host, "PORT": args.port})
        here = dashboard(app)
        server = Server(args.host, args.port, app)
        server.start()
        stack.callback(server.stop)
        here.streams.start()
        stack.callback(here.streams.close)
        here.snapshots.start()
        stack.callback(here.snapshots.close)
        if args.told_by_stdin:
            # Without a buffer, whose lock a thread that still waits would hold when Python ends.
            lines = FileIO(0, closefd=False)
            threading.Thread(target=listen, args=(lines, here.snapshots), name="told", daemon=True).start()
        follow_alerts(kafka, args.topic, here.streams, stop)


def listen(lines: Iterable[bytes], snapshots: Snapshots) -> None:
    """Take over what the processing says about the database when it cannot write that into it: a line each time."""
    for line in lines:
        snapshots.told = line.decode().strip() or None


def follow_alerts(kafka: Kafka, topic: str, streams: EventStreams, stop: threading.Event) -> None:
    """Push the alerts that are raised from now on, until told to stop.

    Raises:
        UserError: Kafka cannot be reached in this way at all.
    """
    while not stop.is_set():
        feed = AlertFeed(kafka, topic, streams.publish_alerts)
        feed.start()
        while not stop.wait(LOOK_EVERY_S) and not feed.failure:
            pass
        feed.close(timeout_s=0.5)
        if isinstance(feed.failure, UserError):
            raise feed.failure
        if feed.failure:
            print(f"error: alerts were not pushed: {settings.reason(feed.failure)}; trying again", file=sys.stderr)


def address(host: str) -> str:
    """The host to put into a URL, for a server that listens at ``host``."""
    if host in ("0.0.0.0", "::", ""):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the web server that iot_streaming_app.py has too."""
    group = parser.add_argument_group("results and the page")
    group.add_argument("--host", default=HOST, help="the address to listen at; 0.0.0.0: reachable from other machines")
    group.add_argument("--port", type=cli.port_number, default=PORT, help="the port to listen at")
    # As the defaults of the flags themselves, --help would show them.
    parser.set_defaults(
        token=os.environ.get("IOT_TOKEN") or None, database_url=os.environ.get("IOT_DATABASE_URL") or DATABASE_URL
    )
    group.add_argument(
        "--database-url",
        metavar="URL",
        default=argparse.SUPPRESS,
        help=f"where results are kept, {DATABASE_URL} unless told; one with a password better in IOT_DATABASE_URL",
    )
    group.add_argument(
        "--token",
        default=argparse.SUPPRESS,
        help="what readers must know; better in IOT_TOKEN, because other users see command lines",
    )
    group.add_argument("--insecure", action="store_true", help="let everyone who reaches --host read without a token")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add_arguments(parser)
    parser.add_argument("--told-by-stdin", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: serve(args, StopSignal().install().event))
