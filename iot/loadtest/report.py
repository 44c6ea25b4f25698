"""The report of a run: one HTML file with tables and Plotly charts that needs no network."""

from __future__ import annotations

from pathlib import Path

import msgspec
from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from iot.loadtest.details import details, number_of, percent_of
from iot.loadtest.latency import in_ms
from iot.loadtest.results import Report
from iot.loadtest.steps import speed_varied

FOLDER = Path(__file__).parent


def render(report: Report) -> bytes:
    """The report as HTML."""
    made = Environment(loader=FileSystemLoader([FOLDER / "templates", FOLDER / "static"]), autoescape=True)
    made.filters |= {"ms": in_ms, "count": number_of, "percent": percent_of, "speed_varied": speed_varied}
    page: str = made.get_template("load_report.html").render(
        report=report,
        details=[details(result) for result in report.tests],
        data=msgspec.to_builtins(report),
        plotly=get_plotlyjs(),
    )
    return page.encode()
