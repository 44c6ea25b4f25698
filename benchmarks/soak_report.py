"""The result of a soak test as lines for the terminal, and as a page with charts."""

from __future__ import annotations

from pathlib import Path

import msgspec
from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from benchmarks.soak_growth import WARM_UP, Sample, Soak

ROOT = Path(__file__).parents[1]


def line(sample: Sample) -> str:
    """Return one sample as a line."""
    parts = [f"{what} {mb:,.0f}" for what, mb in (sample.memory_mb | sample.files_mb).items()]
    return f"{sample.at_s / 60:6.1f} min   MB: {', '.join(parts)}"


def table(soak: Soak) -> list[str]:
    """Return the lines of a table: start and end of the time after the warm-up."""
    lines = [f"{'MB, after the warm-up':<24}{'start':>10}{'end':>10}{'growth':>10}{'maximum':>10}"]
    for trends in soak.trends():
        for trend in trends:
            lines.append(
                f"{trend.what:<24}{trend.start_mb:>10,.1f}{trend.end_mb:>10,.1f}{trend.growth_pct:>+9.1f}%"
                f"{trend.most_mb:>10,.1f}{'   GREW' if trend.grew else ''}"
            )
        lines.append("")
    return lines


def write_page(path: Path, soak: Soak) -> None:
    """Write the table and charts as one HTML file that needs no network."""
    environment = Environment(
        loader=FileSystemLoader([ROOT / "benchmarks", ROOT / "iot" / "loadtest" / "static"]), autoescape=True
    )
    page = environment.get_template("soak_report.html").render(
        soak=soak,
        groups=dict(zip(("Memory of processes", "Files"), soak.trends(), strict=True)),
        faults=soak.faults(),
        data=msgspec.to_builtins(soak) | {"warm_up": WARM_UP},
        plotly=get_plotlyjs(),
    )
    path.write_text(page, encoding="utf-8")
