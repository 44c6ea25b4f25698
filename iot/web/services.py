"""What the endpoints of one application share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, cast

from flask import Flask, current_app

from iot.results.store import Store
from iot.settings import UserError
from iot.web import openapi
from iot.web.events import EventStreams
from iot.web.prometheus import Exporter
from iot.web.responses import Body, Cache, json_body
from iot.web.snapshots import Snapshots

# How long a browser may use plotly.js without asking again.
PLOTLY_MAX_AGE_S = 24 * 3600


class Services:
    """The database, the snapshots of it, the streams, and answers that are made once."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.store: Store = config["STORE"]
        self.clock: Callable[[], float] = config["CLOCK"]
        self.streams = EventStreams()
        self.snapshots = Snapshots(self.store, self.clock, self.streams.publish_metrics)
        self.exporter = Exporter(self.snapshots.latest, lambda: self.streams.open, self.clock)
        self.cache = Cache()
        self.openapi = json_body(openapi.document(bool(config["TOKEN"])))

    def refresh(self) -> None:
        """Take a new snapshot after a write, so that the next answer shows it."""
        # Where that fails, the write still stands, and the snapshots say what is wrong.
        with suppress(UserError):
            self.snapshots.refresh()

    @cached_property
    def plotly(self) -> Body:
        """plotly.js, read from the installed package without importing it."""
        script = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
        content = Path(str(script)).read_bytes()
        return Body(content, "text/javascript", {"Cache-Control": f"max-age={PLOTLY_MAX_AGE_S}"})


def of(app: Flask) -> Services:
    return cast(Services, app.extensions["services"])


def shared() -> Services:
    """The services of the application that handles the current request."""
    return of(current_app)
