"""The page about a run."""

from __future__ import annotations

import re

from iot.loadtest.report import render
from iot.loadtest.results import Report
from tests.support.load_results import make_result


def test_the_report_is_one_file_and_escapes_its_content():
    report = Report(environment={"cpu": "<b>&"}, tests=[make_result(error="</script><script>alert(1)</script>")])
    page = render(report).decode()
    assert "&lt;b&gt;&amp;" in page
    assert "<script>alert(1)" not in page
    assert "Plotly.newPlot" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=.?(http|//|/)", page)
